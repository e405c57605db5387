"""A network as others run it, and the images on which what was exported is compared with it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from .._version import __version__
from ..data.emoji import load_emoji
from ..data.images import bound_for, decode
from ..data.views.host import evaluation_view
from ..errors import UserError
from ..models.network import Network
from ..prediction.images import find_images, place_of

__all__ = ["NEAR", "Deployed", "agree", "described", "inputs_of", "sample_views"]

NEAR = 1e-4
"""Largest difference of a probability between a network and what is exported of it."""

SAMPLE = 16
"""Images that are compared where none are named."""


class Deployed(nn.Module):
    """A network with what its users would else have to do themselves.

    Args:
        network: the network.
        bare: whether inputs are already normalised.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: Network, bare: bool = False) -> None:
        super().__init__()
        self.network, self.bare = network, bare
        self.temperature = network.temperature or 1.0
        self.register_buffer("mean", torch.tensor(network.spec.mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(network.spec.std).view(1, 3, 1, 1))
        self.eval()

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits, and calibrated probabilities, (n, classes) each.

        Args:
            images: uint8 (n, size, size, 3), RGB; where ``bare``, normalised float32 (n, 3, size, size).
        """
        if not self.bare:
            pixels = images.permute(0, 3, 1, 2).to(torch.float32) / 255
            images = (pixels - self.mean) / self.std
        logits: Tensor = self.network(images)
        return logits, torch.softmax(logits / self.temperature, dim=1)


def described(network: Network, bare: bool) -> dict[str, str]:
    """What is said of a model inside its file, each as text (lists as JSON)."""
    spec = network.spec
    size = f"{spec.size}, {spec.size}"
    taken = f"normalised float32 (n, 3, {size})" if bare else f"uint8 (n, {size}, 3)"
    return {
        "classes": json.dumps(list(spec.classes), ensure_ascii=False),
        "input": f"{taken}, RGB, the whole image, upright by its EXIF orientation and white where it is transparent, "
        "resized to a square (bilinear with antialiasing)",
        "bits": f"{spec.bits}: those of 16-bit greyscale, whose values are scaled to 255",
        "mean": json.dumps(list(spec.mean)),
        "std": json.dumps(list(spec.std)),
        "temperature": "none" if network.temperature is None else f"{network.temperature:g}",
        "architecture": spec.model,
        "weights": spec.weights,
        "largedrop": __version__,
    }


def sample_views(network: Network, images: Sequence[str | Path] | None) -> npt.NDArray[np.uint8]:
    """Images at the network's size, uint8 (n, size, size, 3): those that are named, else emoji.

    Raises:
        UserError: there are no such images, or one cannot be read.
    """
    size = network.spec.size
    found: Iterable[npt.NDArray[np.uint8]]
    if images is None:
        emoji = load_emoji()
        found = [emoji.images[int(at)] for at in np.linspace(0, len(emoji) - 1, SAMPLE)]
    else:
        found = [decode(place_of(each), bound_for([size])) for each in find_images(images)]
    return evaluation_view(list(found), size).permute(0, 2, 3, 1).contiguous().numpy()


def inputs_of(network: Network, views: npt.NDArray[np.uint8], bare: bool) -> Tensor:
    """What ``Deployed.forward`` takes of views."""
    pixels = torch.from_numpy(views)
    if not bare:
        return pixels
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (network.spec.mean, network.spec.std))
    return (pixels.permute(0, 3, 1, 2).to(torch.float32) / 255 - mean) / std


def agree(what: str, ours: Any, theirs: Any) -> float:
    """The largest difference of probabilities, (n, classes) each.

    Args:
        what: what is compared with the network, for the message.

    Raises:
        UserError: it is more than ``NEAR``, or not a number.
    """
    apart = float(np.abs(np.asarray(ours, np.float64) - np.asarray(theirs, np.float64)).max())
    if not apart <= NEAR:
        raise UserError(f"{what} gives other probabilities than the network, up to {apart:.2g} apart: not written")
    return apart
