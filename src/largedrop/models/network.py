"""A network as the paper describes it: backbone to the representation Φ(x), dropout on Φ(x), and a linear head."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..data.views.host import evaluation_view, normalise
from .dropout import RepresentationDropout

__all__ = ["Network", "Spec", "Transform", "weights_crc"]

MOST_PIXELS = 4096
"""Largest side of an input, as in a config."""


@dataclass(frozen=True)
class Spec:
    """Architecture, classes and input normalisation of a network: the header of its checkpoints.

    Attributes:
        model: name of the architecture, as in timm.
        weights: source of the pretrained weights.
        classes: names of the classes, in the order of the logits.
        size: side of the square input, in pixels.
        mean: per-channel mean, subtracted from inputs in [0, 1].
        std: per-channel standard deviation, by which the centred inputs are divided.
        dropout: dropout rate λ in [0, 1).
        freeze_batchnorm: whether batch norms keep their pretrained running statistics in training.
        bits: how many bits the values of 16-bit greyscale images have, as ``data.images.decode`` takes it.
    """

    model: str
    weights: str
    classes: tuple[str, ...]
    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    dropout: float
    freeze_batchnorm: bool = True
    bits: int = 16

    def to_json(self) -> dict[str, Any]:
        """The fields as a dictionary for JSON; ``bits`` where they are fewer than 16."""
        return {name: value for name, value in asdict(self).items() if name != "bits" or value < 16}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Spec:
        """The inverse of ``to_json``.

        Raises:
            KeyError, TypeError, ValueError: a field is missing or has the wrong type.
        """
        red, green, blue = (float(value) for value in content["mean"])
        deviations = tuple(float(value) for value in content["std"])
        if len(deviations) != 3 or not all(value > 0 for value in deviations):
            raise ValueError(f"std must be three numbers above 0, not {str(content['std'])[:40]}")
        if not 1 <= int(content["size"]) <= MOST_PIXELS:
            raise ValueError(f"size must be from 1 to {MOST_PIXELS}, not {content['size']}")
        if not 0 <= float(content["dropout"]) < 1:
            raise ValueError(f"dropout must be in [0, 1), not {content['dropout']}")
        if not isinstance(content["classes"], (list, tuple)) or not content["classes"]:
            raise ValueError("classes must be a list of names")
        return cls(
            model=str(content["model"]),
            weights=str(content["weights"]),
            classes=tuple(str(name) for name in content["classes"]),
            size=int(content["size"]),
            mean=(red, green, blue),
            std=(deviations[0], deviations[1], deviations[2]),
            dropout=float(content["dropout"]),
            freeze_batchnorm=bool(content["freeze_batchnorm"]),
            bits=int(content.get("bits", 16)),
        )


class Transform:
    """The evaluation view of an image: resized to a square, scaled to [0, 1], normalised as in ``spec``."""

    def __init__(self, spec: Spec) -> None:
        self.size, self.mean, self.std, self.bits = spec.size, spec.mean, spec.std, spec.bits

    def __call__(self, image: Image.Image | npt.NDArray[np.uint8] | str | Path) -> Tensor:
        """Turn an image into float32 (3, size, size).

        Args:
            image: a path, a Pillow image, or an array as ``data.images.from_array`` takes it: uint8 (height, width, 3).
                Of the first two large ones are first shrunk, as they are for training.

        Raises:
            UserError: the file is not a readable image, or the array is another.
        """
        from ..data.images import bound_for, decode, from_array, to_rgb

        if isinstance(image, (str, Path)):
            pixels = decode(Path(image), bound_for([self.size]), self.bits)
        elif isinstance(image, Image.Image):
            pixels = to_rgb(image, bound_for([self.size]), self.bits)
        else:
            pixels = from_array(image)
        return normalise(evaluation_view([pixels], self.size), self.mean, self.std)[0]


class Network(nn.Module):
    """``head(dropout(backbone(x)))``; a plain module whose state dict has ``backbone.…`` and ``head.…``.

    Args:
        backbone: maps normalised images (batch, 3, size, size) to the representation (batch, units).
        units: width of the representation.
        spec: architecture, classes and normalisation.
        masks: number K of dropout masks for each image in training.

    Attributes:
        temperature: softmax(logits / temperature) gives calibrated probabilities; None where none was fitted, as in
            checkpoints of earlier versions. ``forward`` gives the logits themselves.
        about: what the checkpoint says of itself: config, domains, step, accuracies; empty for a new network.
    """

    __jit_unused_properties__: ClassVar[list[str]] = ["classes", "transform"]

    def __init__(self, backbone: nn.Module, units: int, spec: Spec, masks: int = 1) -> None:
        super().__init__()
        self.spec = spec
        # No annotations of the class, which torch.jit would not understand.
        self.temperature: float | None = None
        self.about: Mapping[str, Any] = {}
        self.backbone = backbone
        self.dropout = RepresentationDropout(spec.dropout, masks)
        self.head = nn.Linear(units, len(spec.classes))

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the logits."""
        return self.spec.classes

    @property
    def transform(self) -> Transform:
        """The function from an image to one input of ``forward``, (3, size, size)."""
        return Transform(self.spec)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images (batch, 3, size, size) to logits, (batch, classes), or in training (K · batch, classes)."""
        logits: Tensor = self.head(self.dropout(self.represent(images)))
        return logits

    def represent(self, images: Tensor) -> Tensor:
        """Φ(x): normalised images (batch, 3, size, size) to (batch, units), before dropout."""
        representation: Tensor = self.backbone(images)
        return representation

    def train(self, mode: bool = True) -> Network:
        """Set the mode; frozen batch norms stay in evaluation mode, their scale and shift are still trained."""
        super().train(mode)
        if self.spec.freeze_batchnorm:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self


def weights_crc(network: nn.Module) -> str:
    """CRC-32 of the names and bytes of a network's weights, eight hexadecimal digits, on any device."""
    check = 0
    for name, tensor in network.state_dict().items():
        content = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        check = zlib.crc32(content, zlib.crc32(name.encode(), check))
    return f"{check:08x}"
