"""The tables of an evaluation: what stands in which cell, of one model and of two."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from tests.report.evaluations import BAD, CLASSES, GOOD, evaluation, model

from largedrop.measures.intervals import scored
from largedrop.prediction.evaluate import Evaluation
from largedrop.report.evaluation import MEAN, confused, evaluation_headline, evaluation_tables


def test_one_model() -> None:
    scores, trusted, classes, pairs = evaluation_tables(evaluation(BAD))
    assert scores.heads == ["domain", "images", "accuracy", "macro accuracy"]
    assert [row[0] for row in scores.rows] == ["day", "night", MEAN]
    assert scores.rows[0][1:3] == ["20", "90.0 [69.9, 97.2]"]
    assert scores.rows[1][2].startswith("50.0 [")
    assert scores.rows[2][:2] == ["mean", "40"]
    assert scores.rows[2][2].startswith("70.0 [")
    assert "Wilson" in scores.notes[0]
    assert trusted.rows[0][:3] == ["day", "90.0", "86.7 → 86.7"]
    assert "with the temperature (2)" in trusted.notes[0]
    assert [row[0] for row in classes.rows] == ["cat", "dog"]  # there is no yak
    assert classes.rows[0][2] == "0.0 [0.0, 27.8]"
    assert pairs.rows == [["cat", "dog", "night", "10", "100%"], ["cat", "dog", "day", "2", "20%"]]
    finding, lead = evaluation_headline(evaluation(BAD))
    assert finding == "70.0 % of the images are recognised on average over 2 domains."
    assert "Lowest 50.0 % on night, highest 90.0 % on day." in lead
    assert lead.endswith("Its probabilities are furthest off on night: 87 % sure on average, 50 % right.")


def test_a_model_without_a_temperature() -> None:
    _, trusted, *_ = evaluation_tables(evaluation(model("old", {}, None)))
    assert trusted.rows[0][:3] == ["day", "100.0", "86.7"]
    assert trusted.notes[0].startswith("The model has no temperature.")


def test_two_models() -> None:
    found = evaluation(GOOD, BAD)
    scores, macro, *rest = evaluation_tables(found)
    assert scores.rows[0][:4] == ["day", "20", "95.0", "90.0"]
    assert scores.rows[0][4].startswith("+5.0 [−")
    assert scores.rows[0][5:] == ["1", "0", "1.000"]
    assert scores.rows[1][4].startswith("+50.0 [+2")
    assert scores.rows[1][5:] == ["10", "0", "0.002"]
    assert scores.rows[2][5:] == ["", "", ""]
    assert scores.notes[:2] == ["A: runs/good", "B: runs/bad"]
    assert [row[0] for row in macro.rows] == ["day", "night", MEAN]
    assert [table.title[-3:] for table in rest] == [": A", ": B"] * 3
    finding, lead = evaluation_headline(found)
    assert finding == "A is 27.5 percentage points above B on average over 2 domains."
    assert lead.startswith("A is runs/good, B is runs/bad. A minus B with its 95 % interval: +27.5 [+")
    assert evaluation_headline(evaluation(BAD, GOOD))[0].startswith("A is 27.5 percentage points below B")
    assert "cannot be told apart" in evaluation_headline(evaluation(GOOD, GOOD))[0]


def test_one_domain_has_no_mean() -> None:
    one, _ = GOOD
    parts: dict[str, Any] = {
        name: {"day": getattr(one, name)["day"]} for name in ("domains", "before", "after", "coverage")
    }
    alone = replace(one, **parts)
    found = Evaluation({}, CLASSES, (alone,), None, ())
    assert [row[0] for row in evaluation_tables(found)[0].rows] == ["day"]
    finding, lead = evaluation_headline(found)
    assert finding == "95.0 % of the images are recognised on day."
    assert lead.endswith("It is 87 % sure on average.")


def test_of_many_classes_the_worst_are_shown() -> None:
    classes = tuple(f"class {number:02}" for number in range(40))
    labels = np.repeat(np.arange(40), 4)
    right = np.arange(160) % 4 >= labels[:, None].T[0] // 10
    each, mean = scored(right, labels, np.zeros(160, np.int64), np.arange(160), 40)
    one = replace(GOOD[0], domains={"day": each[0]}, mean=mean, confusion={}, before={}, after={}, coverage={})
    _, _, table = evaluation_tables(Evaluation({}, classes, (one,), None, ()))
    assert [row[0] for row in table.rows] == list(classes[30:]) + list(classes[20:25])
    assert table.notes == ["The 15 lowest of 40 classes."]


def test_confusions_are_sorted_by_their_number() -> None:
    assert [entry[3:] for entry in confused(CLASSES, BAD[0], 5)] == [(10, 1.0), (2, 0.2)]
    assert confused(CLASSES, model("right", {})[0], 5) == []


def test_of_many_domains_the_terminal_has_no_intervals() -> None:
    parts: dict[str, Any] = {
        name: {f"{day}": getattr(BAD[0], name)["day"] for day in range(4)}
        for name in ("domains", "before", "after", "coverage")
    }
    found = Evaluation({}, CLASSES, (replace(BAD[0], **parts),), None, ())
    _, _, classes, _ = evaluation_tables(found)
    assert classes.rows[0] == ["cat", "80.0", "80.0", "80.0", "80.0"]
    assert classes.notes == ["The intervals are on the page and in evaluation.json."]
