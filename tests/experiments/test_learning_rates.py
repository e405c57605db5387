"""The learning rate of each arm: chosen by i.i.d. accuracy, and what is said where it lies at an end."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.helpers import TINY

from largedrop.config import Config
from largedrop.errors import CollapseError, RunError
from largedrop.experiments.learning_rates import Choice, choices_of, rate_lines
from largedrop.runs.run import Run

GONE = "the run collapsed at step 21"


def choice(*scores: float | str, rates: tuple[float, ...] = (1e-4, 3e-4, 1e-3), **fields: float) -> Choice:
    return Choice(fields.get("dropout", 0.0), ("photo",), dict(zip(rates, scores, strict=True)))


@pytest.mark.parametrize(
    ("scores", "chosen", "further"),
    [
        ((0.5, 0.7, 0.6), 3e-4, None),
        ((0.5, 0.6, 0.7), 1e-3, 3e-3),
        ((0.7, 0.6, 0.5), 1e-4, 3e-5),
        ((0.6, 0.7, 0.7), 3e-4, None),
        ((0.7, 0.7, 0.7), 1e-4, None),  # nothing was learned, so nothing lies beyond
        ((0.7, 0.6, 0.7), 1e-4, None),
        ((0.5, 0.7, GONE), 3e-4, None),
        ((0.5, GONE, GONE), 1e-4, 3e-5),
        ((GONE, GONE, GONE), None, None),
        ((0.1 + 0.2, 0.3, 0.2), 1e-4, None),  # a tie but for the sum's last bit
    ],
)
def test_the_best_is_chosen_and_an_end_is_seen(
    scores: tuple[float | str, ...], chosen: float | None, further: float | None
) -> None:
    assert (choice(*scores).chosen, choice(*scores).further) == (chosen, further)


@pytest.mark.parametrize(("rates", "further"), [((1e-4, 3e-4), 1e-3), ((1e-4, 2e-3), 7e-3), ((0.01, 0.03), 0.1)])
def test_the_next_learning_rate_is_a_round_number_three_times_as_large(
    rates: tuple[float, ...], further: float
) -> None:
    assert choice(0.1, 0.2, rates=rates).further == further


def test_what_is_at_an_end_is_a_line_for_each_dropout_rate() -> None:
    ends = [choice(0.1, 0.2, 0.3), Choice(0.0, ("ink",), choice(0.1, 0.2, 0.3).tried), choice(3, 2, 1, dropout=0.9)]
    assert rate_lines([*ends, choice(0.1, 0.3, 0.2)]) == [
        "Dropout 0 on photo and ink: the best learning rate is the largest that was tried, 0.001, so that a better one "
        "may lie beyond. Add 0.003: only what is missing is trained.",
        "Dropout 0.9 on photo: the best learning rate is the smallest that was tried, 0.0001, so that a better one may "
        "lie beyond. Add 3e-05: only what is missing is trained.",
    ]


@pytest.mark.parametrize(("select_by", "chosen"), [("iid-accuracy", 0.1), ("iid-macro", 0.2)])
def test_only_what_selects_checkpoints_chooses(select_by: str, chosen: float) -> None:
    base = {**TINY, "data": "toy", "fingerprint": "f", "test_domain": "photo", "select_by": select_by}
    scores = {0.1: (0.8, 0.5, 0.1), 0.2: (0.7, 0.6, 0.2), 0.3: (0.1, 0.1, 0.9)}
    ended: dict[Config, Run | RunError] = {}
    for lr, (iid, macro, ood) in scores.items():
        config = Config(**{**base, "lr": lr})
        found = {"iid_accuracy": iid, "ood_accuracy": ood, "steps": 6, "seconds": 1.0}
        found |= {"iid_macro_accuracy": macro, "ood_macro_accuracy": ood}
        better = {**found, "iid_accuracy": 0.99, "iid_macro_accuracy": 0.99}  # of another method
        ended[config] = Run(Path("nowhere"), config, {"methods": {"fine-tuning": found, "ensemble": better}})
    ended[Config(**{**base, "lr": 0.4})] = CollapseError(GONE)
    (found_choice,) = choices_of(ended).values()
    assert found_choice.chosen == chosen
    assert found_choice.to_json() == {
        "dropout": 0.9,
        "test_domains": ["photo"],
        "chosen": chosen,
        "tried": [
            *({"lr": lr, "iid_accuracy": each[select_by == "iid-macro"]} for lr, each in scores.items()),
            {"lr": 0.4, "iid_accuracy": None, "error": GONE},
        ],
        "try_as_well": 0.03 if chosen == 0.1 else None,
    }
