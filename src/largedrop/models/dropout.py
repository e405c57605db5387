"""Dropout on the representation: the paper's m(λ)/(1−λ) ⊙ Φ(x), section 3.1."""

from __future__ import annotations

from contextlib import suppress

from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import UserError, one_of

__all__ = ["RepresentationDropout", "check_rate", "set_dropout"]

HEAD_NAMES = ("head", "fc", "classifier", "head.fc", "heads.head", "last_linear", "score")


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


class RepresentationDropout(nn.Module):
    """Zero each unit of a representation with probability ``rate`` and divide the others by 1 − ``rate``.

    A new mask is drawn for every example and call, from torch's global generator; the identity in evaluation mode.
    Unlike ``torch.nn.Dropout``, it refuses a rate of 1.

    Raises:
        UserError: the rate is not in [0, 1).
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = check_rate(rate)

    def forward(self, representation: Tensor) -> Tensor:
        """Map (batch, units) to the same shape."""
        return F.dropout(representation, self.rate, self.training)

    def extra_repr(self) -> str:
        """The rate, for ``repr``."""
        return f"rate={self.rate}"


class _InputDropout:
    """A forward pre-hook that drops units of a head's input; a hook does not change the names in the state dict."""

    def __init__(self, rate: float) -> None:
        self.rate = rate

    def __call__(self, head: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (F.dropout(args[0], self.rate, head.training), *args[1:])


def set_dropout(module: nn.Module, rate: float, head: str | None = None) -> nn.Module:
    """Put dropout at ``rate`` on the representation of any classifier, the input of its last linear layer, in place.

    Works on networks of timm, torchvision and transformers, and on any module with a linear head. Calling it again
    changes the rate; a rate of 0 removes the dropout. State dicts keep their names. The network's own dropout before
    the head (timm's ``head_drop``, the ``Dropout`` in torchvision's ``classifier``) is set to 0, so that ``rate`` is
    the only one.

    Args:
        module: the network, changed in place.
        rate: dropout rate λ in [0, 1), the share of units that are zeroed.
        head: dotted name of the head inside ``module``; where None, found by its usual names.

    Returns:
        The same module.

    Raises:
        UserError: the rate is not in [0, 1), there is no head of that name, or none is found.
    """
    rate = check_rate(rate)
    own = [child for child in module.modules() if isinstance(child, RepresentationDropout)]
    if own and head is None:
        for child in own:
            child.rate = rate
        return module
    name, target = _find_head(module, head)
    for child in own:
        child.rate = 0.0
    _silence_own_dropout(module, name)
    for key, hook in list(target._forward_pre_hooks.items()):
        if isinstance(hook, _InputDropout):
            del target._forward_pre_hooks[key]
    if rate > 0:
        target.register_forward_pre_hook(_InputDropout(rate))
    return module


def _find_head(module: nn.Module, name: str | None) -> tuple[str, nn.Module]:
    children = dict(module.named_modules())
    linear = [key for key, child in children.items() if isinstance(child, nn.Linear)]
    if name is not None:
        if name not in children:
            raise UserError(f"the network has no head '{name}'; {one_of(name, linear[-12:])}")
        return _last_linear(name, children[name])
    if isinstance(module, nn.Linear):
        return "", module
    classifier = getattr(module, "get_classifier", None)
    if callable(classifier):
        found = classifier()
        for key, child in children.items():
            if child is found and not isinstance(child, nn.Identity):
                return _last_linear(key, child)
    if isinstance(module, nn.Sequential) and len(module):
        with suppress(UserError):  # its message names the layers of the last part only
            key, target = _find_head(module[-1], None)
            return f"{len(module) - 1}.{key}".strip("."), target
    for key in HEAD_NAMES:
        if key in children and any(isinstance(child, nn.Linear) for child in children[key].modules()):
            return _last_linear(key, children[key])
    raise UserError(
        f"found no head in {type(module).__name__}: name its last linear layer with head='…'"
        + (f" (it has {', '.join(linear[-6:])})" if linear else " (it has no linear layer)")
    )


def _last_linear(name: str, head: nn.Module) -> tuple[str, nn.Module]:
    """The last linear layer of a head, with its dotted name; the head itself where it contains none."""
    if isinstance(head, nn.Linear):
        return name, head
    linear = [(key, child) for key, child in head.named_modules() if isinstance(child, nn.Linear)]
    if not linear:
        return name, head
    key, child = linear[-1]
    return f"{name}.{key}".strip("."), child


def _silence_own_dropout(module: nn.Module, head: str) -> None:
    """Set the dropout directly before the head to 0, in the forms of timm, transformers and torchvision."""
    children = dict(module.named_modules())
    parts = head.split(".")
    above = [module, *(children[".".join(parts[:depth])] for depth in range(1, len(parts)))]
    for ancestor in above:
        if isinstance(getattr(ancestor, "drop_rate", None), float):
            setattr(ancestor, "drop_rate", 0.0)  # noqa: B010  # timm: F.dropout(x, p=self.drop_rate) in forward_head
    parent = above[-1]
    named = [getattr(parent, key, None) for key in ("head_drop", "drop", "dropout")]  # timm; timm; transformers
    siblings = list(parent.children()) if isinstance(parent, nn.Sequential) else []  # torchvision's classifier
    before = siblings[: siblings.index(children[head])][-1:] if siblings and children.get(head) in siblings else []
    for dropout in [*named, *before]:
        if isinstance(dropout, nn.Dropout):
            dropout.p = 0.0
