"""Both views against torchvision's functions, and the normalisation against its formula."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from tests.helpers import CHANGES, resized_crop
from torch import Tensor
from torchvision.transforms.v2 import functional as V

from largedrop.data.views.draws import Draws, draw
from largedrop.data.views.host import augment, evaluation_batch, evaluation_view, normalise, resize, training_batch

SIZES = [(48, 64), (64, 48), (32, 32), (20, 90), (33, 47), (7, 5), (1, 1)]
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LEVEL = 1 / 255


def noise(height: int, width: int) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(height * width).integers(0, 256, (height, width, 3)).astype(np.uint8)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_resizing_is_torchvisions_and_pillows(height: int, width: int) -> None:
    image = noise(height, width)
    ours = resize(image, 32)
    assert ours.dtype == torch.uint8
    assert ours.shape == (3, 32, 32)
    torchvisions = V.resize(torch.from_numpy(image).permute(2, 0, 1), [32, 32], antialias=True)
    pillows = np.asarray(Image.fromarray(image).resize((32, 32), Image.Resampling.BILINEAR))
    assert int((ours.int() - torchvisions.int()).abs().max()) <= 1
    assert int((ours.permute(1, 2, 0).int() - torch.from_numpy(pillows.astype(np.int32))).abs().max()) <= 1


def test_an_image_of_the_right_size_is_copied_bit_for_bit() -> None:
    image = noise(32, 32)
    image.flags.writeable = False
    view = resize(image, 32)
    assert torch.equal(view.permute(1, 2, 0), torch.from_numpy(image.copy()))
    view.zero_()
    assert image.any()


def test_images_of_any_sizes_make_one_batch_in_channels_last() -> None:
    images = [noise(*size) for size in SIZES]
    batch = evaluation_view(images, 32)
    assert batch.shape == (len(SIZES), 3, 32, 32)
    assert batch.dtype == torch.uint8
    assert batch.is_contiguous(memory_format=torch.channels_last)
    assert all(torch.equal(view, resize(image, 32)) for view, image in zip(batch, images, strict=True))
    assert evaluation_view([], 32).shape == (0, 3, 32, 32)


def test_a_wide_image_is_squeezed_and_not_cut() -> None:
    image = np.zeros((30, 90, 3), np.uint8)
    image[:, :45] = 200
    view = evaluation_view([image], 30)[0, 0]
    assert (view[:, :14] == 200).all()
    assert (view[:, 16:] == 0).all()


def test_normalisation_of_bytes_and_of_fractions() -> None:
    pixels = torch.from_numpy(np.stack([noise(8, 6), noise(8, 6)[::-1]]).copy()).permute(0, 3, 1, 2)
    expected = (pixels.double() / 255 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    for given in (pixels, pixels.float() / 255):
        result = normalise(given, MEAN, STD)
        assert result.dtype == torch.float32
        assert result.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(result.double(), expected, rtol=0, atol=1e-6)


def test_normalisation_leaves_what_it_is_given_alone() -> None:
    given = torch.rand(2, 3, 4, 4)
    before = given.clone()
    normalise(given, MEAN, STD)
    assert torch.equal(given, before)


def test_normalisation_with_unequal_numbers_of_channels_is_an_error() -> None:
    with pytest.raises(ValueError, match="zip"):
        normalise(torch.rand(1, 3, 2, 2), MEAN[:2], STD)


@pytest.mark.parametrize("size", [1, 7, 32, 50])
def test_the_evaluation_batch_is_the_normalised_evaluation_view(size: int) -> None:
    images = [noise(*shape) for shape in [*SIZES, (size, size), (200, 300)]]
    batch = evaluation_batch(images, size, MEAN, STD)
    assert batch.shape == (len(images), 3, size, size)
    assert batch.dtype == torch.float32
    assert batch.is_contiguous(memory_format=torch.channels_last)
    expected = normalise(evaluation_view(images, size), MEAN, STD)
    level = 1 / 255 / min(STD)
    assert float((batch - expected).abs().max()) < 1.01 * level
    torch.testing.assert_close(batch, expected, rtol=0, atol=2e-6)


def test_the_evaluation_batch_takes_views_that_cannot_be_written_to_and_leaves_them_alone() -> None:
    image = noise(40, 60)
    expected = evaluation_batch([image[::-1, 10:50].copy()], 32, MEAN, STD)
    before = image.copy()
    image.flags.writeable = False
    assert torch.equal(evaluation_batch([image[::-1, 10:50]], 32, MEAN, STD), expected)
    assert np.array_equal(image, before)


def test_an_empty_evaluation_batch() -> None:
    assert evaluation_batch([], 8, MEAN, STD).shape == (0, 3, 8, 8)


def test_the_evaluation_batch_refuses_what_is_not_an_image() -> None:
    for image in (noise(8, 8)[..., :2], noise(8, 8).astype(np.float32), noise(8, 8)[0], noise(8, 8)[:0]):
        with pytest.raises(ValueError, match=r"must be uint8 \(height, width, 3\)|not inside an image"):
            evaluation_batch([image], 8, MEAN, STD)  # type: ignore[list-item]
    with pytest.raises(ValueError, match="positive"):
        evaluation_batch([noise(8, 8)], 0, MEAN, STD)
    with pytest.raises(ValueError, match="three values"):
        evaluation_batch([noise(8, 8)], 8, MEAN[:2], STD)


SHAPES = [(48, 64), (64, 48), (32, 32), (40, 40), (20, 90), (90, 20), (33, 47), (128, 128)]


def pictures() -> list[npt.NDArray[np.uint8]]:
    """Smooth colours with an edge and some noise, one of each of ``SHAPES``."""
    rng = np.random.default_rng(0)
    result = []
    for height, width in SHAPES:
        y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
        waves = np.stack([np.sin(6 * x + phase) * np.cos(5 * y - phase) for phase in rng.random(3) * 6], axis=-1)
        pixels = 127 + 90 * waves + 25 * (x > y)[..., None] + rng.normal(0, 6, (height, width, 3))
        result.append(pixels.clip(0, 255).astype(np.uint8))
    return result


def by_torchvision(image: npt.NDArray[np.uint8], size: int, draws: Draws, position: int) -> Tensor:
    """One image's view from torchvision's functions, in float after the resizing, (3, size, size) in [0, 1]."""
    pixels = torch.from_numpy(image.copy()).permute(2, 0, 1)
    view = resized_crop(pixels, draws.box[position].tolist(), size).float() / 255
    if draws.flip[position]:
        view = V.horizontal_flip(view)
    for kind in draws.order[position].tolist():
        view = CHANGES[kind](view, float(draws.factors[position, kind]))
    return V.rgb_to_grayscale(view, num_output_channels=3) if draws.grey[position] else view


@pytest.mark.parametrize("seed", range(5))
def test_every_view_is_torchvisions_within_one_grey_level(seed: int) -> None:
    images = pictures()
    draws = draw(SHAPES, seed, 0)
    draws = replace(draws, grey=np.arange(len(SHAPES)) == seed, flip=np.arange(len(SHAPES)) % 2 == seed % 2)
    views = augment(images, 32, draws)
    assert views.shape == (len(SHAPES), 3, 32, 32)
    assert views.dtype == torch.float32
    for position, image in enumerate(images):
        expected = by_torchvision(image, 32, draws, position)
        error = float((views[position] - expected).abs().max())
        assert error < LEVEL, (SHAPES[position], error / LEVEL)


def test_the_order_of_the_adjustments_is_the_one_drawn() -> None:
    draws = draw(SHAPES, 0, 0)
    views = augment(pictures(), 32, draws)
    other = augment(pictures(), 32, replace(draws, order=draws.order[:, ::-1].copy()))
    assert (views - other).abs().amax((1, 2, 3)).min() > LEVEL


def test_values_stay_between_0_and_1() -> None:
    images = [np.full((32, 32, 3), 255, np.uint8), *pictures(), np.zeros((9, 9, 3), np.uint8)]
    shapes = [image.shape[:2] for image in images]
    for step in range(10):
        views = augment(images, 16, draw(shapes, 0, step))
        assert float(views.min()) >= 0
        assert float(views.max()) <= 1


def test_grey_views_are_grey_and_the_images_are_left_alone() -> None:
    images = pictures()
    copies = [image.copy() for image in images]
    for image in images:
        image.flags.writeable = False
    draws = draw(SHAPES, 0, 0)
    views = augment(images, 32, replace(draws, grey=np.arange(len(SHAPES)) < 4))
    assert torch.equal(views[:4, 0], views[:4, 1])
    assert torch.equal(views[:4, 0], views[:4, 2])
    assert not (views[4:, 0] == views[4:, 1]).all()
    assert all(np.array_equal(image, copy) for image, copy in zip(images, copies, strict=True))


def test_a_training_batch_draws_and_applies() -> None:
    images = pictures()
    assert torch.equal(training_batch(images, 24, 3, 5, (0, 0, 0), (1, 1, 1)), augment(images, 24, draw(SHAPES, 3, 5)))


def test_training_batch_is_the_normalised_training_view_in_channels_last() -> None:
    images = pictures()
    batch = training_batch(images, 24, 3, 5, MEAN, STD)
    assert batch.shape == (len(SHAPES), 3, 24, 24)
    assert batch.dtype == torch.float32
    assert batch.is_contiguous(memory_format=torch.channels_last)
    plain = augment(images, 24, draw(SHAPES, 3, 5))
    torch.testing.assert_close(batch, normalise(plain, MEAN, STD), rtol=0, atol=2e-6)


@pytest.mark.parametrize("threads", [2, 5])
def test_the_number_of_threads_does_not_change_a_bit(threads: int) -> None:
    images = pictures() * 3
    expected = training_batch(images, 32, 0, 0, MEAN, STD)
    torch.set_num_threads(threads)
    assert torch.equal(training_batch(images, 32, 0, 0, MEAN, STD), expected)


def test_a_view_does_not_hang_on_the_other_images_of_the_batch() -> None:
    images, draws = pictures(), draw(SHAPES, 0, 0)
    views = augment(images, 32, draws)
    for position in range(len(SHAPES)):
        part = slice(position, position + 1)
        alone = Draws(draws.box[part], draws.flip[part], draws.factors[part], draws.order[part], draws.grey[part])
        assert torch.equal(augment(images[part], 32, alone)[0], views[position])


def test_neither_the_layout_of_the_draws_nor_torchs_state_matters() -> None:
    images, draws = pictures(), draw(SHAPES, 0, 0)
    expected = augment(images, 32, draws)
    other = replace(
        draws,
        box=np.asfortranarray(draws.box),
        factors=np.asfortranarray(draws.factors),
        order=np.asfortranarray(draws.order.astype(np.int32)),
    )
    other.box.flags.writeable = False
    with torch.inference_mode():
        assert torch.equal(augment(images, 32, other), expected)


def test_what_does_not_fit_together_is_an_error() -> None:
    images, draws = pictures(), draw(SHAPES, 0, 0)
    for row, column, value in ((0, 0, -1), (1, 2, 0), (2, 2, 33), (3, 1, 41), (4, 3, 10**9)):
        box = draws.box.copy()
        box[row, column] = value
        with pytest.raises(ValueError, match="is not inside an image of"):
            augment(images, 32, replace(draws, box=box))
    with pytest.raises(ValueError, match=r"factors must be \(8, 4\)"):
        augment(images, 32, replace(draws, factors=draws.factors[:, :3]))
    with pytest.raises(ValueError, match="8 draws for 7 images"):
        augment(images[:-1], 32, draws)
    with pytest.raises(ValueError, match="each of 0, 1, 2 and 3 once"):
        augment(images, 32, replace(draws, order=np.zeros_like(draws.order)))


def test_an_empty_batch_is_an_empty_tensor() -> None:
    assert augment([], 8, draw([], 0, 0)).shape == (0, 3, 8, 8)
