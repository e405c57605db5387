"""Images that occur twice: the same pixels, or the same picture encoded, sized, cropped, coloured or mirrored anew.

Copies are proposed by the nearest neighbours of small grey images and of a network's features, and decided by the
pictures themselves: the middle of one is searched in the other, over shifts, scales and mirroring, and the correlation
at the best place is the likeness (docs/check.md).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate, normalize, pad

from ..data.ahead import in_order
from ..data.dataset import Images
from ..reporter import SILENT, Reporter
from .neighbours import Neighbours, nearest

__all__ = ["ALIKE", "Looks", "identical", "joined", "likeness", "look_at", "proposed", "same_pictures"]

ALIKE = 0.95
"""Likeness from which two images are near-duplicates (docs/check.md)."""

_SMALL, _FINE = 16, 64
"""Sides of the grey images that propose copies, and of those that decide, in pixels."""

_NEIGHBOURS = 5
"""How many of an image's neighbours are looked at; copies of copies are found through one another."""

_SMALL_ALIKE, _FEATURES_ALIKE = 0.85, 0.7
"""Similarities from which neighbours are looked at: low, since they only bound the work."""

_COARSE_ALIKE = 0.9
"""Likeness at half the resolution below which it is not computed at the full one."""

_SHARE = 0.75
"""Side of the middle that is searched, of the image's side: shifts of an eighth either way."""

_EQUAL, _APART = (0.88, 0.94, 1.0, 1.06, 1.12), (0.9, 1.1)

_SCALES = (*((each, each) for each in _EQUAL), *((each, 1.0) for each in _APART), *((1.0, each) for each in _APART))
"""Scales of height and width at half the resolution; apart, as where a strip is cut off at one side."""

_STEP = 0.03
"""Half the distance of two scales, tried at the full resolution."""

_BLANK = 3
"""Range of grey values of a small image that shows nothing."""

_PAIRS = 512
"""Pairs that are compared at once."""

Grey = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Looks:
    """What images look like, in little.

    Attributes:
        digests: digest of each image's pixels, (n,).
        small: grey images, uint8 (n, 16, 16).
        sizes: height and width of each image, (n, 2).
    """

    digests: tuple[bytes, ...]
    small: Grey
    sizes: npt.NDArray[np.int64]

    @property
    def blank(self) -> npt.NDArray[np.bool_]:
        """Whether an image shows nothing: one shade of grey all over, (n,)."""
        flat = self.small.reshape(len(self.small), -1).astype(np.int64)
        return np.asarray(flat.max(1) - flat.min(1) <= _BLANK)


def look_at(images: Images, reporter: Reporter = SILENT) -> Looks:
    """Look at every image once; ``reporter`` receives their number."""
    digests, small, sizes = [], np.empty((len(images), _SMALL, _SMALL), np.uint8), np.empty((len(images), 2), np.int64)
    with closing(in_order(partial(_look, images), range(len(images)))) as looks:
        for index, (digest, grey, size) in enumerate(looks):
            digests.append(digest)
            small[index], sizes[index] = grey, size
            reporter.advance(1)
    return Looks(tuple(digests), small, sizes)


def _look(images: Images, index: int) -> tuple[bytes, Grey, tuple[int, int]]:
    pixels = images[index]
    digest = hashlib.blake2b(repr(pixels.shape).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.digest(), _grey(images, _SMALL, index), (pixels.shape[0], pixels.shape[1])


def _grey(images: Images, side: int, index: int) -> Grey:
    """The image in grey, stretched to a square; uint8 (side, side)."""
    image = Image.fromarray(np.ascontiguousarray(images[index])).convert("L")
    enlarged = min(image.size) < side
    return np.asarray(image.resize((side, side), Image.Resampling.BICUBIC if enlarged else Image.Resampling.BOX))


def identical(looks: Looks) -> list[tuple[int, ...]]:
    """Sets of images with the same pixels, each ascending; images that occur once or show nothing are in none."""
    sets: dict[bytes, list[int]] = {}
    for index, (digest, blank) in enumerate(zip(looks.digests, looks.blank.tolist(), strict=True)):
        if not blank:
            sets.setdefault(digest, []).append(index)
    return [tuple(found) for found in sets.values() if len(found) > 1]


def proposed(looks: Looks, features: Neighbours | None = None, device: Any = "cpu") -> list[tuple[int, int]]:
    """Pairs of images, the smaller index first, that may show the same; of identical ones only the first is in a pair.

    Args:
        looks: looks of the images, (n,).
        features: their neighbours by features; without them, pairs are proposed by the small images alone.
        device: device that compares the small images.
    """
    first = {digest: index for index, digest in reversed([*enumerate(looks.digests)])}
    of = np.array([first[digest] for digest in looks.digests], np.int64)
    blank = looks.blank
    shown = np.flatnonzero((of == np.arange(len(of))) & ~blank)
    grey = torch.from_numpy(looks.small[shown]).float()
    rows = _rows(grey).to(device)
    pairs = _pairs(nearest(rows, _NEIGHBOURS), _SMALL_ALIKE, shown)
    pairs |= _pairs(nearest(rows, _NEIGHBOURS, _rows(grey.flip(2)).to(device)), _SMALL_ALIKE, shown)
    if features is not None:
        pairs |= _pairs(features, _FEATURES_ALIKE, np.arange(len(of)))
    unique = {(min(of[a], of[b]), max(of[a], of[b])) for a, b in pairs if not blank[a] and not blank[b]}
    return sorted((int(a), int(b)) for a, b in unique if a != b)


def _rows(grey: Tensor) -> Tensor:
    flat = grey.flatten(1)
    return normalize(flat - flat.mean(1, keepdim=True)).half()


def _pairs(found: Neighbours, least: float, names: npt.NDArray[np.int64]) -> set[tuple[int, int]]:
    at, which = (found.values >= least).nonzero(as_tuple=True)
    return set(zip(names[at.numpy()].tolist(), names[found.indices[at, which].numpy()].tolist(), strict=True))


def same_pictures(
    images: Images, pairs: Sequence[tuple[int, int]], least: float = ALIKE
) -> dict[tuple[int, int], float]:
    """The pairs that show the same, with their likeness, which is at least ``least``."""
    found: dict[tuple[int, int], float] = {}
    for start in range(0, len(pairs), _PAIRS):
        some = pairs[start : start + _PAIRS]
        names = sorted({index for pair in some for index in pair})
        with closing(in_order(partial(_grey, images, _FINE), names)) as greys:
            pictures = torch.from_numpy(np.stack([*greys])).float()
        sides = [torch.tensor([names.index(pair[side]) for pair in some]) for side in (0, 1)]
        values = likeness(pictures[sides[0]], pictures[sides[1]])
        found |= {pair: value for pair, value in zip(some, values.tolist(), strict=True) if value >= least}
    return found


def likeness(some: Tensor, others: Tensor) -> Tensor:
    """How alike two pictures are, whatever their brightness and contrast, a crop of up to a tenth, and mirroring.

    The largest correlation of the middle of one with a window of the other, from −1 to 1; 0 where it is below 0.9 at
    half the resolution.

    Args:
        some: grey images, float32 (n, 64, 64).
        others: as many.

    Returns:
        (n,)
    """
    halves = [_blurred(avg_pool2d(each[:, None], 2)[:, 0]) for each in (some, others)]
    tried = [(mirrored, scale) for mirrored in (False, True) for scale in _SCALES]
    coarse, which = torch.stack([_found(halves[0], halves[1], *each) for each in tried]).max(0)
    fine = torch.zeros(len(some))
    some, others = _blurred(some), _blurred(others)
    for number, (mirrored, scale) in enumerate(tried):
        mine = ((which == number) & (coarse >= _COARSE_ALIKE)).nonzero()[:, 0]
        if len(mine):
            near = [_found(some[mine], others[mine], mirrored, each) for each in _around(scale)]
            fine[mine] = torch.stack(near).amax(0)
    return fine


def _blurred(pictures: Tensor) -> Tensor:
    """Blurred over three pixels, so that a shift by a part of a pixel moves thin lines but little."""
    padded = pad(pictures[:, None], (1, 1, 1, 1), mode="replicate")[:, 0]
    rows = padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]
    blurred: Tensor = (rows[:, :, :-2] + 2 * rows[:, :, 1:-1] + rows[:, :, 2:]) / 16
    return blurred


def _around(scale: tuple[float, float]) -> list[tuple[float, float]]:
    """Scales near one of ``_SCALES``, which may be that of a strip cut off where there is none, or the other way."""
    steps = (-_STEP, 0.0, _STEP)
    return [(scale[0] + height, scale[1] + width) for height in steps for width in steps]


def _found(some: Tensor, others: Tensor, mirrored: bool, scale: tuple[float, float]) -> Tensor:
    """The largest correlation of the middle of ``some``, scaled, with a window of ``others``; (n, s, s) to (n,)."""
    side = some.shape[1]
    middle = round(side * _SHARE)
    edge = (side - middle) // 2
    height, width = (round(middle * each) for each in scale)
    part = some[:, None, edge : edge + middle, edge : edge + middle]
    part = interpolate(part, (height, width), mode="bilinear", antialias=True, align_corners=False)[:, 0]
    part = part - part.mean((1, 2), keepdim=True)
    others = others.flip(2) if mirrored else others
    others = others - others.mean((1, 2), keepdim=True)
    spectrum = torch.fft.rfft2(others) * torch.fft.rfft2(part, s=(side, side)).conj()
    products = torch.fft.irfft2(spectrum, s=(side, side))[:, : side - height + 1, : side - width + 1]
    area = height * width
    sums, squares = (_sums(each, height, width) for each in (others.double(), others.double().square()))
    norms = (squares - sums.square() / area).clamp_min(area).sqrt().float()
    norms = norms * part.square().sum((1, 2)).clamp_min(area).sqrt()[:, None, None]
    best: Tensor = (products / norms).flatten(1).amax(1)
    return best


def _sums(pictures: Tensor, height: int, width: int) -> Tensor:
    """The sum of each window of a height and a width."""
    total = pad(pictures.cumsum(1).cumsum(2), (1, 0, 1, 0))
    rows = total[:, height:] - total[:, :-height]
    windows: Tensor = rows[:, :, width:] - rows[:, :, :-width]
    return windows


def joined(sets: Iterable[Iterable[int]]) -> list[tuple[int, ...]]:
    """Sets with a member in common as one; each ascending, by their first members.

    >>> joined([(1, 2), (5, 4), (2, 3)])
    [(1, 2, 3), (4, 5)]
    """
    of: dict[int, set[int]] = {}
    for each in sets:
        merged = set().union(*(of.get(index, {index}) for index in each))
        of |= dict.fromkeys(merged, merged)
    return sorted({tuple(sorted(found)) for found in of.values()})
