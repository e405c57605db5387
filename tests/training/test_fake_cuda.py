"""Training steps and evaluations on pretended CUDA tensors: everything is on the device, and nothing waits for it.

torch's fake tensors have a shape, a type and a device and no values, so the code for a GPU runs where there is none.
Two things cannot: the engine of autograd, which asks for a driver, so that a backward pass only leaves gradients of the
right form here; and the fused optimisers, whose arguments are checked instead. Values are those of
``test_step.test_a_recorded_step_is_the_step_bit_for_bit``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tests.helpers import FAKE_CUDA
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from largedrop.config import Config
from largedrop.data.views import batches as views_module
from largedrop.data.views import device as resident
from largedrop.data.views.device import ResidentImages, pack_draws
from largedrop.data.views.draws import draw, largest_crop
from largedrop.fast_paths import FastPaths
from largedrop.models import masks
from largedrop.models.fast.folding import speed_up
from largedrop.models.network import Network
from largedrop.training import evaluation, graph
from largedrop.training.averages.ema import ExponentialAverage
from largedrop.training.objectives import make_objective
from largedrop.training.setup import create_network, make_optimizer, set_learning_rate
from largedrop.training.step import TrainingStep

pytestmark = FAKE_CUDA

CUDA = torch.device("cuda:0")
CLASSES = ("a", "b", "c")
READS = ("local_scalar_dense", "nonzero", "is_nonzero", "equal.default", "_unique")
ALL = FastPaths(resident=True, recorded=True, folded=True)


class Look(TorchDispatchMode):
    """What waits for the device: values that are read on the host, and copies that are not told not to wait."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, name = kwargs or {}, str(func)
        if any(each in name for each in READS) and args[0].device.type == "cuda":
            self.waits.append(name)
        result = func(*args, **kwargs)
        if name in ("aten._to_copy.default", "aten.copy_.default") and isinstance(result, Tensor):
            source = args[0] if "_to_copy" in name else args[1]
            to_device = result.device.type == "cuda"
            waits = not (kwargs.get("non_blocking") or (len(args) > 2 and args[2]))
            if source.device != result.device and (waits or not to_device):
                self.waits.append(f"{name} from {source.device} to {result.device}")
        return result


def on_the_device(network: Network) -> None:
    """Put a network there, as ``Network.to`` would."""
    for module in network.modules():
        for store in (module._parameters, module._buffers):
            for name, tensor in store.items():
                if tensor is not None:
                    made = torch.empty(tensor.shape, dtype=tensor.dtype, device=CUDA)
                    made = made.contiguous(memory_format=torch.channels_last) if made.dim() == 4 else made
                    store[name] = nn.Parameter(made) if isinstance(tensor, nn.Parameter) else made  # type: ignore[assignment]


def laid_out_alike(one: Tensor, other: Tensor) -> bool:
    strides = zip(one.shape, one.stride(), other.stride(), strict=True)
    return one.shape == other.shape and all(mine == theirs for size, mine, theirs in strides if size != 1)


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Fake CUDA tensors within a block, for a network's parameters; yields what waited."""

    def fused(parameters: list[Tensor], gradients: list[Tensor], *states: Any, lr: Any, **rest: Any) -> None:
        assert (lr.device.type, lr.dtype) == ("cuda", torch.float32)  # a replayed step reads it there
        for each in filter(None, (gradients, *states)):
            for parameter, tensor in zip(parameters, each, strict=True):
                assert tensor.device == parameter.device
                assert not tensor.dim() or laid_out_alike(parameter, tensor)

    for name in ("_fused_sgd_", "_fused_adamw_"):
        monkeypatch.setattr(torch, name, fused)
    monkeypatch.setattr("torch.amp.autocast_mode.torch.cuda.amp.common.amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)
    monkeypatch.setattr(graph.GraphedStep, "__call__", lambda self, *inputs: graph._copies(self._function(*inputs)))
    for module in (resident, views_module):
        monkeypatch.setattr(module, "pinned", lambda tensor, device: tensor)

    @contextmanager
    def within(parameters: list[Tensor]) -> Iterator[Look]:
        def backward(self: Tensor, *rest: Any, **options: Any) -> None:
            assert (self.device.type, self.dim(), self.dtype) == ("cuda", 0, torch.float32)
            for each in parameters:
                each.grad = torch.empty_like(each)

        with monkeypatch.context() as patch:
            patch.setattr(Tensor, "backward", backward)
            # MLDG's order of the domains is drawn on the host.
            patch.setattr(torch, "randperm", lambda count, **options: SimpleNamespace(tolist=lambda: [*range(count)]))
            patch.setattr(torch.autograd, "grad", lambda of, to, **options: tuple(map(torch.empty_like, to)))
            with Look() as look:
                yield look

    yield within
    masks._strides.cache_clear()


def images() -> ResidentImages:
    """Fifty images in the device's memory."""
    made = object.__new__(ResidentImages)
    made.shapes = np.array([[40, 52]] * 50, dtype=np.int64)
    made.crop = largest_crop(made.shapes)
    made.pixels = torch.empty(3 * 50 * 40 * 52, dtype=torch.uint8, device=CUDA)
    made.index = torch.empty((50, 3), dtype=torch.int64, device=CUDA)
    made.device = CUDA
    return made


CASES: list[tuple[FastPaths, dict[str, Any]]] = [
    (ALL, {"model": "test_resnet", "precision": "bfloat16"}),
    (ALL, {"precision": "bfloat16", "objective": "coral", "optimizer": "adamw", "masks": 4}),
    (ALL, {"model": "test_convnext", "optimizer": "adamw", "class_weights": "balanced"}),
    (ALL, {"model": "test_vit", "size": 160, "precision": "bfloat16"}),
    (ALL, {"model": "test_resnet", "block_dropout": 0.3}),
    (FastPaths(), {"precision": "bfloat16", "optimizer": "adamw"}),
    (FastPaths(), {"model": "test_resnet", "objective": "vrex"}),
    (FastPaths(folded=True), {"objective": "irm"}),
    (ALL, {"objective": "mldg"}),
    (ALL, {"objective": "mixout", "penalty": 0.5}),
    (ALL, {"objective": "l2sp", "optimizer": "adamw"}),
]


@pytest.mark.parametrize(("paths", "changes"), CASES, ids=str)
def test_a_step_is_on_the_device_and_never_waits_for_it(
    config: Config, pretended: Any, paths: FastPaths, changes: dict[str, Any]
) -> None:
    changed = replace(config, batch=3, steps=10, **changes)
    network = create_network(changed, CLASSES)
    network.spec = replace(network.spec, freeze_batchnorm=True)
    chosen = np.arange(9)
    labels = torch.from_numpy(chosen % 3)
    with FakeTensorMode(allow_non_fake_inputs=True):
        on_the_device(network)
        optimizer = make_optimizer(changed, network)
        objective = make_objective(changed.objective, changed.penalty, changed.penalty_after)
        objective.bind(network, optimizer)
        if changed.class_weights == "balanced":
            objective.weigh(torch.ones(3, device=CUDA))
        held = images()
        packed = pack_draws(held, chosen, draw([(40, 52)] * 9, 0, 0))
        inputs = packed if paths.resident else torch.zeros((9, 3, changed.size, changed.size))

        def finish(given: Tensor) -> Tensor:
            if not paths.resident:
                return given
            spec = network.spec
            return resident.packed_training_batch(held, given, spec.size, spec.mean, spec.std)

        average = ExponentialAverage(0.9)
        parameters = list(network.parameters())
        with speed_up(network, paths) as folding, pretended(parameters) as look:
            assert (len(folding) > 0) == (paths.folded and changed.model in ("test_resnet", "test_efficientnet"))
            network.train()
            take = TrainingStep(
                network, optimizer, changed.precision, finish, objective, 3, note=pytest.fail, record=paths.recorded
            )
            assert (take._graphed is not None) == (paths.recorded and objective.recordable)
            for step in range(2):
                set_learning_rate(optimizer, changed, step)
                take(inputs, labels, step)
                average.after_step(network)
        # What several masks share is made once, before a step is recorded; with a real GPU that copy is not dispatched.
        once = changed.masks > 1 and not torch.cuda.is_available()
        assert look.waits == ["aten._to_copy.default from cpu to cuda:0"] * once
        assert all(laid_out_alike(each, each.grad) for each in parameters if each.grad is not None)
        assert {each.device.type for each in network.state_dict().values()} == {"cuda"}
        states = [value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor)]
        assert {each.device.type for each in states} == {"cuda"}
        assert [each.device.type for each in take._unread] == ["cuda"] * 2
        take.close()


def test_an_evaluation_reads_its_result_alone(config: Config, pretended: Any) -> None:
    network = create_network(replace(config, model="test_resnet"), CLASSES)
    network.spec = replace(network.spec, freeze_batchnorm=True)
    with FakeTensorMode(allow_non_fake_inputs=True):
        on_the_device(network)
        held = images()
        views: Any = SimpleNamespace(
            evaluation=lambda indices, spec: resident.device_evaluation_batch(
                held, indices, spec.size, spec.mean, spec.std
            )
        )
        with speed_up(network, ALL), pretended([]) as look:
            found = evaluation.representations(network, views, np.arange(50), "bfloat16")
    assert (found.device.type, found.dtype, len(found)) == ("cpu", torch.float32, 50)
    assert look.waits == ["aten._to_copy.default from cuda:0 to cpu"]


def test_what_waits_is_seen(config: Config, pretended: Any) -> None:
    with FakeTensorMode(allow_non_fake_inputs=True), pretended([]) as look:
        held = torch.zeros(3, device=CUDA)
        torch.zeros(3).to(CUDA)
        held.copy_(torch.ones(3))
        held.cpu()
        assert look.waits == [
            "aten._to_copy.default from cpu to cuda:0",
            "aten.copy_.default from cpu to cuda:0",
            "aten._to_copy.default from cuda:0 to cpu",
        ]
        held.copy_(torch.ones(3), non_blocking=True)
        assert len(look.waits) == 3
        with pytest.raises(DataDependentOutputException):
            float(held[0])
        assert look.waits[3:] == ["aten._local_scalar_dense.default"]
