"""Views of images in a device's memory: against torch's resizing of each image, and against the processor's views."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from tests.helpers import FAKE_CUDA, refusal
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from largedrop.data.views import device as module
from largedrop.data.views.device import (
    ResidentImages,
    crop_resize,
    device_evaluation_batch,
    pack_draws,
    packed_training_batch,
)
from largedrop.data.views.draws import Draws, draw
from largedrop.data.views.host import augment, evaluation_view, normalise

CPU, CUDA = torch.device("cpu"), torch.device("cuda:1")
GIB = 1 << 30
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LEVEL = 1 / 255
SHAPES = [(48, 64), (64, 48), (32, 32), (40, 40), (20, 90), (90, 20), (33, 47), (128, 96), (7, 5), (1, 1), (1, 60)]
Pixels = npt.NDArray[np.uint8]


class Pictures(list[Pixels]):
    """A list of read-only images, as a dataset has them."""

    bound = 320


def pictures(shapes: list[tuple[int, int]] = SHAPES, seed: int = 0) -> Pictures:
    """Half smooth colours, half noise."""
    rng = np.random.default_rng(seed)
    result = Pictures()
    for number, (height, width) in enumerate(shapes):
        y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
        waves = np.stack([np.sin(6 * x + phase) * np.cos(5 * y - phase) for phase in rng.random(3) * 6], axis=-1)
        noise = rng.integers(-128, 128, (height, width, 3))
        pixels = (128 + (noise if number % 2 else 110 * waves)).clip(0, 255).astype(np.uint8)
        pixels.flags.writeable = False
        result.append(pixels)
    return result


def shapes_of(images: Pictures, indices: npt.NDArray[np.int64]) -> list[tuple[int, int]]:
    return [(images[index].shape[0], images[index].shape[1]) for index in indices]


def random_boxes(shapes: list[tuple[int, int]], rng: np.random.Generator) -> npt.NDArray[np.int64]:
    rows = []
    for height, width in shapes:
        tall, wide = int(rng.integers(1, height + 1)), int(rng.integers(1, width + 1))
        rows.append([int(rng.integers(height - tall + 1)), int(rng.integers(width - wide + 1)), tall, wide])
    return np.array(rows, dtype=np.int64)


def cut(image: Pixels, box: npt.NDArray[np.int64]) -> Tensor:
    top, left, height, width = box
    return torch.from_numpy(image[top : top + height, left : left + width].copy()).permute(2, 0, 1)[None]


def resized(pixels: Tensor, size: int) -> Tensor:
    return F.interpolate(pixels, (size, size), mode="bilinear", antialias=True, align_corners=False)[0]


@pytest.mark.parametrize("size", [1, 8, 31, 32, 60])
def test_crops_are_resized_as_by_torchs_uint8_kernel(size: int) -> None:
    images, rng = pictures(), np.random.default_rng(size)
    resident = ResidentImages(images, CPU)
    indices = np.tile(np.arange(len(images)), 8)
    boxes = random_boxes(shapes_of(images, indices), rng)
    boxes[: len(images)] = [(0, 0, *image.shape[:2]) for image in images]
    boxes[len(images) : 2 * len(images), 2:] = 1
    flip = rng.random(len(indices)) < 0.5
    places = torch.from_numpy(indices), torch.from_numpy(boxes)
    views = crop_resize(resident, *places, size, (128, 96), torch.from_numpy(flip))
    assert views.dtype == torch.uint8
    assert views.shape == (len(indices), 3, size, size)
    assert views.is_contiguous(memory_format=torch.channels_last)
    differing = 0
    for view, index, box, mirrored in zip(views, indices, boxes, flip, strict=True):
        expected = resized(cut(images[index], box), size)
        expected = expected.flip(-1) if mirrored else expected
        error = (view.int() - expected.int()).abs()
        assert int(error.max()) <= 1, (images[index].shape, box)
        differing += int((error > 0).sum())
    assert differing <= 0.001 * views.numel()  # none where the kernel is the one this was written after


@pytest.mark.parametrize("size", [9, 32])
def test_resizing_is_the_filter_in_float64_but_for_two_roundings(size: int) -> None:
    images, rng = pictures(), np.random.default_rng(size)
    indices = np.arange(len(images))
    boxes = random_boxes(shapes_of(images, indices), rng)
    places = torch.from_numpy(indices), torch.from_numpy(boxes)
    views = crop_resize(ResidentImages(images, CPU), *places, size, (128, 96))
    for view, image, box in zip(views, images, boxes, strict=True):
        expected = resized(cut(image, box).double(), size)
        assert float((view - expected).abs().max()) < 1.02


def test_the_pixels_are_those_of_the_images_wherever_a_buffer_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    images = pictures()
    everything = np.concatenate([image.reshape(-1) for image in images])
    for staging in (1 << 20, 1000, 7, len(everything), len(everything) // 2):
        monkeypatch.setattr(module, "STAGING", staging)
        resident = ResidentImages(images, CPU)
        np.testing.assert_array_equal(resident.pixels.numpy(), everything)
    assert len(resident) == len(images)
    assert resident.crop == (128, 96)
    for image, (start, height, width) in zip(images, resident.index.tolist(), strict=True):
        np.testing.assert_array_equal(everything[3 * start :][: 3 * height * width].reshape(height, width, 3), image)


def training_batch(resident: ResidentImages, indices: npt.NDArray[np.int64], size: int, draws: Draws) -> Tensor:
    return packed_training_batch(resident, pack_draws(resident, indices, draws), size, MEAN, STD)


@pytest.mark.parametrize("seed", range(4))
def test_a_training_batch_is_the_processors(seed: int) -> None:
    images = pictures()
    indices = np.random.default_rng(seed).integers(0, len(images), 40)
    draws = draw(shapes_of(images, indices), seed, 3)
    batch = training_batch(ResidentImages(images, CPU), indices, 32, draws)
    assert batch.dtype == torch.float32
    assert batch.shape == (40, 3, 32, 32)
    assert batch.is_contiguous(memory_format=torch.channels_last)
    assert not batch.requires_grad
    views = normalise(batch, [-mean / std for mean, std in zip(MEAN, STD, strict=True)], [1 / std for std in STD])
    error = (views - augment([images[index] for index in indices], 32, draws)).abs() / LEVEL
    assert float(error.max()) < 1.5
    assert float(error.mean()) < 0.3


@pytest.mark.parametrize("size", [16, 32, 64])
def test_an_evaluation_batch_is_the_processors(size: int) -> None:
    images = pictures()
    indices = np.array([4, 2, 2, *range(len(images))])
    batch = device_evaluation_batch(ResidentImages(images, CPU), indices, size, MEAN, STD)
    assert batch.dtype == torch.float32
    assert batch.is_contiguous(memory_format=torch.channels_last)
    expected = normalise(evaluation_view([images[index] for index in indices], size), MEAN, STD)
    error = (batch - expected).abs() * torch.tensor(STD).view(3, 1, 1) / LEVEL
    assert float(error.max()) < 1.01
    assert float(error.mean()) < 0.01


def rows(draws: Draws, chosen: npt.NDArray[np.int64]) -> Draws:
    fields = {name: getattr(draws, name)[chosen] for name in ("box", "flip", "factors", "order", "grey")}
    return replace(draws, **fields)


def test_a_view_does_not_hang_on_what_else_is_in_the_batch_or_the_dataset() -> None:
    images = pictures()
    indices = np.arange(len(images))
    draws = draw(shapes_of(images, indices), 0, 0)
    resident = ResidentImages(images, CPU)
    whole = training_batch(resident, indices, 24, draws)
    for chosen in (np.array([3]), np.array([9, 0, 5, 5]), indices[::-1].copy()):
        part = training_batch(resident, indices[chosen], 24, rows(draws, chosen))
        torch.testing.assert_close(part, whole[torch.from_numpy(chosen)], rtol=0, atol=1e-5)
    fewer = Pictures(images[:4])
    few = training_batch(ResidentImages(fewer, CPU), indices[:4], 24, rows(draws, indices[:4]))
    torch.testing.assert_close(few, whole[:4], rtol=0, atol=1e-5)


def test_large_batches_are_resized_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    images = pictures()
    resident, indices = ResidentImages(images, CPU), np.arange(len(images))
    whole = device_evaluation_batch(resident, indices, 24, MEAN, STD)
    for scratch in (1, 3 * 128 * 24 * module.SCRATCH_PER_PIXEL):
        monkeypatch.setattr(module, "SCRATCH", scratch)
        assert torch.equal(device_evaluation_batch(resident, indices, 24, MEAN, STD), whole)


def test_an_empty_batch() -> None:
    resident, none = ResidentImages(pictures(), CPU), np.zeros(0, dtype=np.int64)
    assert training_batch(resident, none, 8, draw([], 0, 0)).shape == (0, 3, 8, 8)
    assert device_evaluation_batch(resident, none, 8, MEAN, STD).shape == (0, 3, 8, 8)


def test_images_and_crops_that_are_not_there_are_refused() -> None:
    images = pictures()
    resident = ResidentImages(images, CPU)
    for index in (-1, len(images)):
        with pytest.raises(ValueError, match=f"indices must be from 0 to 10, not {index} to {index}"):
            device_evaluation_batch(resident, np.array([index]), 8, MEAN, STD)
    indices = np.array([0, 1])
    draws = draw(shapes_of(images, indices), 0, 0)
    for box in ((-1, 0, 5, 5), (0, -1, 5, 5), (60, 0, 5, 5), (0, 44, 5, 5), (0, 0, 0, 5), (0, 0, 5, 0)):
        wrong = replace(draws, box=np.array([draws.box[0], box]))
        with pytest.raises(ValueError, match=r"is not inside image 1, 64 × 48") as caught:
            pack_draws(resident, indices, wrong)
        assert str(caught.value).startswith(f"crop {list(box)} ")


class Watch(TorchDispatchMode):
    """Counts operations, and names those that have a tensor on the host among their arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self.on_host: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        if any(isinstance(each, Tensor) and each.device.type == "cpu" for each in tree_leaves((args, kwargs))):
            self.on_host.append(str(func))
        return func(*args, **(kwargs or {}))


def operations(resident: ResidentImages, indices: npt.NDArray[np.int64], draws: Draws) -> tuple[int, int, Tensor]:
    """Of a batch's training and evaluation views, and the former."""
    with Watch() as training:
        views = training_batch(resident, indices, 16, draws)
    with Watch() as evaluation:
        device_evaluation_batch(resident, indices, 16, MEAN, STD)
    return training.count, evaluation.count, views


def test_long_images_make_no_other_batch_slow() -> None:
    """A filter's round is a few operations; the long images would add ten and more rounds in each direction."""
    square = [(40, 40)] * 4
    indices = np.arange(4)
    draws = draw(square, 0, 0)
    alone = ResidentImages(pictures(square), CPU)
    among = ResidentImages(pictures([*square, (40, 400), (400, 40)]), CPU)
    assert alone.crop == (40, 40)
    assert among.crop == (56, 56)
    training, evaluation, views = operations(alone, indices, draws)
    training_among, evaluation_among, views_among = operations(among, indices, draws)
    assert torch.equal(views, views_among)
    assert evaluation_among == evaluation
    assert training <= training_among < 1.2 * training


def test_a_long_image_makes_no_evaluation_of_others_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = [(40, 48), (44, 40), (40, 900), (48, 44), (1200, 40)]
    images, indices = pictures(shapes), np.array([4, 0, 2, 1, 3, 0])
    resident = ResidentImages(images, CPU)
    batches: list[tuple[int, tuple[int, int]]] = []
    real = module.crop_resize
    monkeypatch.setattr(
        module,
        "crop_resize",
        lambda resident, indices, boxes, size, largest: (
            batches.append((len(indices), largest)) or real(resident, indices, boxes, size, largest)
        ),
    )
    batch = device_evaluation_batch(resident, indices, 24, MEAN, STD)
    assert sorted(batches) == [(2, (1200, 900)), (4, (48, 48))]
    alone = [device_evaluation_batch(resident, indices[[at]], 24, MEAN, STD) for at in range(len(indices))]
    assert torch.equal(batch, torch.cat(alone))
    assert batch.is_contiguous(memory_format=torch.channels_last)


def test_crops_that_are_longer_than_any_that_is_drawn_are_refused() -> None:
    resident, one = ResidentImages(pictures([(30, 300)]), CPU), np.array([0])
    draws = draw([(30, 300)], 0, 0)
    assert len(pack_draws(resident, one, draws)) == 1
    with pytest.raises(ValueError, match=r"^a crop of \[30, 43\] pixels is larger than \[30, 42\]$"):
        pack_draws(resident, one, replace(draws, box=np.array([[0, 0, 30, 43]])))


def test_images_that_do_not_fit_are_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    images = pictures()
    needed = sum(image.size for image in images)
    monkeypatch.setattr(module, "GIB", needed)
    monkeypatch.setattr(module, "_room", lambda device, sharing: needed)
    ResidentImages(images, CPU)
    for room, said in ((needed - 1, "1.0"), (0, "0.0")):
        monkeypatch.setattr(module, "_room", lambda device, sharing, room=room: room)
        assert refusal(ResidentImages, images, CPU) == (
            f"the images need 1.0 GiB in the memory of cpu, where {said} GiB are free for them; "
            "opened with a smaller bound they need less (open_dataset(…, bound=…))"
        )


def test_images_for_which_there_is_no_room_after_all_are_refused_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(images: Pictures, target: Tensor) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(module, "_upload", full)
    assert "where 0.0 GiB are free" in refusal(ResidentImages, pictures(), CPU)


def room(monkeypatch: pytest.MonkeyPatch, free: int, whole: int, reserved: int = 0, allocated: int = 0) -> None:
    """Give the GPU so many GiB."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", {1: (free * GIB, whole * GIB)}.__getitem__)
    monkeypatch.setattr(torch.cuda, "memory_reserved", {CUDA: reserved * GIB}.__getitem__)
    monkeypatch.setattr(torch.cuda, "memory_allocated", {CUDA: allocated * GIB}.__getitem__)


def test_what_torch_holds_without_using_it_counts_as_free(monkeypatch: pytest.MonkeyPatch) -> None:
    room(monkeypatch, free=20, whole=24, reserved=7, allocated=3)
    assert module._room(CUDA, 1) == (20 + 7 - 3 - 6) * GIB
    assert module._room(CPU, 1) is None


@pytest.mark.parametrize(
    ("free", "whole", "sharing", "expected"),
    [
        (23, 24, 1, 17),  # 6 GiB are left
        (80, 80, 1, 60),  # a quarter is
        (80, 80, 4, 15),  # the first of four, and the last
        (35, 80, 4, 15),
        (12, 80, 4, 7),  # another program has the rest
        (7, 8, 1, 1),
        (3, 8, 1, 0),
        (4, 5, 2, 0),
    ],
)
def test_what_images_leave_to_training(
    monkeypatch: pytest.MonkeyPatch, free: int, whole: int, sharing: int, expected: int
) -> None:
    room(monkeypatch, free, whole)
    assert module._room(CUDA, sharing) == expected * GIB


@FAKE_CUDA
def test_on_a_gpu_nothing_waits_and_no_shape_hangs_on_values() -> None:
    """With torch's fake tensors: they raise where a value is read or a shape hangs on one, and need no GPU."""
    with FakeTensorMode(), Watch() as watch:
        device = torch.device("cuda:0")
        resident = SimpleNamespace(
            pixels=torch.empty(3 * 1000, dtype=torch.uint8, device=device),
            index=torch.empty((10, 3), dtype=torch.int64, device=device),
            shapes=np.full((10, 2), 10),
            crop=(10, 10),
            device=device,
        )
        packed = torch.empty((6, 15), dtype=torch.float64, device=device)
        batch = packed_training_batch(resident, packed, 8, MEAN, STD)  # type: ignore[arg-type]
        assert watch.count > 100
        assert watch.on_host == []
        assert batch.device == device
        assert batch.shape == (6, 3, 8, 8)
        normalise(batch, MEAN, STD)
        assert watch.on_host  # its constants come from the host: what this test looks for can be seen
