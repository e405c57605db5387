"""Selection of settings from records, by four rules.

The rules are those of Gulrajani & Lopez-Paz (2020, "In Search of Lost Domain Generalization", section 3), and one more:
``iid`` (training-domain validation), ``iid-macro`` (the same, every class of one weight), ``leave-one-domain-out`` and
``oracle``. Accuracies are fractions throughout.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import compress
from typing import Any

import numpy as np
import numpy.typing as npt

from ..config import TUNED
from ..errors import UserError, one_of
from ..runs.methods import METHODS
from ..runs.record import ALPHA, Record
from .averages import Averages, FloatArray, average, cut
from .row import Row
from .settings import FIT, Setting, candidates_of, left_out

__all__ = ["RULES", "select", "summarise"]

SELECT_BY = "select_by"
"""Key, in a record's settings, of what its run selects by."""

RULES = ("iid", "iid-macro", "leave-one-domain-out", "oracle")
"""Rules; ``iid`` is the paper's and the default. ``oracle`` selects by the o.o.d. accuracy that it reports."""


def select(averages: Averages, rule: str = "iid", *, tuned: Iterable[str] = TUNED) -> list[Row]:
    """Choose, for each test domain, one of the settings that differ in ``tuned`` items only.

    ``iid``: the setting of best i.i.d. accuracy, averaged over seeds; of macro accuracy where ``select_by`` of the runs
    says so. ``iid-macro``: that of best i.i.d. macro accuracy. ``leave-one-domain-out``: the setting of best
    accuracy on other domains V when trained without V and the test domain, averaged over V and seeds, from records with
    ``test_domain`` V and ``settings["left_out"]`` the test domain. ``oracle``: the setting of best o.o.d. accuracy on
    the test domain itself, which is an upper bound, not a method.

    In a tie to 12 digits, the first in ``Setting.order`` is chosen: the lower learning rate, then the lower weight
    decay (names in alphabetical order, numbers ascending). The share α of WiSE-FT's way back is always chosen, also
    where nothing is tuned; in a tie the larger.

    Args:
        averages: averages of the runs; settings without a mean on a test domain are not chosen there.
        rule: the rule, one of ``RULES``.
        tuned: names of the tuned items; without any, every setting without α has its own row.

    Returns:
        One row for each setting without its tuned items, plain fine-tuning first.

    Raises:
        UserError: an unknown rule, or missing runs for ``leave-one-domain-out``, which the message names.
    """
    if rule not in RULES:
        raise UserError(f"unknown selection '{rule}'; {one_of(rule, RULES)}")
    if rule in ("leave-one-domain-out", "oracle") and not any(averages.domains):
        raise UserError(f"{rule} selects by accuracy on test domains, and no run has one")
    if rule == "leave-one-domain-out":
        scores = _left_out_scores(averages)
    else:
        scores = averages.means[:, :, {"iid": 0, "oracle": 1, "iid-macro": 2}[rule]]
        if rule == "iid-macro" and np.isnan(scores).all():
            raise UserError("no run has an i.i.d. macro accuracy to select by: they are of an older version")
        if rule == "iid":
            scores = np.where(_by_macro(averages)[:, None], averages.means[:, :, 2], scores)
    candidates = candidates_of(averages.settings, tuned)
    chosen = {setting: _choose(own, scores, averages) for setting, own in candidates.items()}
    plain = {setting.common.items: found for setting, found in chosen.items() if setting.baseline}
    rows = []
    for setting, own in candidates.items():
        items = setting.common.items
        baseline = None if setting.baseline else plain.get(items, plain.get(_fine_tuned(items)))
        shown = _in_cloud(own, scores, averages)
        rows.append(Row(averages, rule, setting, tuple(own), chosen[setting], shown, baseline, averages.domains))
    return rows


def summarise(records: Iterable[Record], *, domains: Iterable[str] = (), seeds: Iterable[int] = ()) -> list[Row]:
    """One row for each setting, also with missing runs or left-out domains: a selection that tunes nothing.

    Arguments and errors are those of ``average``.
    """
    averages = average(records, domains=domains, seeds=seeds, allow_missing=True, with_left_out=True)
    return select(averages, tuned=())


def _by_macro(averages: Averages) -> npt.NDArray[np.bool_]:
    """Whether the runs of each setting select by macro accuracy, (K,)."""
    told = (averages.used[setting] for setting in averages.settings)
    return np.array([any(each.get(SELECT_BY) == "iid-macro" for each in used) for used in told])


def _choose(settings: Sequence[Setting], scores: FloatArray, averages: Averages) -> dict[str, Setting]:
    return {
        # In a tie the first, since the settings are in ``Setting.order``.
        domain: settings[int(np.nanargmax(column))]
        for domain, column in _known(settings, scores, averages).items()
        if not np.isnan(column).all()
    }


def _known(settings: Sequence[Setting], scores: FloatArray, averages: Averages) -> dict[str, FloatArray]:
    """The scores of the settings by test domain, rounded, NaN where a setting cannot be chosen."""
    rows = [averages.index[setting] for setting in settings]
    # A setting with a score but without a mean on the test domain itself cannot be reported.
    known = np.where(averages.there(settings), np.round(scores[rows], 12), np.nan)
    return dict(zip(averages.domains, known.T, strict=True))


def _in_cloud(settings: Sequence[Setting], scores: FloatArray, averages: Averages) -> dict[str, list[Setting]]:
    """The settings of a cloud by test domain: of those that differ in α alone, the chosen one."""
    if not any(setting.alpha for setting in settings):
        known = _known(settings, scores, averages)
        return {domain: list(compress(settings, ~np.isnan(column))) for domain, column in known.items()}
    found: dict[str, list[Setting]] = {domain: [] for domain in averages.domains}
    for own in candidates_of(settings, ()).values():
        for domain, setting in _choose(own, scores, averages).items():
            found[domain].append(setting)
    return found


def _fine_tuned(items: tuple[tuple[str, Any], ...]) -> tuple[tuple[str, Any], ...]:
    """The items of the fine-tuning that a linear fit with these items is compared with."""
    return tuple((name, "all" if name == FIT else value) for name, value in items)


def _left_out_scores(averages: Averages) -> FloatArray:
    """The leave-one-domain-out score of every setting for every test domain, (K, D).

    Raises:
        UserError: runs without the test domain and another domain are missing.
    """
    targets, seeds = averages.domains, averages.seeds
    # Domains that are tested on in the choice for a target need not be targets.
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
    lacking: dict[str, int] = {}
    for row, setting in enumerate(averages.settings):
        if METHODS[setting.method].across:  # over all candidates, so there is no choice
            scores[row] = 0.0
            continue
        for column, target in enumerate(targets):
            keys = [(setting, other, target, seed) for other in domains if other != target for seed in seeds]
            gone = [key for key in keys if key not in found]
            if gone:
                which = ", ".join(f"{other} (seed {seed})" for _, other, _, seed in gone)
                lacking[f"{setting.without(ALPHA)}: left out {target}, test domain {which}"] = len(gone)
            else:
                scores[row, column] = float(np.mean([found[key] for key in keys]))
    if lacking:
        number = sum(lacking.values())
        raise UserError(
            f"leave-one-domain-out selection needs runs that leave out the test domain and another one; {number} of "
            f"them {'is' if number == 1 else 'are'} not stored:\n"
            + "\n".join(cut(list(lacking), "more settings and domains like these"))
        )
    return scores
