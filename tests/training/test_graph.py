"""Graphed steps: on the processor the function itself; for the order of calls on a GPU, a stand-in for CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

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
        for name in ("CUDAGraph", "graph", "stream", "current_stream", "Stream"):
            monkeypatch.setattr(torch.cuda, name, getattr(self, name))

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

    def CUDAGraph(self) -> Any:  # noqa: N802
        cuda = self

        class Graph:
            def __init__(self) -> None:
                self.recorded: list[Callable[[], None]] = []

            def replay(self) -> None:
                cuda.events.append(f"replay on {cuda.current}")
                for each in self.recorded:
                    each()

        return Graph()

    @contextmanager
    def graph(self, graph: Any, stream: Cuda.Line, capture_error_mode: str) -> Iterator[None]:
        self.events.append(f"record on {stream.name}")
        self.recorded = graph.recorded
        self.recording = True
        yield
        self.recording = False


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
