"""Recording one forward pass of a network, so that layers are found by structure, not by name.

Used to find the batch norms that can be folded (``fast.folding``), the residual blocks whose branches can be dropped
(``block_dropout``) and the last residual blocks' outputs (``taps``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from ..errors import UserError

__all__ = ["Watch", "copied", "evaluating", "run_example", "tensors_in"]


class Watch(TorchFunctionMode):
    """Observes, within a ``with`` block, the calls of ``layers`` and of torch's functions on tensors.

    Subclasses override ``entered``, ``left`` and ``called``. All outputs are kept, so that within the block an ``id``
    identifies one tensor.
    """

    def __init__(self, layers: Iterable[nn.Module]) -> None:
        super().__init__()
        self._kept: list[Any] = []
        self._hooks = [
            hook
            for layer in layers
            for hook in (layer.register_forward_pre_hook(self.entered), layer.register_forward_hook(self._leave))
        ]

    def __exit__(self, *error: Any) -> None:
        for hook in self._hooks:
            hook.remove()
        super().__exit__(*error)  # type: ignore[no-untyped-call]

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        self._kept.append(result)
        name = str(getattr(function, "__name__", function))
        if name != "__get__":  # reading .shape does not read the values
            self.called(name, (args, kwargs), args[:1] if name == "__setitem__" else result)
        return result

    def _leave(self, layer: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self._kept.append(output)
        self.left(layer, args, output)

    def entered(self, layer: nn.Module, args: tuple[Any, ...]) -> None:
        """A call of ``layer`` begins."""

    def left(self, layer: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """A call of ``layer`` has ended."""

    def called(self, name: str, inputs: Any, outputs: Any) -> None:
        """The function ``name`` was called; tensors may lie anywhere in its ``inputs`` and ``outputs``."""


def run_example(module: nn.Module, example: Tensor | None, caller: str) -> Any:
    """The output of ``module`` for ``example``, or for one black image where that is None.

    The image has the size that the network was pretrained at (timm's ``pretrained_cfg``), or 64 pixels.

    Args:
        example: an input, (batch, channels, height, width), or None.
        caller: name of the calling function, for the message.

    Raises:
        UserError: the network cannot take the default image. Errors of a given example are raised as they are.
    """
    if example is not None:
        return module(example)
    config: Any = getattr(module, "pretrained_cfg", None) or {}
    like = next(module.parameters())
    image = torch.zeros((1, *config.get("input_size", (3, 64, 64))), dtype=like.dtype, device=like.device)
    try:
        return module(image)
    except Exception as error:
        raise UserError(
            f"cannot follow a default image through {type(module).__name__} ({error}); give {caller} an example="
        ) from error


def tensors_in(tree: Any) -> list[Tensor]:
    """All tensors in nested tuples, lists and dictionaries."""
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def copied(leaf: Any, noise: bool = False) -> Any:
    """A copy of a tensor, since layers may change their input in place; any other object itself.

    Args:
        leaf: a tensor or any other object.
        noise: whether to add standard normal noise to floating-point values, a function of the shape alone.
    """
    if not isinstance(leaf, Tensor):
        return leaf
    if not (noise and leaf.is_floating_point()):
        return leaf.clone()
    generator = torch.Generator().manual_seed(0)  # the global generator is not advanced
    return leaf + torch.randn(leaf.shape, generator=generator).to(leaf)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode within a ``with`` block; each layer's own mode is restored after it."""
    modes = [(child, child.training) for child in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for child, mode in modes:
            child.training = mode
