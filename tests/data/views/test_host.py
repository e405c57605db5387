"""The evaluation view against torchvision's resizing, and the normalisation against its formula."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as V

from largedrop.data.views.host import evaluation_batch, evaluation_view, normalise, resize

SIZES = [(48, 64), (64, 48), (32, 32), (20, 90), (33, 47), (7, 5), (1, 1)]
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


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
        with pytest.raises(ValueError, match=r"not an RGB image|not in an image"):
            evaluation_batch([image], 8, MEAN, STD)  # type: ignore[list-item]
    with pytest.raises(ValueError, match="positive"):
        evaluation_batch([noise(8, 8)], 0, MEAN, STD)
    with pytest.raises(ValueError, match="three channels"):
        evaluation_batch([noise(8, 8)], 8, MEAN[:2], STD)
