"""For images of which size a network can be built: tried on torch's meta device, where nothing is computed.

A network whose size is fixed when it is built (ViT, Swin, MLP-Mixer, …) is built for the size asked for, where timm's
constructor takes ``img_size``; all others are built as they are. A size that neither takes is refused before anything
is loaded, with those near it that it takes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, NamedTuple

import timm
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..errors import UserError

__all__ = ["build", "check_one_image", "pretrained_size", "representation_units", "shapes_of", "size_settings"]

_FAULTS = (AssertionError, AttributeError, ArithmeticError, LookupError, RuntimeError, TypeError, ValueError)
"""What networks raise that do not fit the images, or whose constructor has no argument ``img_size``."""

STEPS = (14, 16, 32)
"""Sizes that are tried for a message are multiples of these: the sides of patches, and what convolutional networks
divide a side by."""


def build(model: str, size: int, **settings: Any) -> nn.Module:
    """Timm's ``model`` without its head, for square images of ``size`` pixels, from normalised images to Φ(x).

    Args:
        settings: further arguments of ``timm.create_model``; random weights by default.

    Raises:
        UserError: the network does not take images of that size, or has no representation.
    """
    network: nn.Module = timm.create_model(model, num_classes=0, **size_settings(model, size), **settings)
    return network


def representation_units(backbone: nn.Module) -> int:
    """Width of the representation of a timm network without its classifier."""
    return int(getattr(backbone, "head_hidden_size", None) or getattr(backbone, "num_features"))  # noqa: B009


def pretrained_size(model: str) -> int:
    """Side of the images that ``model`` was made or pretrained for, in pixels."""
    config = timm.models.get_pretrained_cfg(model, allow_unregistered=True)
    return int(config.input_size[-1]) if config else 224


def size_settings(model: str, size: int) -> dict[str, Any]:
    """The arguments of ``timm.create_model`` with which ``model`` takes images of ``size`` pixels.

    Empty where it takes them as it is, so that a run stays what it was before networks were built for a size.

    Raises:
        UserError: there are none, with the nearest sizes that it takes; or its output is not one vector for each image.
    """
    found = _try(model, size)
    if found.settings is None:
        taken = [str(other) for other in _near(model, size) if _try(model, other).settings is not None]
        if not taken:
            raise UserError(f"{model} cannot be built: {found.fault}")
        listed = ", ".join(taken[:-1]) + " and " * (len(taken) > 1) + taken[-1]
        raise UserError(f"{model} takes no images of {size} pixels; of the sizes near it, it takes {listed}")
    if not found.vector:
        raise UserError(f"{model} has no representation: its output is not one vector for each image")
    return found.settings


def check_one_image(model: str, size: int) -> None:
    """Check that ``model`` can learn from a single image: batch norm has no variance of one value for each channel.

    Raises:
        UserError: it cannot.
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        network = build(model, size).train()
        try:
            network(torch.zeros(1, 3, size, size))
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise UserError(
                f"{model} cannot learn from a batch of one image of {size} pixels: its batch norms need more than one "
                "value for each channel; set batch to 2 or more"
            ) from error


def shapes_of(make: Callable[[], nn.Module]) -> dict[str, Tensor]:
    """State dict of the network that ``make`` builds, without memory where it can be built so; draws nothing."""
    with torch.random.fork_rng(devices=[]):
        try:
            with _on_meta():
                return make().state_dict()
        except _FAULTS:  # a network that must compute values to be built
            return make().state_dict()


@contextmanager
def _on_meta() -> Iterator[None]:
    """Within the block, tensors are made without memory."""

    class Numbers(TorchFunctionMode):
        """Rates that timm's older versions read off a tensor have to be numbers."""

        def __torch_function__(
            self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
        ) -> Any:
            device = {"device": "cpu"} if function is torch.linspace else {}
            return function(*args, **{**device, **(kwargs or {})})

    with torch.device("meta"), Numbers():
        yield


class _Tried(NamedTuple):
    """Arguments with which a network takes a size, or None; whether it gives (n, units) then; the device that it was
    tried on, and what it raised first.
    """

    settings: dict[str, Any] | None
    vector: bool
    device: str
    fault: str


@lru_cache(maxsize=512)
def _try(model: str, size: int) -> _Tried:
    fault = ""
    for device in ("meta", "cpu"):
        for settings in ({}, {"img_size": size}):
            try:
                return _Tried(settings, _is_vector(model, size, settings, device), device, "")
            except _FAULTS as error:
                fault = fault or " ".join(f"{type(error).__name__}: {error}".split())
        own = pretrained_size(model)
        if size != own and _try(model, own).device == "meta":
            break  # so it is the size; a network that must compute values to be built is tried on the processor
    return _Tried(None, False, "", fault)


def _is_vector(model: str, size: int, settings: dict[str, Any], device: str) -> bool:
    """Whether the output of the network, in evaluation mode, is its representation, (n, units)."""
    on_device = _on_meta() if device == "meta" else torch.device(device)
    with on_device, torch.random.fork_rng(devices=[]), torch.no_grad():
        network = timm.create_model(model, pretrained=False, num_classes=0, **settings).eval()
        output = network(torch.zeros(2, 3, size, size))
    return isinstance(output, Tensor) and output.shape == (2, representation_units(network))


def _near(model: str, size: int) -> list[int]:
    """Sizes near ``size``, and the network's own."""
    near = {(size // step + more) * step for step in STEPS for more in (-1, 0, 1, 2)}
    return sorted((near | {pretrained_size(model)}) - {size, 0, *(-step for step in STEPS)})
