"""Shifted ImageNets (figure 1): a network of ImageNet's classes on a set that has some of them, or coarser ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..errors import UserError
from .facts import IMAGENET, published
from .layouts import imagenet_names

__all__ = ["Projection", "projection"]


@dataclass(frozen=True)
class Projection:
    """From the logits of a network to those of a shifted ImageNet's classes.

    Attributes:
        classes: names of the set's class folders of which the network knows a class.
        columns: indices of the network's classes that are right for each of them.
    """

    classes: tuple[str, ...]
    columns: tuple[tuple[int, ...], ...]

    def __call__(self, logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """The largest logit among those that are right for each class, (n, classes) from (n, the network's classes).

        As imagenet-testbed and WiSE-FT do it: what the set does not have is never predicted.
        """
        return np.stack([logits[:, list(columns)].max(axis=1) for columns in self.columns], axis=1)


def projection(name: str, known: Sequence[str], folders: Sequence[str]) -> Projection:
    """How a network of ImageNet's classes is scored on a shifted ImageNet.

    Args:
        name: name of the set.
        known: names of the network's classes: ImageNet's (n01440764, …), or the numbers 0 to 999.
        folders: names of the class folders; ImageNet-V2's may be ImageNet's names or numbers.

    Raises:
        UserError: ``name`` is no shifted ImageNet, or the network knows none of its classes.
    """
    facts = published(name)
    if facts.kind != "shifted ImageNet":
        raise UserError(f"{facts.name} is no shifted ImageNet: its own classes are scored")
    names = imagenet_names()
    places = {each: place for place, each in enumerate(known)}
    where = [places.get(names[index], places.get(str(index), -1)) for index in range(IMAGENET)]
    numbered = all(folder.isdigit() for folder in folders)
    right = facts.classes_of or {str(index) if numbered else names[index]: (index,) for index in facts.imagenet}
    found = {folder: tuple(where[index] for index in indices if where[index] >= 0) for folder, indices in right.items()}
    scored = {folder: columns for folder, columns in found.items() if columns}
    if not scored:
        raise UserError(
            f"the model knows no class of {facts.name}: its classes must be called as ImageNet's folders, such as "
            f"{names[0]}, and are {', '.join(known[:3])}{', …' * (len(known) > 3)}"
        )
    return Projection(tuple(scored), tuple(scored.values()))
