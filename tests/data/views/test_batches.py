"""Views on the device: the same from the processor's cache as from a device's memory, and no silent way back."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from tests.helpers import Watch
from torch import Tensor

import largedrop as ld
from largedrop.data.views import batches as module
from largedrop.data.views import device as resident
from largedrop.data.views.batches import HostViews, ResidentViews, Views, open_views
from largedrop.fast_paths import VARIABLE
from largedrop.models.network import Spec

CPU, CUDA = torch.device("cpu"), torch.device("cuda:0")
STD = (0.229, 0.224, 0.225)
LEVELS = torch.tensor(STD).view(3, 1, 1) * 255
"""From normalised values to grey levels."""


def spec(size: int = 24) -> Spec:
    return Spec("test_efficientnet", "random", ("a", "b", "c"), size, (0.485, 0.456, 0.406), STD, 0.9, False)


@pytest.fixture
def proven(monkeypatch: pytest.MonkeyPatch) -> None:
    """Images may lie in the GPU's memory."""
    monkeypatch.setenv(VARIABLE, "resident")


@pytest.fixture(params=[HostViews, ResidentViews])
def views(request: pytest.FixtureRequest, data: ld.Dataset) -> Views:
    made: Views = request.param(data, CPU)
    return made


def errors(one: Tensor, other: Tensor) -> Tensor:
    """Differences in grey levels."""
    assert one.shape == other.shape
    return (one - other).abs() * LEVELS


def assert_batch(batch: Tensor, count: int, size: int) -> None:
    assert batch.dtype == torch.float32
    assert batch.shape == (count, 3, size, size)
    assert batch.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("size", [16, 24, 48])
def test_both_give_the_same_views(data: ld.Dataset, size: int) -> None:
    host, device = HostViews(data, CPU), ResidentViews(data, CPU)
    assert host.device == device.device == CPU
    assert host.data is device.data is data
    indices = np.array([0, 53, 7, 7, 30, *range(10, 20)])
    for step in range(3):
        one, other = (each.training(indices, spec(size), 5, step) for each in (host, device))
        assert_batch(one, 15, size)
        assert_batch(other, 15, size)
        assert float(errors(one, other).max()) < 1.5
        assert float(errors(one, other).mean()) < 0.3
        assert float(errors(one[2], one[3]).max()) > 10  # the same image, drawn differently
    one, other = (each.evaluation(indices, spec(size)) for each in (host, device))
    assert_batch(one, 15, size)
    assert_batch(other, 15, size)
    assert float(errors(one, other).max()) < 1.5
    assert float(errors(one, other).mean()) < 0.01
    assert torch.equal(other[2], other[3])
    assert float(errors(other[0], other[1]).max()) > 10


def test_in_two_parts_views_are_the_same(views: Views) -> None:
    indices = np.array([3, 40, 3])
    whole = views.training(indices, spec(), 2, 9)
    inputs = views.inputs(indices, spec(), 2, 9)
    assert len(inputs) == 3
    assert torch.equal(views.finish(inputs, spec()), whole)
    assert_batch(views.finish(inputs, spec()), 3, 24)


def test_what_the_host_prepares(data: ld.Dataset) -> None:
    """For the processor's views all of it, for a device's memory only what is drawn."""
    indices = np.array([3, 40])
    assert HostViews(data).inputs(indices, spec(), 0, 0).shape == (2, 3, 24, 24)
    packed = ResidentViews(data, CPU).inputs(indices, spec(), 0, 0)
    assert packed.shape == (2, 15)
    assert packed.dtype == torch.float64
    assert packed[:, 0].tolist() == [3, 40]


def test_for_a_gpu_inputs_lie_in_pinned_memory(views: Views, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pinned for the GPU of the views, though the thread may have another current one."""
    current: list[torch.device] = []
    pinned: list[list[torch.device]] = []

    @contextmanager
    def within(device: torch.device) -> Iterator[None]:
        current.append(device)
        yield
        current.pop()

    monkeypatch.setattr(torch.cuda, "device", within)
    monkeypatch.setattr(Tensor, "pin_memory", lambda self: pinned.append([*current]) or self)
    found = views.inputs(np.array([3, 40]), spec(), 0, 0)
    assert pinned == []
    views.device = CUDA
    assert torch.equal(views.inputs(np.array([3, 40]), spec(), 0, 0), found)
    assert pinned == [[CUDA]]


def test_draws_hang_on_seed_step_and_position_alone(views: Views) -> None:
    indices = np.array([3, 40, 12])
    whole = views.training(indices, spec(), 1, 4)
    np.random.seed(3)
    torch.manual_seed(3)
    torch.rand(5)
    assert torch.equal(views.training(indices, spec(), 1, 4), whole)
    # Which images stand before and after does not matter; how many there are in all may.
    found = views.training(np.array([7, 40, 51]), spec(), 1, 4)
    torch.testing.assert_close(found[1], whole[1], rtol=0, atol=1e-5)
    assert float(errors(found[0], whole[0]).max()) > 10
    for seed, step in ((2, 4), (1, 5)):
        assert float(errors(views.training(indices, spec(), seed, step), whole).amax((1, 2, 3)).min()) > 10
    moved = views.training(np.array([40, 3, 12]), spec(), 1, 4)
    assert float(errors(moved[1], whole[0]).max()) > 10


def test_on_the_processor_views_are_the_hosts(data: ld.Dataset) -> None:
    found = open_views(data, CPU)
    assert type(found) is HostViews
    assert (found.data, found.device) == (data, CPU)
    assert HostViews(data).device == CPU


def test_on_a_gpu_views_are_the_hosts_unless_others_are_proven(
    data: ld.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "recorded,folded")
    notes: list[str] = []
    found = open_views(data, CUDA, Watch(note=notes.append))
    assert type(found) is HostViews
    assert (found.device, notes) == (CUDA, [])


@pytest.mark.usefixtures("proven")
def test_on_a_gpu_the_images_lie_in_its_memory(data: ld.Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []
    monkeypatch.setattr(module, "ResidentImages", lambda *arguments: given.append(arguments))
    found = open_views(data, CUDA, sharing=3)
    assert type(found) is ResidentViews
    assert (found.data, found.device) == (data, CUDA)
    assert given == [(data.images, CUDA, 3)]


@pytest.mark.usefixtures("proven")
def test_images_that_do_not_fit_are_left_to_the_processor_and_a_note_says_why(
    data: ld.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resident, "_room", lambda device, sharing: 1000 // sharing)
    monkeypatch.setattr(resident, "GIB", 54 * 32 * 32 * 3)
    notes: list[str] = []
    found = open_views(data, torch.device("cuda:1"), Watch(note=notes.append), sharing=2)
    assert type(found) is HostViews
    assert (found.data, found.device) == (data, torch.device("cuda:1"))
    assert notes == [
        "views are made on the processor: the images need 1.0 GiB in the memory of cuda:1, where 0.0 GiB are free for "
        "them; opened with a smaller bound they need less (open_dataset(…, bound=…))"
    ]


@pytest.mark.usefixtures("proven")
def test_other_errors_are_no_reason_to_go_back(data: ld.Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: Any, **options: Any) -> None:
        raise RuntimeError("CUDA driver error")

    monkeypatch.setattr(module, "ResidentImages", broken)
    with pytest.raises(RuntimeError, match="CUDA driver error"):
        open_views(data, CUDA)


def test_the_hosts_views_are_sent_to_the_device(data: ld.Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[tuple[int, ...], torch.device]] = []

    def to_device(tensor: Tensor, device: torch.device) -> Tensor:
        sent.append((tuple(tensor.shape), device))
        return tensor

    monkeypatch.setattr(module, "to_device", to_device)
    HostViews(data, CPU).training(np.array([1]), spec(), 0, 0)
    assert sent.pop() == ((1, 3, 24, 24), CPU)
    made = HostViews(data, CUDA)
    monkeypatch.setattr(module, "pinned", lambda tensor, device: tensor)
    made.training(np.array([1]), spec(), 0, 0)
    made.evaluation(np.array([1, 2]), spec())
    assert sent == [((count, 3, 24, 24), CUDA) for count in (1, 2)]
