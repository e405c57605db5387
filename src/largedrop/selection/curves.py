"""Means over runs of the interpolations between pretrained and fine-tuned networks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from ..runs.estimate import Estimate, estimate_json, listing
from ..runs.interpolation import INTERPOLATED, SCORES, Interpolation
from ..runs.record import Record
from .groups import Setting, left_out, settings_of
from .row import Row
from .selection import summarise

__all__ = ["Mean", "mean_curves", "names_of"]


class Mean(NamedTuple):
    """Interpolations of one group of settings, averaged over test domains within each seed, then over seeds.

    Attributes:
        group: the settings that differ between the groups.
        which: checkpoint at α = 0.
        alphas: (n,).
        estimates: of each of ``INTERPOLATED``, at each α: i.i.d. and o.o.d. accuracy.
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
                    name: [estimate_json(pair[index]) for pair in self.estimates[kind]]
                    for index, name in enumerate(SCORES)
                }
                for kind in INTERPOLATED
            },
            "missing": [list(pair) for pair in self.missing],
        }


def mean_curves(found: Iterable[tuple[Record, Interpolation]]) -> tuple[list[Mean], list[str]]:
    """The mean of each group of settings.

    Args:
        found: interpolations with a record of their run, which names its settings, test domain and seed.

    Returns:
        The means, in ``Setting.order``; and the groups that have none, with the reason: other α, or no seed with all
        test domains.
    """
    pairs = [(record, each) for record, each in found if not left_out(record)]
    setting_of = settings_of(record for record, _ in pairs)
    groups: dict[Setting, list[tuple[Record, Interpolation]]] = {}
    for record, each in pairs:
        groups.setdefault(setting_of(record), []).append((record, each))
    means: list[Mean] = []
    problems: list[str] = []
    for group in sorted(groups, key=Setting.order):
        ends = {(each.which, each.alphas) for _, each in groups[group]}
        if len(ends) > 1:
            problems.append(f"interpolation of {group}: its runs have different α or checkpoints")
            continue
        ((which, alphas),) = ends
        rows = {kind: [_row(groups[group], kind, index) for index in range(len(alphas))] for kind in INTERPOLATED}
        first = rows[INTERPOLATED[0]][0]
        if first.n == 0:
            problems.append(f"interpolation of {group}: no seed has every test domain ({listing(first.test_domains)})")
            continue
        estimates = {
            kind: tuple((row.iid, row.ood) for row in rows[kind] if row.iid and row.ood) for kind in INTERPOLATED
        }
        missing = tuple((run.test_domain, run.seed) for run in first.missing)
        means.append(Mean(group, which, alphas, estimates, first.test_domains, missing))
    return means, problems


def _row(found: Iterable[tuple[Record, Interpolation]], kind: str, index: int) -> Row:
    """The row of the accuracies at one α of one group of settings."""
    records = []
    for record, each in found:
        iid, ood = each.of(kind)[index]
        records.append(replace(record, iid_accuracy=iid, ood_accuracy=ood))
    (row,) = summarise(records)
    return row


def names_of(means: Sequence[Mean]) -> list[str]:
    """What tells each group from the others: ``lr 0.0001, steps 60``."""
    several = len({mean.group.dropout for mean in means}) > 1
    names = []
    for group in (mean.group for mean in means):
        rate = f"dropout {group.dropout:g}" if several or not group.items else ""
        names.append(", ".join(filter(None, (rate, group.others))))
    return names
