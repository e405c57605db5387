"""Selection over stored records: which setting to take, without a look at what it is then measured by.

Three rules, as Gulrajani & Lopez-Paz (2020, "In Search of Lost Domain Generalization", section 3) define them:
``iid`` (training-domain validation), ``leave-one-domain-out`` and ``oracle``. Accuracies are fractions throughout.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ..config import TUNED
from ..errors import UserError, one_of
from ..runs.methods import METHODS
from ..runs.record import Record
from .averages import Averages, FloatArray, average, cut
from .groups import FIT, Setting, groups, left_out
from .row import Row

__all__ = ["RULES", "select", "summarise"]

RULES = ("iid", "leave-one-domain-out", "oracle")
"""``iid`` is the paper's and the default everywhere. ``oracle`` looks at the o.o.d. accuracy that it then reports."""


def select(averages: Averages, rule: str = "iid", *, tuned: Iterable[str] = TUNED) -> list[Row]:
    """Choose, for each group and test domain, one of the settings that differ in ``tuned`` alone.

    ``iid``: the setting of best i.i.d. accuracy, averaged over seeds. ``leave-one-domain-out``: the setting that, over
    the other domains V, does best on V when trained without V and without the test domain, averaged over V and seeds;
    those are the records with ``test_domain`` V and ``settings["left_out"]`` the test domain, so that nothing of it is
    seen. ``oracle``: the setting of best o.o.d. accuracy on the test domain itself, an upper bound and no method.

    Of settings whose scores agree to 12 digits, the first in ``Setting.order`` is chosen: the lower learning rate,
    then the lower weight decay (names in alphabetical order, numbers ascending).

    Args:
        averages: of the runs; settings without a mean on a test domain are not chosen there.
        rule: one of ``RULES``.
        tuned: names of the settings that are chosen among; without any every setting has a row of its own.

    Returns:
        One row for each group, plain fine-tuning first.

    Raises:
        UserError: an unknown rule, or (``leave-one-domain-out``) runs that it needs are not there; they are named.
    """
    if rule not in RULES:
        raise UserError(f"unknown selection '{rule}'; {one_of(rule, RULES)}")
    if rule == "leave-one-domain-out":
        scores = _left_out_scores(averages)
    else:
        scores = averages.means[:, :, 0 if rule == "iid" else 1]
    grouped = groups(averages.settings, tuned)
    chosen = {group: _choose(settings, scores, averages) for group, settings in grouped.items()}
    plain = {group.items: found for group, found in chosen.items() if group.baseline}
    rows = []
    for group, settings in grouped.items():
        baseline = None if group.baseline else plain.get(group.items, plain.get(_fine_tuned(group.items)))
        rows.append(Row(averages, rule, group, tuple(settings), chosen[group], baseline, averages.domains))
    return rows


def summarise(records: Iterable[Record], *, domains: Iterable[str] = (), seeds: Iterable[int] = ()) -> list[Row]:
    """One row for each setting, whatever is missing of it or left out: a comparison is a selection that tunes nothing.

    Arguments and errors are ``average``'s.
    """
    averages = average(records, domains=domains, seeds=seeds, allow_missing=True, with_left_out=True)
    return select(averages, tuned=())


def _choose(settings: Sequence[Setting], scores: FloatArray, averages: Averages) -> dict[str, Setting]:
    rows = [averages.index[setting] for setting in settings]
    # A setting can have a score and yet lack a run on the test domain itself, and then there is nothing to report.
    known = np.where(averages.there(settings), np.round(scores[rows], 12), np.nan)
    return {
        # The first of equals: the settings are in ``Setting.order``.
        domain: settings[int(np.nanargmax(column))]
        for domain, column in zip(averages.domains, known.T, strict=True)
        if not np.isnan(column).all()
    }


def _fine_tuned(items: tuple[tuple[str, Any], ...]) -> tuple[tuple[str, Any], ...]:
    """The settings of the fine-tuning that a linear fit of these settings is compared with."""
    return tuple((name, "all" if name == FIT else value) for name, value in items)


def _left_out_scores(averages: Averages) -> FloatArray:
    """The leave-one-domain-out score of every setting for every test domain, (K, D).

    Raises:
        UserError: runs that leave out both the test domain and another one are missing.
    """
    targets, seeds = averages.domains, averages.seeds
    # What is tested on in the choice for a target may be a domain that is itself no target.
    domains = list(dict.fromkeys([*targets, *(record.test_domain for record in averages.others)]))
    if len(domains) < 3:
        raise UserError(
            f"leave-one-domain-out selection needs three domains or more (one to test on, one to choose on, one to "
            f"train on); there {'is' if len(domains) == 1 else 'are'} {', '.join(domains)}"
        )
    found = {
        (averages.setting_of(record), record.test_domain, left_out(record), record.seed): record.ood_accuracy
        for record in averages.others
    }
    scores = np.full((len(averages.settings), len(targets)), np.nan)
    lacking: list[str] = []
    number = 0
    for row, setting in enumerate(averages.settings):
        if METHODS[setting.method].across:  # of all settings together, so there is nothing to choose among
            scores[row] = 0.0
            continue
        for column, target in enumerate(targets):
            keys = [(setting, other, target, seed) for other in domains if other != target for seed in seeds]
            gone = [key for key in keys if key not in found]
            if gone:
                number += len(gone)
                which = ", ".join(f"{other} (seed {seed})" for _, other, _, seed in gone)
                lacking.append(f"{setting}: left out {target}, test domain {which}")
            else:
                scores[row, column] = float(np.mean([found[key] for key in keys]))
    if lacking:
        raise UserError(
            f"leave-one-domain-out selection needs runs that leave out the test domain and another one; {number} of "
            f"them {'is' if number == 1 else 'are'} not stored:\n"
            + "\n".join(cut(lacking, "more settings and domains like these"))
        )
    return scores
