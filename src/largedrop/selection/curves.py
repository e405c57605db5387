"""Means over runs of the interpolations between pretrained and fine-tuned networks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..runs.estimate import Estimate, estimate_json, listing
from ..runs.interpolation import KINDS, SCORES, Interpolation
from ..runs.record import Record
from .averages import mean_over_seeds
from .groups import Setting, left_out, settings_of

__all__ = ["Mean", "mean_curves", "names_of"]


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
                    name: [estimate_json(pair[index]) for pair in self.estimates[kind]]
                    for index, name in enumerate(SCORES)
                }
                for kind in KINDS
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
    by_group: dict[Setting, dict[tuple[str, int], Interpolation]] = {}
    for record, each in pairs:
        by_group.setdefault(setting_of(record), {})[record.test_domain, record.seed] = each
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
        estimates = {
            kind: _estimates([[cells[domain, seed].of(kind) for domain in domains] for seed in whole]) for kind in KINDS
        }
        gone = tuple((domain, seed) for domain in domains for seed in seeds if (domain, seed) not in cells)
        means.append(Mean(group, which, alphas, estimates, domains, gone))
    return means, problems


def names_of(means: Sequence[Mean]) -> list[str]:
    """What tells each group from the others: ``lr 0.0001, steps 60``."""
    several = len({mean.group.dropout for mean in means}) > 1
    names = []
    for group in (mean.group for mean in means):
        rate = f"dropout {group.dropout:g}" if several or not group.items else ""
        names.append(", ".join(filter(None, (rate, group.others))))
    return names


def _estimates(values: Any) -> tuple[tuple[Estimate, Estimate], ...]:
    """Estimates of i.i.d. and o.o.d. accuracy at each α from (seeds, test domains, α, 2)."""
    found = []
    for by_seed in np.mean(values, axis=1).transpose(1, 2, 0):  # (α, 2, seeds)
        iid, ood = (mean_over_seeds(score) for score in by_seed)
        if iid is None or ood is None:
            raise ValueError("no seed is there")
        found.append((iid, ood))
    return tuple(found)
