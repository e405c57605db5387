"""Means of interpolations between pretrained and fine-tuned networks over runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from ..runs.estimate import Estimate, estimate_json, listing
from ..runs.interpolation import INTERPOLATED, SCORES, Interpolation
from ..runs.record import Record
from .row import Row
from .selection import summarise
from .settings import Setting, left_out, settings_of

__all__ = ["MeanCurve", "mean_curves", "names_of"]


class MeanCurve(NamedTuple):
    """Interpolations of one setting, averaged over test domains within each seed, then over seeds.

    Attributes:
        setting: the setting.
        which: name of the checkpoint at α = 0.
        alphas: values of α, (n,).
        estimates: i.i.d. and o.o.d. accuracy at each α, for each of ``INTERPOLATED``.
        domains: names of the test domains.
        tested_on: names of the sets whose mean the o.o.d. accuracies are, where the runs have no test domain.
        missing: (test domain, seed) without an interpolation, where another seed or test domain has one.
    """

    setting: Setting
    which: str
    alphas: tuple[float, ...]
    estimates: Mapping[str, tuple[tuple[Estimate, Estimate], ...]]
    domains: tuple[str, ...]
    missing: tuple[tuple[str, int], ...]
    tested_on: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types, accuracies as fractions."""
        return {
            "dropout": self.setting.dropout,
            "settings": dict(self.setting.items),
            "fine_tuned": self.which,
            "alphas": list(self.alphas),
            "domains": list(self.domains),
            **({"tested_on": list(self.tested_on)} if self.tested_on else {}),
            **{
                kind: {
                    name: [estimate_json(pair[index]) for pair in self.estimates[kind]]
                    for index, name in enumerate(SCORES)
                }
                for kind in INTERPOLATED
            },
            "missing": [list(pair) for pair in self.missing],
        }


def mean_curves(found: Iterable[tuple[Record, Interpolation]]) -> tuple[list[MeanCurve], list[str]]:
    """The mean interpolation of each setting.

    Args:
        found: interpolations, each with a record of its run.

    Returns:
        The means, in ``Setting.order``; and a line for each setting without a mean: different α, or no seed with all
        test domains.
    """
    pairs = [(record, each) for record, each in found if not left_out(record)]
    setting_of = settings_of(record for record, _ in pairs)
    by_setting: dict[Setting, list[tuple[Record, Interpolation]]] = {}
    for record, each in pairs:
        by_setting.setdefault(setting_of(record), []).append((record, each))
    means: list[MeanCurve] = []
    problems: list[str] = []
    for setting in sorted(by_setting, key=Setting.order):
        ends = {(each.which, each.alphas, tuple(sorted(each.tested_on))) for _, each in by_setting[setting]}
        if len(ends) > 1:
            problems.append(f"interpolation of {setting}: its runs have different α, checkpoints or sets")
            continue
        ((which, alphas, tested_on),) = ends
        rows = {kind: [_row(by_setting[setting], kind, index) for index in range(len(alphas))] for kind in INTERPOLATED}
        first = rows[INTERPOLATED[0]][0]
        if first.n == 0:
            problems.append(
                f"interpolation of {setting}: no seed has every test domain ({listing(first.test_domains)})"
            )
            continue
        estimates = {
            kind: tuple((row.iid, row.ood) for row in rows[kind] if row.iid and row.ood) for kind in INTERPOLATED
        }
        missing = tuple((run.test_domain, run.seed) for run in first.missing)
        means.append(MeanCurve(setting, which, alphas, estimates, first.test_domains, missing, tested_on))
    return means, problems


def _row(found: Iterable[tuple[Record, Interpolation]], kind: str, index: int) -> Row:
    """The row of the accuracies of one setting at one α."""
    records = []
    for record, each in found:
        iid, ood = each.of(kind)[index]
        records.append(replace(record, iid_accuracy=iid, ood_accuracy=ood))
    (row,) = summarise(records)
    return row


def names_of(means: Sequence[MeanCurve]) -> list[str]:
    """A name of each mean that distinguishes it from the others: ``lr 0.0001, steps 60``."""
    several = len({mean.setting.dropout for mean in means}) > 1
    names = []
    for setting in (mean.setting for mean in means):
        rate = f"dropout {setting.dropout:g}" if several or not setting.others else ""
        names.append(", ".join(filter(None, (rate, setting.others))))
    return names
