"""Graphed steps: on the processor the function itself; for the order of calls on a GPU, a stand-in for CUDA graphs."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from largedrop.training import graph as module
from largedrop.training.graph import GraphedStep

CPU = torch.device("cpu")


def make_step(dropout: float = 0.0) -> tuple[nn.Linear, Callable[[Tensor, Tensor], tuple[Tensor, ...]], Tensor]:
    """A linear classifier, its training step, and the learning rate as a tensor."""
    torch.manual_seed(0)
    model, rate = nn.Linear(5, 3), torch.tensor(0.1)
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9, fused=True)

    def step(images: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
        outputs = model(F.dropout(images, dropout))
        loss = F.cross_entropy(outputs, labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return loss, outputs.square().mean().sqrt()

    return model, step, rate


def batches(count: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(4, 5, generator=generator), torch.randint(3, (4,), generator=generator)) for _ in range(count)]


def test_on_the_processor_it_is_the_function() -> None:
    plain, step, _ = make_step()
    expected = [step(*batch) for batch in batches(6)]
    model, step, _ = make_step()
    graphed = GraphedStep(step, CPU)
    found = [graphed(*batch) for batch in batches(6)]
    for ours, theirs in zip(found, expected, strict=True):
        assert len(ours) == 2
        assert all(torch.equal(mine, other) for mine, other in zip(ours, theirs, strict=True))
        assert not any(each.requires_grad for each in ours)
    assert all(torch.equal(mine, other) for mine, other in zip(model.parameters(), plain.parameters(), strict=True))
    assert found[0][0] != found[5][0]


def test_other_shapes_and_types_are_refused() -> None:
    _, step, _ = make_step()
    graphed = GraphedStep(step, CPU)
    images, labels = batches(1)[0]
    graphed(images, labels)
    with pytest.raises(ValueError) as caught:
        graphed(images[:3], labels[:3])
    assert str(caught.value) == (
        "the step was first called with (4, 5) torch.float32, (4,) torch.int64 "
        "and is now called with (3, 5) torch.float32, (3,) torch.int64"
    )
    for wrong in ((images.double(), labels), (images,), (images, labels, labels)):
        with pytest.raises(ValueError, match="is now called with"):
            graphed(*wrong)
    graphed(images, labels)


@pytest.mark.parametrize("warmup", [0, -1])
def test_there_is_a_warm_up(warmup: int) -> None:
    with pytest.raises(ValueError, match="warmup must be 1 or more"):
        GraphedStep(lambda: (), CPU, warmup)


class Cuda:
    """A stand-in for CUDA's graphs: what is called while recording is not done, but done again at every replay."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.recording = False
        self.events: list[str] = []
        self.current = "main"
        self.broken = False
        for name in (
            *("CUDAGraph", "graph", "stream", "current_stream", "set_stream", "Stream"),
            *("get_rng_state", "set_rng_state"),
        ):
            monkeypatch.setattr(torch.cuda, name, getattr(self, name))
        monkeypatch.setattr(torch, "Generator", lambda device: self)
        generators: dict[int | None, Any] = dict(enumerate(torch.cuda.default_generators))
        generators[None] = self  # the others are those that ``torch.manual_seed`` seeds where there are GPUs
        monkeypatch.setattr(torch.cuda, "default_generators", generators)
        module._side_stream.cache_clear()

    class Line:
        def __init__(self, cuda: Cuda, name: str) -> None:
            self.cuda, self.name = cuda, name

        def wait_stream(self, other: Cuda.Line) -> None:
            self.cuda.events.append(f"{self.name} waits for {other.name}")

    def Stream(self, device: torch.device) -> Cuda.Line:  # noqa: N802
        return self.Line(self, "side")

    def current_stream(self, device: torch.device) -> Cuda.Line:
        return self.Line(self, self.current)

    @contextmanager
    def stream(self, stream: Cuda.Line) -> Iterator[None]:
        self.current = stream.name
        yield
        self.current = "main"

    def set_stream(self, stream: Cuda.Line) -> None:
        self.current = stream.name

    def graphsafe_get_state(self) -> str:
        return "fresh"

    def graphsafe_set_state(self, state: str) -> None:
        self.events.append(f"{state} generator")

    def get_rng_state(self, device: torch.device) -> Tensor:
        return torch.get_rng_state()

    def set_rng_state(self, state: Tensor, device: torch.device) -> None:
        torch.set_rng_state(state)

    def CUDAGraph(self) -> Any:  # noqa: N802
        cuda = self

        class Graph:
            def __init__(self) -> None:
                self.recorded: list[Callable[[], None]] = []

            def replay(self) -> None:
                cuda.events.append(f"replay on {cuda.current}")
                for each in self.recorded:
                    each()

            def reset(self) -> None:
                cuda.events.append("reset")

        return Graph()

    @contextmanager
    def graph(self, graph: Any, stream: Cuda.Line, capture_error_mode: str) -> Iterator[None]:
        self.events.append(f"record on {stream.name}")
        assert not gc.isenabled()  # the collector might free another graph, which would end the recording
        self.recorded = graph.recorded
        self.recording, self.current = True, stream.name
        try:
            yield
        finally:
            self.recording = False
            if self.broken:  # as torch's, which then leaves its stream
                raise RuntimeError("CUDA error: operation failed due to a previous error during capture\nmore about it")
            self.current = "main"


def test_on_a_gpu_every_call_is_one_step_on_its_own_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = Cuda(monkeypatch)
    weight, result = torch.zeros(()), torch.zeros(())
    addresses = set()

    def step(images: Tensor) -> tuple[Tensor, ...]:
        addresses.add(images.data_ptr())

        def kernels() -> None:
            weight.add_(images.sum())
            result.copy_(weight * 10)

        if cuda.recording:
            cuda.recorded.append(kernels)
        else:
            cuda.events.append(f"run on {cuda.current}")
            kernels()
        return (result,)

    graphed = GraphedStep(step, CPU, warmup=2)
    graphed._graphed = True  # all but the stand-in is on the processor
    given = [torch.full((2,), float(number)) for number in (1, 2, 3, 4, 5)]
    found = [graphed(images)[0] for images in given]
    assert [float(each) for each in found] == [20, 60, 120, 200, 300]  # none missed, none twice, none overwritten
    assert len(addresses) == 1
    assert addresses.isdisjoint(images.data_ptr() for images in given)
    warm = ["side waits for main", "run on side", "main waits for side"]
    assert cuda.events == [*warm, *warm, "record on side", *["replay on main"] * 3]
    with pytest.raises(ValueError, match=r"first called with \(2,\) .* now called with \(3,\)"):
        graphed(torch.zeros(3))
    assert gc.isenabled()
    graphed.close()
    assert cuda.events[-1] == "reset"
    with pytest.raises(RuntimeError, match="closed"):
        graphed._warm_up()


@pytest.mark.parametrize(
    ("met", "told"),
    [
        ("", "CUDA error: operation failed due to a previous error during capture"),
        ("CUDA error: operation not permitted\nmore about it", "CUDA error: operation not permitted"),
    ],
)
def test_a_step_that_cannot_be_recorded_is_done_all_the_same(
    monkeypatch: pytest.MonkeyPatch, met: str, told: str
) -> None:
    """With the same weights and random numbers as without a graph, and a line for the user."""
    torch.manual_seed(5)
    plain, step, _ = make_step(dropout=0.5)
    for number, batch in enumerate(batches(6)):
        torch.manual_seed(number)
        step(*batch)
    given = batches(6)
    cuda = Cuda(monkeypatch)
    cuda.broken = True
    model, step, _ = make_step(dropout=0.5)
    kept = [each.detach().clone() for each in model.parameters()]

    def recorded(*inputs: Tensor) -> tuple[Tensor, ...]:
        if cuda.recording:  # it draws, computes nothing, and leaves gradients in the record's memory
            torch.rand(3)
            for parameter in model.parameters():
                parameter.grad = torch.full_like(parameter, torch.nan)
            if met:
                raise RuntimeError(met)
            return (torch.zeros(()),)
        cuda.events.append(f"run on {cuda.current}")
        return step(*inputs)

    notes: list[str] = []
    graphed = GraphedStep(recorded, CPU, warmup=2, note=notes.append)
    graphed._graphed = True
    for number, batch in enumerate(given):
        torch.manual_seed(number)
        graphed(*batch)
    assert notes == [f"training steps are not recorded as a CUDA graph, and may take longer: {told}"]
    assert cuda.events.count("record on side") == cuda.events.count("fresh generator") == 1
    assert cuda.events.count("run on side") == 6
    assert cuda.current == "main"
    assert all(torch.equal(mine, other) for mine, other in zip(model.parameters(), plain.parameters(), strict=True))
    assert not any(torch.equal(mine, before) for mine, before in zip(model.parameters(), kept, strict=True))


def test_other_errors_while_recording_are_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = Cuda(monkeypatch)

    def step() -> tuple[Tensor, ...]:
        if cuda.recording:
            raise ValueError("images, labels")
        return ()

    graphed = GraphedStep(step, CPU, warmup=1)
    graphed._graphed = True
    graphed()
    with pytest.raises(ValueError, match="images, labels"):
        graphed()
    assert cuda.current == "main"
    assert gc.isenabled()
