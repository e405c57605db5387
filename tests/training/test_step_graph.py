"""Steps that are recorded as a CUDA graph is and replayed, on the processor."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tests.helpers import different
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import largedrop as ld
from largedrop.config import Config
from largedrop.data.sampling import batch_indices
from largedrop.data.views.batches import ResidentViews
from largedrop.fast_paths import FastPaths
from largedrop.models.fast import folding
from largedrop.training import graph
from largedrop.training.objectives import make_objective
from largedrop.training.setup import create_network, make_optimizer, set_learning_rate
from largedrop.training.step import TrainingStep

CPU = torch.device("cpu")

pytestmark = pytest.mark.usefixtures("quick_heads")


class Record(TorchDispatchMode):
    """A CUDA graph on the processor: the operations of a step, done again on the same tensors at every replay.

    What a graph cannot hold is refused: values that are read, and tensors made from the host's.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func)
        assert not any(each in name for each in ("local_scalar_dense", "nonzero", "lift_fresh", "is_nonzero")), name
        result = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, result))
        return result

    @torch.no_grad()
    def replay(self) -> None:
        for func, args, kwargs, result in self.calls:
            for recorded, new in zip(tree_leaves(result), tree_leaves(func(*args, **kwargs)), strict=True):
                if isinstance(recorded, Tensor) and recorded.numel() and recorded.data_ptr() != new.data_ptr():
                    torch.ops.aten.copy_(recorded.detach(), new)  # at its address, as a kernel would

    def reset(self) -> None:
        self.calls = []


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> Callable[[TrainingStep], None]:
    """Let a step be recorded and replayed as on a GPU, and networks be folded as there."""
    stream = SimpleNamespace(wait_stream=lambda other: None)
    monkeypatch.setattr(graph, "_side_stream", lambda device: stream)
    monkeypatch.setattr(folding, "_plainly_padded", lambda conv: False)  # what is written for the processor alone
    for name, function in {
        "CUDAGraph": Record,
        "current_stream": lambda device: stream,
        "stream": lambda stream: nullcontext(),
        "set_stream": lambda stream: None,
        "get_rng_state": lambda device: torch.get_rng_state(),
    }.items():
        monkeypatch.setattr(torch.cuda, name, function)

    def install(take: TrainingStep) -> None:
        held = weakref.ref(take)

        def kept() -> list[Tensor]:
            step = held()
            assert step is not None
            states = (value for state in step.optimizer.state.values() for value in state.values())
            return [*step.network.parameters(), *step.network.buffers(), *(each for each in states if each is not None)]

        @contextmanager
        def recording(record: Record, **options: Any) -> Iterator[None]:
            before, drawn = [each.detach().clone() for each in kept()], torch.get_rng_state()
            with record:
                yield
            torch.set_rng_state(drawn)  # on a GPU nothing is computed while a step is recorded
            with torch.no_grad():
                for tensor, value in zip(kept(), before, strict=True):
                    tensor.copy_(value)

        monkeypatch.setattr(torch.cuda, "graph", recording)
        assert take._graphed is not None
        take._graphed._graphed = True

    return install


@pytest.mark.parametrize(
    "changes",
    [
        {"model": "test_resnet"},
        {"optimizer": "adamw", "precision": "bfloat16", "masks": 4, "dropout": 0.75},
        {"model": "test_resnet", "precision": "bfloat16", "objective": "coral", "penalty": 1.0},
        {"model": "test_resnet", "block_dropout": 0.5},
        {"model": "test_convnext", "optimizer": "adamw"},
        {"objective": "mixout", "penalty": 0.8},
    ],
)
def test_a_recorded_step_is_the_step_bit_for_bit(
    data: ld.Dataset, config: Config, changes: dict[str, Any], recorded: Callable[[TrainingStep], None]
) -> None:
    """Views, folded layers, objective and optimiser, with new draws and another rate while it is replayed."""
    changed = replace(config, steps=8, decay_at=0.75, lr=0.01, **changes)
    views, split = ResidentViews(data, CPU), changed.split_of(data)
    left: list[weakref.ref[torch.nn.Module]] = []
    paths = FastPaths(folded=True, kernels=True)

    def trained(record: bool) -> tuple[list[tuple[float, float]], dict[str, Tensor]]:
        network = create_network(changed, data.classes)
        network.spec = replace(network.spec, freeze_batchnorm=True)
        made = make_optimizer(changed, network)
        for group in made.param_groups:  # as on a GPU
            group["lr"] = torch.tensor(group["lr"], dtype=torch.float32)
            group["capturable"] = "capturable" in group
        objective = make_objective(changed.objective, changed.penalty, None)
        objective.bind(network, made)

        def finish(inputs: Tensor) -> Tensor:
            return views.finish(inputs, network.spec)

        left.extend(weakref.ref(module) for module in network.modules())
        with folding.speed_up(network, paths):
            network.train()
            take = TrainingStep(network, made, changed.precision, finish, objective, len(split.train), note=pytest.fail)
            if record:
                recorded(take)
            for step in range(changed.steps):
                torch.manual_seed(step)
                set_learning_rate(made, changed, step)
                chosen = batch_indices(split.train, changed.batch, 0, step)
                labels = torch.from_numpy(np.asarray(data.labels[chosen]))
                take(views.inputs(chosen, network.spec, 0, step), labels, step)
            read = take.read()
            take.close()
        return read, network.state_dict()

    gc.collect()
    gc.disable()  # which would free what refers to itself
    try:
        (losses, weights), (replayed, others) = trained(False), trained(True)
        assert not any(module() for module in left)
    finally:
        gc.enable()
    assert len(set(losses)) == changed.steps
    assert replayed == losses
    assert different(weights, others) == []
