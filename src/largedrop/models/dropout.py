"""Dropout on the representation: the paper's m(λ)/(1−λ) ⊙ Φ(x), section 3.1."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import UserError, check_type, plain
from .heads import find_heads
from .masks import MOST, several_masks

__all__ = ["RepresentationDropout", "check_masks", "check_rate", "set_dropout"]


def check_rate(rate: float, name: str = "the dropout rate") -> float:
    """Return ``rate`` as a float; ``name`` is what a message calls it.

    Raises:
        UserError: the rate is not in [0, 1).
    """
    try:
        value = float(rate)
    except (TypeError, ValueError):
        raise UserError(f"{name} must be a number in [0, 1), not {rate!r}") from None
    if not 0.0 <= value < 1.0:
        raise UserError(f"{name} must be in [0, 1), not {rate}: at 1 every unit is zero")
    return value


def check_masks(masks: int) -> int:
    """Return ``masks`` as an int.

    Raises:
        UserError: it is not a whole number from 1 to 1024.
    """
    masks = plain(masks)
    if isinstance(masks, bool) or not isinstance(masks, int) or not 1 <= masks <= MOST:
        raise UserError(f"the number of dropout masks must be a whole number from 1 to {MOST}, not {masks!r}")
    return masks


class RepresentationDropout(nn.Module):
    """Zero each unit of a representation with probability ``rate`` and divide the others by 1 − ``rate``.

    New masks are drawn for every example and call, from torch's global generator; the identity in evaluation mode.
    Unlike ``torch.nn.Dropout``, it refuses a rate of 1.

    Args:
        rate: dropout rate λ in [0, 1).
        masks: number K of masks for each example in training. With several, the output has K times as many rows
            (``masks.several_masks``), and the loss is the mean over them: the same expectation with less noise. A rate
            of 0 has no masks.

    Raises:
        UserError: the rate is not in [0, 1), or ``masks`` is not a whole number from 1 to 1024.
    """

    def __init__(self, rate: float, masks: int = 1) -> None:
        super().__init__()
        self.rate = check_rate(rate)
        self.masks = check_masks(masks)

    def forward(self, representation: Tensor) -> Tensor:
        """Map (batch, units) to the same shape, or in training with K masks to (K · batch, units)."""
        return _dropped(representation, self.rate, self.masks, self.training)

    def extra_repr(self) -> str:
        """The rate and the number of masks, for ``repr``."""
        return f"rate={self.rate}" + (f", masks={self.masks}" if self.masks > 1 else "")


def _dropped(representation: Tensor, rate: float, masks: int, training: bool) -> Tensor:
    if training and rate > 0.0 and masks > 1:
        if not torch.jit.is_scripting():  # type: ignore[attr-defined]
            return several_masks(representation, rate, masks)
        raise RuntimeError("a scripted network has one dropout mask for each example: set masks to 1")
    return F.dropout(representation, rate, training)


def _drop_input(self: nn.Module, input: tuple[Tensor]) -> tuple[Tensor]:  # names and types are torch.jit's
    """A forward pre-hook that drops units of a head's input; a hook does not change the names in the state dict."""
    return (_dropped(input[0], self._largedrop_rate, self._largedrop_masks, self.training),)  # type: ignore[arg-type]


def _repeat_labels(self: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]] | None:
    """A forward pre-hook of a network that is given its labels and computes its loss, as transformers' do."""
    masks: Any = self._largedrop_masks
    labels = kwargs.get("labels")
    others = [value for name, value in kwargs.items() if name != "labels"]
    batch = next((len(value) for value in (*args, *others) if isinstance(value, Tensor) and value.dim()), None)
    if not self.training or not isinstance(labels, Tensor) or not labels.dim() or len(labels) != batch:
        return None
    kwargs = {**kwargs, "labels": labels.repeat(masks, *[1] * (labels.dim() - 1))}
    if kwargs.get("num_items_in_batch") is not None:  # what transformers' Trainer has the sum of the losses divided by
        kwargs["num_items_in_batch"] = kwargs["num_items_in_batch"] * masks
    return args, kwargs


def set_dropout(module: nn.Module, rate: float, head: str | Sequence[str] | None = None, masks: int = 1) -> nn.Module:
    """Put dropout at ``rate`` on the representation of any classifier, the input of its last linear layer, in place.

    Works on networks of timm, torchvision and transformers, and on any module with a linear head, also inside what
    ``torch.compile`` and ``DataParallel`` return. Of several heads side by side (a distilled ViT's, a two-branch
    network's, auxiliary ones) each gets the dropout, or they are refused by name. Calling it again changes rate and
    masks; a rate of 0 removes the dropout. State dicts keep their names. The network's own dropout before the head
    (timm's ``head_drop``, the ``Dropout`` in torchvision's ``classifier``) is set to 0, so that ``rate`` is the only
    one. ``copy.deepcopy``, ``torch.export`` and ``torch.jit`` take the result.

    A network that takes ``labels=`` and computes its own loss, as transformers' do, repeats them for the masks itself.

    Args:
        module: the network, changed in place.
        rate: dropout rate λ in [0, 1), the share of units that are zeroed.
        head: dotted name of the head inside ``module``, or of each head; where None, found by their usual names.
        masks: number K of masks for each example in training. With several, outputs in training have K times as many
            rows, all examples under the first mask first, and the loss is
            ``cross_entropy(module(images), labels.repeat(masks))``: the same expectation with less noise, at the cost
            of the head alone. 16 is a good number for a rate of 0.9.

    Returns:
        The same module.

    Raises:
        UserError: the rate is not in [0, 1), ``masks`` is not a whole number from 1 to 1024, there is no head of
            that name, none is found, or it is not clear which layers are heads; or ``masks`` is above 1, and the
            network is one of transformers' decoders, which read one token's logits of those that the head gives.
    """
    check_type(module, nn.Module, "the network must be a torch.nn.Module")
    rate, masks = check_rate(rate), check_masks(masks)
    own = [child for child in module.modules() if isinstance(child, RepresentationDropout)]
    if own and head is None:
        for child in own:
            child.rate, child.masks = rate, masks
        return module
    heads = find_heads(module, head)
    layers = dict(module.named_modules())
    several = rate > 0 and masks > 1
    with_loss = {part for name in heads if several and (part := _with_loss(name, layers)) is not None}
    for child in own:
        child.rate = 0.0
    for target in module.modules():
        for key, hook in list(target._forward_pre_hooks.items()):
            if hook in (_drop_input, _repeat_labels):
                del target._forward_pre_hooks[key]
                target._forward_pre_hooks_with_kwargs.pop(key, None)
    for name, target in heads.items():
        _silence_own_dropout(module, name)
        if rate > 0:
            vars(target).update(_largedrop_rate=rate, _largedrop_masks=masks)  # attributes, which torch.jit reads
            target.register_forward_pre_hook(_drop_input)
    for target in with_loss:
        vars(target).update(_largedrop_masks=masks)
        target.register_forward_pre_hook(_repeat_labels, with_kwargs=True)
    return module


def _with_loss(head: str, layers: dict[str, nn.Module]) -> nn.Module | None:
    """The innermost part around a head whose ``forward`` takes labels; None where there is none.

    Raises:
        UserError: its head reads every token, and the logits of one are taken afterwards, from as many rows as images.
    """
    parts = head.split(".") if head else []
    for depth in reversed(range(len(parts))):
        part = layers[".".join(parts[:depth])]
        if "labels" in inspect.signature(part.forward).parameters:
            kind = type(part).__name__
            if parts[depth:] == ["score"] and kind.endswith("ForSequenceClassification"):
                raise UserError(
                    f"the head of {kind} reads every token, so it has one mask for each text: set masks to 1"
                )
            return part
    return None


def _silence_own_dropout(module: nn.Module, head: str) -> None:
    """Set the dropout directly before the head to 0, in the forms of timm, transformers and torchvision."""
    children = dict(module.named_modules())
    parts = head.split(".")
    above = [module, *(children[".".join(parts[:depth])] for depth in range(1, len(parts)))]
    for ancestor in above:
        if isinstance(getattr(ancestor, "drop_rate", None), float):
            setattr(ancestor, "drop_rate", 0.0)  # noqa: B010  # timm: F.dropout(x, p=self.drop_rate) in forward_head
    parent = above[-1]
    # timm's, before a head of several parts; then timm's and transformers' beside the layer itself.
    named = [*(getattr(ancestor, "head_drop", None) for ancestor in above)]
    named += [getattr(parent, key, None) for key in ("drop", "dropout")]
    siblings = list(parent.children()) if isinstance(parent, nn.Sequential) else []  # torchvision's classifier
    before = siblings[: siblings.index(children[head])][-1:] if siblings and children.get(head) in siblings else []
    for dropout in [*named, *before]:
        if isinstance(dropout, nn.Dropout):
            dropout.p = 0.0
