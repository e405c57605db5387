"""Accuracies between the pretrained and the fine-tuned network: the file interpolation.json in a run's folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import read_json

__all__ = ["INTERPOLATED", "INTERPOLATION_FILE", "Interpolation"]

INTERPOLATION_FILE = "interpolation.json"
"""Name of the file in a run's folder."""

INTERPOLATED = ("weights", "representations")
"""Kinds of interpolation: of all weights, or of the representations and the last layers."""

FORMAT = 2
"""Format of the file: in 1 i.i.d. accuracy is pooled over images, in 2 it is the mean over the training domains."""

SCORES = ("iid", "ood")


@dataclass(frozen=True)
class Interpolation:
    """Accuracies of α · pretrained + (1 − α) · fine-tuned (figure 1, appendix A.1), as fractions.

    Attributes:
        which: the fine-tuned checkpoint, at α = 0: ``final`` or ``best``.
        alphas: ascending in [0, 1]; at 1, the pretrained network with a linear head fitted on its representation.
        weights: (i.i.d., o.o.d.) accuracy at each α, all weights interpolated.
        representations: (i.i.d., o.o.d.) accuracy at each α, Φ and the last layer interpolated.
        pooled: whether the i.i.d. accuracies are pooled over images, as older versions stored them.
        tested_on: for a run without a test domain the sets whose mean the o.o.d. accuracies are, by name: the
            fingerprint, and the accuracy at each α for each of ``INTERPOLATED``.
    """

    which: str
    alphas: tuple[float, ...]
    weights: tuple[tuple[float, float], ...]
    representations: tuple[tuple[float, float], ...]
    pooled: bool = False
    tested_on: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def of(self, kind: str) -> tuple[tuple[float, float], ...]:
        """The accuracies of one of ``INTERPOLATED``."""
        return self.weights if kind == "weights" else self.representations

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types; ``from_json`` reads them back."""
        kinds = {
            kind: {name: [pair[index] for pair in self.of(kind)] for index, name in enumerate(SCORES)}
            for kind in INTERPOLATED
        }
        found = {"format": 1 if self.pooled else FORMAT, "which": self.which, "alphas": list(self.alphas), **kinds}
        return {**found, "tested_on": self.tested_on} if self.tested_on else found

    @classmethod
    def from_json(cls, content: dict[str, Any], where: str) -> Interpolation:
        """Check ``content`` and make an interpolation of it.

        Raises:
            UserError: the file is of a newer version, or a value is missing or out of range.
        """
        if isinstance(content.get("format"), int) and content["format"] > FORMAT:
            raise UserError(f"{where}: written by a newer largedrop (format {content['format']}, this reads {FORMAT})")
        try:
            alphas = tuple(float(alpha) for alpha in content["alphas"])
            pairs = {
                kind: tuple(
                    (float(iid), float(ood))
                    for _, iid, ood in zip(alphas, *(content[kind][name] for name in SCORES), strict=True)
                )
                for kind in INTERPOLATED
            }
            tested_on = {str(name): dict(each) for name, each in dict(content.get("tested_on", {})).items()}
            pooled = content.get("format") == 1
            found = cls(str(content["which"]), alphas, **pairs, pooled=pooled, tested_on=tested_on)
        except (KeyError, TypeError, ValueError) as error:
            told = f"'{error.args[0]}' is missing" if isinstance(error, KeyError) else str(error)
            raise UserError(f"{where}: {told}") from error
        if not alphas or not all(0 <= alpha <= 1 for alpha in alphas) or list(alphas) != sorted(set(alphas)):
            told = ", ".join(f"{alpha:g}" for alpha in alphas)
            raise UserError(f"{where}: α must be ascending numbers from 0 to 1, not {told}")
        if not all(0 <= value <= 1 for kind in INTERPOLATED for pair in found.of(kind) for value in pair):
            raise UserError(f"{where}: an accuracy must be a fraction from 0 to 1")
        return found

    @classmethod
    def read(cls, path: Path, run: str) -> Interpolation:
        """Read the stored interpolation of the run whose config has the digest ``run``.

        Raises:
            UserError: the file cannot be read, is damaged or of another run.
        """
        content = read_json(path, path.name)
        if content.get("run", run) != run:
            raise UserError(f"{path.name}: it is of another run: of the config {content['run']}, not {run}")
        return cls.from_json(content, path.name)
