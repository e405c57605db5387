"""Weights in other names, or of a network for another size of image, fitted into a network."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterable
from contextlib import suppress
from math import isqrt
from pathlib import Path

import timm
import torch
from timm.layers.pos_embed import resample_abs_pos_embed
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import UserError
from .sizes import size_settings

__all__ = ["fitted_state", "plain_names"]

PREFIXES = ("module.", "model.")
"""What DistributedDataParallel, and wrappers such as Lightning's, put before the names of a network."""

COMPILED = "_orig_mod."
"""What ``torch.compile`` puts before the names of the parts that it compiled."""

AVERAGED = "n_averaged"
"""The counter of ``torch.optim.swa_utils.AveragedModel``, beside ``module.…``."""

MOST_PREFIX = 8
"""Largest number of tokens without a position (class, registers) that are looked for before a position embedding."""


def plain_names(state: dict[str, Tensor], names: Iterable[str]) -> dict[str, Tensor]:
    """``state`` without the prefixes of what a network was wrapped in, one inside the other or not.

    Of a state dict of ``Network``, the part of the backbone, with the head left out.

    Args:
        state: tensors by name.
        names: names of the network that they are for; a prefix that is one of its own stays.
    """
    own = {name.partition(".")[0] for name in names}
    state = {name.replace(COMPILED, ""): tensor for name, tensor in state.items() if name != AVERAGED}
    while found := [prefix for prefix in PREFIXES if state and all(name.startswith(prefix) for name in state)]:
        if found[0].rstrip(".") in own:
            break
        state = {name.removeprefix(found[0]): tensor for name, tensor in state.items()}
    if "backbone" not in own and any(name.startswith("backbone.") for name in state):
        head = ("head.weight", "head.bias")
        state = {name.removeprefix("backbone."): tensor for name, tensor in state.items() if name not in head}
    return state


def fitted_state(
    state: dict[str, Tensor], model: str, backbone: nn.Module, path: Path, size: int, made_for: int
) -> dict[str, Tensor]:
    """The tensors of ``backbone`` from a state dict with timm's names (or names that timm's converter knows).

    Args:
        state: tensors by name, with or without a classifier.
        model: timm's name of the network.
        backbone: the network without its head, built for images of ``size`` pixels.
        path: file of the state dict, for messages.
        size: side of the images in pixels.
        made_for: side of the images that the tensors are for, as far as known; others are tried as well.

    Raises:
        UserError: the file lacks tensors, has them in another shape, or has tensors that are not part of ``model``.
    """
    expected: dict[str, Tensor] = backbone.state_dict()
    counters = {key for key in expected if key.endswith("num_batches_tracked")}  # missing in old files, and never read
    lacking = [key for key in expected if key not in state and key not in counters]
    if lacking or _others(state, expected):
        # Some converters take a file in timm's names without a classifier for one in its authors'.
        if not lacking:
            whole = _shapes(model, size)
            state |= {key: torch.zeros(whole[key]) for key in whole.keys() - expected.keys() - state.keys()}
        convert = getattr(sys.modules[type(backbone).__module__], "checkpoint_filter_fn", None)
        if convert is not None:
            # timm's converter may fail on a file of something else; the checks below say what is wrong with it.
            with suppress(KeyError, RuntimeError, ValueError, TypeError, AttributeError), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # its interpolation of biases indexes in a way that torch dislikes
                state = convert(state, backbone)
        lacking = [key for key in expected if key not in state and key not in counters]
    state = {key: _resampled(key, tensor, expected) for key, tensor in state.items()}
    wrong = _others(state, expected)
    if wrong and made_for != size and not lacking:
        shapes = _shapes(model, made_for)
        if all(state[key].shape == shapes.get(key) for key in wrong):
            raise UserError(
                f"the weights in {path} are of {model} for images of {made_for} pixels and cannot be resampled for "
                f"{size}: set size to {made_for}, or take random weights"
            )
    foreign = sorted(state.keys() - expected.keys())
    foreign = foreign and sorted(set(foreign) - _shapes(model, size).keys())
    for fault, keys in {"lacks": lacking, "has in another shape": wrong, "has, as no part of it,": foreign}.items():
        if keys:
            more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
            raise UserError(f"the weights in {path} do not fit {model}: the file {fault} {keys[0]}{more}")
    return {key: state[key] for key in expected if key in state}


def _others(state: dict[str, Tensor], expected: dict[str, Tensor]) -> list[str]:
    """The names of tensors in another shape than expected."""
    return [key for key in expected if key in state and state[key].shape != expected[key].shape]


def _shapes(model: str, size: int) -> dict[str, torch.Size]:
    """The shapes of the state dict of ``model`` with its classifier for images of ``size`` pixels, by name."""
    with torch.random.fork_rng(devices=[]):
        network = timm.create_model(model, pretrained=False, **size_settings(model, size))
    return {key: tensor.shape for key, tensor in network.state_dict().items()}


def _resampled(key: str, tensor: Tensor, expected: dict[str, Tensor]) -> Tensor:
    """A position embedding that timm's converter left at another size, resampled; any other tensor itself.

    Bicubic with antialiasing as timm does it, over tokens (1, n, c), where some at the beginning have no position, or
    over a map (1, h, w, c) or (1, c, h, w).
    """
    if key not in expected or "pos" not in key:
        return tensor
    old, new = tensor.shape, expected[key].shape
    if old == new or len(old) != len(new) or old[0] != 1:
        return tensor
    if len(old) == 3 and old[2] == new[2]:
        for prefix in range(MOST_PREFIX + 1):
            if _is_square(old[1] - prefix) and _is_square(new[1] - prefix):
                side = isqrt(new[1] - prefix)
                result: Tensor = resample_abs_pos_embed(tensor, [side, side], num_prefix_tokens=prefix)
                return result
    if len(old) == 4 and old[3] == new[3]:
        moved = tensor.permute(0, 3, 1, 2).float()
        return _map_resampled(moved, (new[1], new[2])).permute(0, 2, 3, 1).to(tensor.dtype)
    if len(old) == 4 and old[1] == new[1]:
        return _map_resampled(tensor.float(), (new[2], new[3])).to(tensor.dtype)
    return tensor


def _map_resampled(grid: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(grid, size=size, mode="bicubic", antialias=True, align_corners=False)


def _is_square(count: int) -> bool:
    return count > 0 and isqrt(count) ** 2 == count
