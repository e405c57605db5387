"""Copies: which are proposed, and which are decided to be the same."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from largedrop.analysis.duplicates import ALIKE, identical, joined, likeness, look_at, proposed, same_pictures
from largedrop.analysis.neighbours import nearest

Pixels = npt.NDArray[np.uint8]


class Some(list[Pixels]):
    bound = 320


def picture(seed: int, side: int = 96) -> Image.Image:
    """Smooth noise, as different from another seed's as two photographs."""
    noise = np.random.default_rng(seed).integers(0, 256, (side // 8, side // 8, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((side, side), Image.Resampling.BICUBIC)


def encoded(image: Image.Image) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=30)
    return Image.open(buffer).convert("RGB")


MADE_ANEW: dict[str, Callable[[Image.Image], Image.Image]] = {
    "encoded": encoded,
    "small": lambda image: image.resize((50, 50)),
    "large": lambda image: image.resize((180, 180)),
    "cropped": lambda image: image.crop((2, 2, 96, 96)),
    "bright": lambda image: ImageEnhance.Brightness(image).enhance(0.7),
    "faded": lambda image: ImageEnhance.Contrast(image).enhance(0.6),
    "grey": lambda image: image.convert("L").convert("RGB"),
    "mirrored": ImageOps.mirror,
    "blurred": lambda image: image.filter(ImageFilter.GaussianBlur(1)),
}


def images(*of: Image.Image) -> Some:
    return Some(np.asarray(image) for image in of)


@pytest.mark.parametrize("name", MADE_ANEW)
def test_a_copy_is_found_among_others(name: str) -> None:
    several = images(*map(picture, range(12)), MADE_ANEW[name](picture(7)))
    pairs = proposed(look_at(several))
    assert (7, 12) in pairs
    assert list(same_pictures(several, pairs)) == [(7, 12)]


def test_other_pictures_are_not_alike() -> None:
    greys = torch.tensor(np.stack([np.asarray(picture(seed).convert("L").resize((64, 64))) for seed in range(20)]))
    one, other = torch.triu_indices(20, 20, 1)
    assert float(likeness(greys[one].float(), greys[other].float()).max()) < ALIKE
    assert float(likeness(greys.float(), greys.float()).min()) == pytest.approx(1, abs=1e-4)


def test_flat_pictures_are_like_nothing() -> None:
    flat = torch.full((1, 64, 64), 200.0)
    noisy = torch.rand(1, 64, 64)
    assert float(likeness(flat, flat)) < ALIKE
    assert float(likeness(noisy + 100, flat)) < ALIKE


def test_identical_pixels_and_their_first_in_pairs() -> None:
    several = images(picture(0), picture(1), picture(0), encoded(picture(0)), picture(0))
    looks = look_at(several)
    assert identical(looks) == [(0, 2, 4)]
    assert proposed(looks) == [(0, 3)]
    assert looks.sizes.tolist() == [[96, 96]] * 5


def test_the_same_bytes_in_another_shape_are_another_image() -> None:
    pixels = np.asarray(picture(0))[:24, :24].copy()
    assert identical(look_at(Some([pixels, pixels.reshape(12, 48, 3)]))) == []


def test_blank_images_are_no_copies_of_each_other() -> None:
    shades = [np.full((20, 20, 3), shade, np.uint8) for shade in (0, 120, 255)]
    looks = look_at(Some([*shades, np.asarray(picture(0))]))
    assert looks.blank.tolist() == [True, True, True, False]
    assert identical(look_at(Some([*shades, *shades]))) == []
    assert proposed(looks) == []


@pytest.mark.parametrize("box", [(0, 0, 96, 87), (9, 0, 96, 96), (0, 5, 96, 91)])
def test_a_strip_may_be_cut_off(box: tuple[int, int, int, int]) -> None:
    several = images(picture(0), picture(1), picture(0).crop(box))
    assert list(same_pictures(several, [(0, 1), (0, 2), (1, 2)])) == [(0, 2)]


def test_features_propose_what_small_images_do_not() -> None:
    several = images(picture(0), picture(1), picture(0).crop((9, 9, 96, 96)), picture(2))
    looks = look_at(several)
    near = nearest(torch.nn.functional.normalize(torch.tensor([[1.0, 0], [0, 1], [1, 0.1], [-1, 0]])), 1)
    assert proposed(looks, near) == [(0, 2)]
    assert list(same_pictures(several, [(0, 2), (0, 1)])) == [(0, 2)]


def test_sets_that_share_a_member_are_one() -> None:
    assert joined([]) == []
    assert joined([(9, 8), (1, 2), (3, 4), (2, 3), (8, 7)]) == [(1, 2, 3, 4), (7, 8, 9)]
