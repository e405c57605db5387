"""Interpolations between pretrained and fine-tuned networks, as they are stored, and their means over runs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..errors import UserError
from .averages import Setting, left_out, settings_of
from .records import Estimate, Record
from .report_text import Table
from .selection import estimate_json
from .table import listing, percent

__all__ = ["FILE", "KINDS", "Interpolation", "Mean", "curves_table", "mean_curves", "names_of"]

FILE = "interpolation.json"
"""In a run's folder."""

KINDS = ("weights", "representations")
"""What is interpolated: all weights, or the representations and the last layers."""

FORMAT = 1
_SCORES = ("iid", "ood")


@dataclass(frozen=True)
class Interpolation:
    """Accuracies of α · pretrained + (1 − α) · fine-tuned (figure 1, appendix A.1), as fractions.

    Attributes:
        which: checkpoint at α = 0: ``final`` or ``best``.
        alphas: ascending in [0, 1]; 1 is the pretrained network with a linear head fitted on its representation.
        weights: (i.i.d., o.o.d.) at each α where all weights are interpolated.
        representations: the same where Φ and the last layer are.
    """

    which: str
    alphas: tuple[float, ...]
    weights: tuple[tuple[float, float], ...]
    representations: tuple[tuple[float, float], ...]

    def of(self, kind: str) -> tuple[tuple[float, float], ...]:
        """The accuracies of one of ``KINDS``."""
        return self.weights if kind == "weights" else self.representations

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types; ``from_json`` reads them back."""
        kinds = {
            kind: {name: [pair[place] for pair in self.of(kind)] for place, name in enumerate(_SCORES)}
            for kind in KINDS
        }
        return {"format": FORMAT, "which": self.which, "alphas": list(self.alphas), **kinds}

    @classmethod
    def from_json(cls, content: Any, where: str) -> Interpolation:
        """Check ``content`` and make an interpolation of it.

        Raises:
            UserError: it is of a newer version, or something is missing or out of range.
        """
        if not isinstance(content, dict):
            raise UserError(f"{where}: holds no object")
        if isinstance(content.get("format"), int) and content["format"] > FORMAT:
            raise UserError(f"{where}: written by a newer largedrop (format {content['format']}, this reads {FORMAT})")
        try:
            alphas = tuple(float(alpha) for alpha in content["alphas"])
            pairs = {
                kind: tuple(
                    (float(iid), float(ood))
                    for _, iid, ood in zip(alphas, *(content[kind][name] for name in _SCORES), strict=True)
                )
                for kind in KINDS
            }
            found = cls(str(content["which"]), alphas, **pairs)
        except (KeyError, TypeError, ValueError) as error:
            told = f"'{error.args[0]}' is missing" if isinstance(error, KeyError) else str(error)
            raise UserError(f"{where}: {told}") from error
        check_alphas(found.alphas, where)
        if not all(0 <= value <= 1 for kind in KINDS for pair in found.of(kind) for value in pair):
            raise UserError(f"{where}: an accuracy is no fraction from 0 to 1")
        return found

    @classmethod
    def read(cls, path: Path) -> Interpolation:
        """Read a stored interpolation.

        Raises:
            UserError: it cannot be read or is damaged.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise UserError(f"{path.name}: cannot be read: {error.strerror or error}") from error
        except ValueError as error:
            raise UserError(f"{path.name}: is not JSON: {error}") from error
        return cls.from_json(content, path.name)


class Mean(NamedTuple):
    """Interpolations of one group of settings, averaged over test domains within each seed, then over seeds.

    Attributes:
        group: the settings that differ between the groups.
        which: checkpoint at α = 0.
        alphas: (n,).
        estimates: of each of ``KINDS``, at each α: i.i.d. and o.o.d. accuracy.
        domains: test domains.
        missing: (test domain, seed) for which there is none, though another seed or test domain has one.
    """

    group: Setting
    which: str
    alphas: tuple[float, ...]
    estimates: Mapping[str, tuple[tuple[Estimate, Estimate], ...]]
    domains: tuple[str, ...]
    missing: tuple[tuple[str, int], ...]

    def to_json(self) -> dict[str, Any]:
        """As plain JSON types, accuracies as fractions."""
        return {
            "dropout": self.group.dropout,
            "settings": dict(self.group.items),
            "fine_tuned": self.which,
            "alphas": list(self.alphas),
            "domains": list(self.domains),
            **{
                kind: {
                    name: [estimate_json(pair[place]) for pair in self.estimates[kind]]
                    for place, name in enumerate(_SCORES)
                }
                for kind in KINDS
            },
            "missing": [list(pair) for pair in self.missing],
        }


def check_alphas(alphas: Sequence[float], where: str = "interpolation") -> None:
    """Raise UserError unless ``alphas`` are ascending, in [0, 1] and at least one."""
    if not alphas or not all(0 <= alpha <= 1 for alpha in alphas) or list(alphas) != sorted(set(alphas)):
        raise UserError(f"{where}: α must be ascending numbers from 0 to 1, not {', '.join(f'{a:g}' for a in alphas)}")


def mean_curves(found: Iterable[tuple[Record, Interpolation]]) -> tuple[list[Mean], list[str]]:
    """The mean of each group of settings.

    Args:
        found: interpolations with a record of their run, which names its settings, test domain and seed.

    Returns:
        The means, in ``Setting.order``; and the groups that have none, with the reason: other α, or no seed with all
        test domains.
    """
    pairs = [(record, each) for record, each in found if not left_out(record)]
    make = settings_of(record for record, _ in pairs)
    by_group: dict[Setting, dict[tuple[str, int], Interpolation]] = {}
    for record, each in pairs:
        by_group.setdefault(make(record), {})[record.test_domain, record.seed] = each
    means: list[Mean] = []
    problems: list[str] = []
    for group in sorted(by_group, key=Setting.order):
        cells = by_group[group]
        kinds = {(each.which, each.alphas) for each in cells.values()}
        domains = tuple(dict.fromkeys(domain for domain, _ in cells))
        seeds = sorted({seed for _, seed in cells})
        whole = [seed for seed in seeds if all((domain, seed) in cells for domain in domains)]
        if len(kinds) > 1:
            problems.append(f"interpolation of {group}: its runs have different α or checkpoints")
            continue
        if not whole:
            problems.append(f"interpolation of {group}: no seed has every test domain ({listing(domains)})")
            continue
        which, alphas = next(iter(kinds))
        estimates = {}
        for kind in KINDS:
            # (seeds, α, 2), averaged over the test domains
            table = np.array([np.mean([cells[domain, seed].of(kind) for domain in domains], axis=0) for seed in whole])
            estimates[kind] = tuple(
                (_estimate(table[:, place, 0]), _estimate(table[:, place, 1])) for place in range(len(alphas))
            )
        gone = tuple((domain, seed) for domain in domains for seed in seeds if (domain, seed) not in cells)
        means.append(Mean(group, which, alphas, estimates, domains, gone))
    return means, problems


def names_of(means: Sequence[Mean]) -> list[str]:
    """What tells each group from the others: ``lr 0.0001, steps 60``."""
    rates = {mean.group.dropout for mean in means}
    names = []
    for mean in means:
        parts = [f"dropout {mean.group.dropout:g}"] if len(rates) > 1 or not mean.group.items else []
        names.append(", ".join([*parts, *([mean.group.only(*_items(mean))] if mean.group.items else [])]))
    return names


def curves_table(means: Sequence[Mean]) -> Table:
    """Accuracies over α, four rows for each group: weights and representations, o.o.d. and i.i.d."""
    alphas = list(dict.fromkeys(alpha for mean in means for alpha in mean.alphas))
    alphas.sort()
    rows = []
    for name, mean in zip(names_of(means), means, strict=True):
        for place, score in ((1, "o.o.d."), (0, "i.i.d.")):
            for kind in KINDS:
                at = dict(zip(mean.alphas, (pair[place] for pair in mean.estimates[kind]), strict=True))
                rows.append([name, kind, score, *(percent(at.get(alpha)) for alpha in alphas)])
    ends = listing(list(dict.fromkeys(mean.which for mean in means)))
    seeds = sorted({mean.estimates["weights"][0][0].n for mean in means})
    notes = [
        f"Accuracy in %, mean ± standard error over {' or '.join(map(str, seeds))} seed{'s'[: seeds != [1]]}, averaged "
        "over the test domains; no selection among settings.",
        f"α = 0: the {ends} checkpoint; α = 1: the pretrained network, its last layer a linear probe fitted as a warm "
        "start is. Weights: all of them interpolated. Representations: Φ and the last layer interpolated.",
    ]
    gone = [
        f"{name}: {domain}, seed {seed}"
        for name, mean in zip(names_of(means), means, strict=True)
        for domain, seed in mean.missing
    ]
    notes.append(
        f"Missing interpolations: {'; '.join(gone[:3]) or 'none'}{f' … {len(gone) - 3} more' if gone[3:] else ''}."
    )
    heads = ["fine-tuning", "interpolated", "accuracy", *(f"α = {alpha:g}" for alpha in alphas)]
    return Table("Interpolation of the pretrained and the fine-tuned network", heads, rows, notes, 3)


def _items(mean: Mean) -> list[str]:
    return [name for name, _ in mean.group.items]


def _estimate(values: Any) -> Estimate:
    found = Estimate.of([float(value) for value in values])
    if found is None:
        raise ValueError("no seed is there")
    return found
