"""The heads of a classifier: its last linear layers, found by the usual names, and those side by side with them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from torch import nn

from ..errors import UserError, check_type, one_of, plain, several

__all__ = ["find_heads", "parameter_groups"]

HEAD_NAMES = ("head", "fc", "classifier", "head.fc", "heads.head", "last_linear", "score")
"""Names of heads in timm, torchvision and transformers; the first that there is, is one."""

HEADLIKE = re.compile(r"head|classif|aux|^fc|logits|^last_linear$|^score$", re.IGNORECASE)
"""Names of what may be a head beside another: ``head_dist``, ``aux_head``, ``AuxLogits``, ``cls_classifier``."""

Layers = dict[str, nn.Module]
"""Layers by their dotted names, in the network's order."""


def find_heads(module: nn.Module, named: str | Sequence[str] | None = None) -> Layers:
    """The last linear layer of each head of ``module``: one, or several side by side.

    Heads are what timm's ``get_classifier`` returns, or have one of the usual names; what has the name of a head beside
    them is another one. Which linear layers are the last is told by their widths: a layer whose width another one reads
    is not, and one with as many outputs as the last layer is.

    Args:
        named: dotted names of the heads, taken as they are; where None, they are found.

    Raises:
        UserError: there is no head of that name, none is found, or it is not clear which layers are heads.
    """
    layers = dict(module.named_modules())
    if named is not None:
        names = several(named, "head must be a dotted name, or several")
        for name in names or ("",):
            if not name or name not in layers:
                raise UserError(f"the network has no head '{name}'; {one_of(name, list(_linear(layers))[-12:])}")
        return {key: layer for name in names for key, layer in _last_of(name, layers[name]).items()}
    if isinstance(module, nn.Linear):
        return {"": module}
    for name, inner in _inside(module):
        return {f"{name}.{key}".strip("."): layer for key, layer in find_heads(inner).items()}
    if heads := _of_timm(module, layers):
        return _with_others(heads, layers, known=heads)
    if isinstance(module, nn.Sequential) and len(module):
        last = len(module) - 1
        with suppress(UserError):  # its message names the layers of the last part only
            return {f"{last}.{key}".strip("."): layer for key, layer in find_heads(module[-1]).items()}
    usual = [name for name in HEAD_NAMES if name in layers and _linear_in(layers[name])]
    similar = [name for name, child in module.named_children() if HEADLIKE.search(name) and _linear_in(child)]
    for name in [*usual, *similar][:1]:
        return _with_others(_last_of(name, layers[name]), layers)
    linear = list(_linear(layers))
    raise UserError(
        f"found no head in {type(module).__name__}: name its last linear layer with head='…'"
        + (f" (it has {', '.join(linear[-6:])})" if linear else " (it has no linear layer)")
    )


def parameter_groups(
    module: nn.Module, lr: float, head_lr_multiplier: float = 1.0, head: str | Sequence[str] | None = None
) -> list[dict[str, Any]]:
    """An optimiser's groups: the backbone at ``lr``, the heads at ``lr`` × ``head_lr_multiplier`` (section 4.2.1).

    Args:
        module: any classifier; parameters that are frozen are in no group.
        lr: learning rate.
        head_lr_multiplier: learning rate of the heads over that of the backbone, 10 for the paper's larger one.
        head: dotted name of the head inside ``module``, or of each head; where None, found by their usual names.

    Returns:
        For ``torch.optim``: the backbone's group, and the heads'.

    Raises:
        UserError: a rate is not above 0; or as ``find_heads``.
    """
    check_type(module, nn.Module, "parameter groups are made of a torch.nn.Module")
    lr, head_lr_multiplier = plain(lr), plain(head_lr_multiplier)
    for name, value in (("lr", lr), ("head_lr_multiplier", head_lr_multiplier)):
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
            raise UserError(f"{name} must be a number above 0, not {value!r}")
    heads = nn.ModuleList(find_heads(module, head).values()).parameters()
    of_heads = [parameter for parameter in heads if parameter.requires_grad]
    known = {id(parameter) for parameter in of_heads}
    body = [each for each in module.parameters() if id(each) not in known and each.requires_grad]
    return [{"params": body, "lr": lr}, {"params": of_heads, "lr": lr * head_lr_multiplier}]


def _inside(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The network in what ``torch.compile`` or ``DataParallel`` makes of one, with its name there."""
    parts = list(module.named_children())
    if [name for name, _ in parts] in (["_orig_mod"], ["module"]):
        yield parts[0]


def _of_timm(module: nn.Module, layers: Layers) -> Layers:
    """The heads that timm's ``get_classifier`` returns, one or several; none where there is no such method."""
    classifier = getattr(module, "get_classifier", None)
    found = classifier() if callable(classifier) else ()
    parts = found if isinstance(found, (tuple, list)) else [found]
    names = [name for name, child in layers.items() if any(child is part for part in parts)]
    names = [name for name in names if name and not isinstance(layers[name], nn.Identity)]
    return {key: layer for name in names for key, layer in _last_of(name, layers[name]).items()}


def _with_others(heads: Layers, layers: Layers, known: Iterable[str] = ()) -> Layers:
    """``heads``, and those beside them or the parts around them.

    Args:
        known: names of what is a head whatever its width.
    """
    group = dict(heads)
    parents = {name.rpartition(".")[0] for name in heads}
    while parents:
        for parent in parents:
            for name, child in layers[parent].named_children():
                path = f"{parent}.{name}".strip(".")
                around = any(head == path or head.startswith(f"{path}.") for head in heads)
                if HEADLIKE.search(name) and not around and _linear_in(child):
                    group.update(_last_of(path, child))
        parents = {parent.rpartition(".")[0] for parent in parents if parent}
    return _last(group, layers, known)


def _last_of(name: str, head: nn.Module) -> Layers:
    """The last linear layers of a head; the head itself where it contains none."""
    if isinstance(head, nn.Linear) or not _linear_in(head):
        return {name: head}
    parts = [(f"{name}.{key}".strip("."), child) for key, child in head.named_children() if _linear_in(child)]
    if isinstance(head, nn.Sequential) or len(parts) == 1:
        return _last_of(*parts[-1])
    group = {key: layer for child in parts for key, layer in _last_of(*child).items()}
    return _last(group, group)


def _last(group: Layers, order: Iterable[str], known: Iterable[str] = ()) -> Layers:
    """Those of a group of layers whose outputs no other one of it reads: heads side by side.

    Args:
        order: names in the network's order; of layers none of which is known as a head, the last is one.
        known: names of what is a head, whatever its width.

    Raises:
        UserError: it is not clear which they are.
    """
    names = [name for name in order if name in group]
    sure = list(known) or names[-1:]
    widths = {name: (layer.in_features, layer.out_features) for name, layer in _linear(group).items()}
    classes = {widths[name][1] for name in sure if name in widths}
    last, unclear = [], []
    for name in names:
        outputs = 0 if name in sure else widths[name][1]
        read = any(inputs == outputs for other, (inputs, _) in widths.items() if other != name)
        if name in sure or (outputs in classes and not read):
            last.append(name)
        elif outputs in classes or not read:
            unclear.append(name)
    if unclear:
        raise UserError(
            f"cannot tell whether {', '.join(unclear)} {'are heads' if unclear[1:] else 'is a head'} beside "
            f"{', '.join(last)}: name the heads with head=['…', …]"
        )
    return {name: group[name] for name in last}


def _linear(layers: Mapping[str, nn.Module]) -> dict[str, nn.Linear]:
    return {name: layer for name, layer in layers.items() if isinstance(layer, nn.Linear)}


def _linear_in(layer: nn.Module) -> bool:
    """Whether it is a linear layer or contains one."""
    return any(isinstance(child, nn.Linear) for child in layer.modules())
