"""Greedy soups, against cases worked out by hand."""

from __future__ import annotations

import re
import weakref
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from largedrop.errors import UserError
from largedrop.runs.checkpoint import write_tensors
from largedrop.training.soup import Candidate, greedy_soup

State = dict[str, Tensor]


def point(value: float) -> State:
    return {"x": torch.tensor([value], dtype=torch.float64)}


def distance(state: Mapping[str, Tensor]) -> float:
    """A score with its best, 0, at 1."""
    return -abs(float(state["x"]) - 1.0)


def test_the_greedy_soup_of_a_case_worked_out_by_hand() -> None:
    """Scores −0.25, −0.5, −0.5, −2. 0.75 is first; with 1.5 the mean is 1.125 (better); with 0.5, 0.9167 (better);
    with 3, 1.4375 (worse).
    """
    values = {"far": 3.0, "above": 1.5, "near": 0.75, "below": 0.5}
    candidates = [Candidate(name, partial(point, value)) for name, value in values.items()]
    soup = greedy_soup(candidates, distance)
    assert [entry.name for entry in soup.log] == ["near", "above", "below", "far"]
    assert soup.taken == ("near", "above", "below")
    assert float(soup.state["x"]) == pytest.approx(2.75 / 3)
    assert soup.score == pytest.approx(-1 / 12)
    assert [entry.score for entry in soup.log] == [-0.25, -0.5, -0.5, -2.0]
    wanted = [-0.25, -0.125, -1 / 12, -0.4375]
    assert [entry.soup_score for entry in soup.log] == pytest.approx(wanted)
    assert soup.log[0].reason == "the best on its own"
    assert soup.log[3].reason == "the score falls: -0.0833333 to -0.4375"
    assert soup.log[1].reason == "the score does not fall: -0.25 to -0.125"


def test_a_soup_that_stays_as_good_takes_the_candidate() -> None:
    soup = greedy_soup([Candidate("a", partial(point, 0.0)), Candidate("b", partial(point, 4.0))], lambda state: 0.5)
    assert soup.taken == ("a", "b")
    assert float(soup.state["x"]) == 2


def test_scores_that_are_known_are_not_measured_and_candidates_are_loaded_when_needed() -> None:
    events: list[str] = []

    def load(value: float) -> State:
        events.append(f"load {value}")
        return point(value)

    def score(state: Mapping[str, Tensor]) -> float:
        events.append(f"score {float(state['x'])}")
        return distance(state)

    greedy_soup([Candidate("a", partial(load, 0.0), 0.1), Candidate("b", partial(load, 2.0), 0.2)], score)
    assert events == ["load 2.0", "load 0.0", "score 1.0"]


def test_at_most_two_states_are_in_memory_beside_the_sum() -> None:
    alive: weakref.WeakSet[Tensor] = weakref.WeakSet()
    most = 0

    def load(value: float) -> State:
        nonlocal most
        state = point(value)
        alive.update(state.values())
        most = max(most, len(alive))
        return state

    def score(state: Mapping[str, Tensor]) -> float:
        nonlocal most
        alive.update(state.values())
        most = max(most, len(alive))
        return distance(state)

    greedy_soup([Candidate(str(k), partial(load, 1 + 0.1 * (-1) ** k * k)) for k in range(8)], score)
    assert most <= 3


def test_a_soup_of_checkpoints(tmp_path: Path) -> None:
    for k in range(2):
        write_tensors(tmp_path / f"{k}.safetensors", point(k), "model", {})
    candidates = [Candidate(str(k), tmp_path / f"{k}.safetensors", float(-k), "same") for k in range(2)]
    soup = greedy_soup(candidates, lambda state: 1.0)
    assert float(soup.state["x"]) == 0.5
    with pytest.raises(UserError, match="no checkpoint"):
        greedy_soup([Candidate("gone", tmp_path / "gone")], distance)


@pytest.mark.parametrize(
    ("more", "text"),
    [
        (
            {"load": lambda: {"y": torch.zeros(1)}},
            "b cannot be added to this soup: these weights are of different networks",
        ),
        ({"load": lambda: {"x": torch.zeros(1)}}, "these weights differ in their type: 'x' is float64 and float32"),
        ({"load": lambda: {"x": torch.zeros(2, dtype=torch.float64)}}, "different networks: 'x' is (1,) and (2,)"),
        ({"load": lambda: {"x": torch.zeros(1, dtype=torch.int64)}}, "their type: 'x' is float64 and int64"),
        ({"load": lambda: point(float("nan"))}, "b: tensor 'x' contains NaN or infinity"),
        ({"score": float("nan")}, "the score of b must be finite, not nan"),
        ({"origin": "other"}, "fine-tuned from different ones (one and other)"),
    ],
)
def test_candidates_that_do_not_fit(more: dict[str, Any], text: str) -> None:
    settings = {"name": "b", "load": partial(point, 1.0), "score": 0.0, "origin": "one", **more}
    with pytest.raises(UserError, match=re.escape(text)):
        greedy_soup([Candidate("a", partial(point, 2.0), 1.0, "one"), Candidate(**settings)], distance)


def test_no_candidates() -> None:
    with pytest.raises(UserError, match="there are no weights to make a soup of"):
        greedy_soup([], distance)


def test_a_soup_of_half_precision_is_averaged_in_float32_and_is_of_its_type() -> None:
    values = (1.0, *[1.0078125] * 7)
    states = [{"x": torch.tensor(value, dtype=torch.bfloat16)} for value in values]
    kinds = []

    def score(state: Mapping[str, Tensor]) -> float:
        kinds.append(state["x"].dtype)
        return 1.0

    soup = greedy_soup([Candidate(str(k), partial(dict, state)) for k, state in enumerate(states)], score)
    assert soup.state["x"].dtype == torch.bfloat16
    assert float(soup.state["x"]) == 1.0078125  # 1.0068 in float32
    assert kinds[-1] == torch.float32


def test_what_is_no_candidate_or_no_score() -> None:
    wrong: Any = [point(1.0)]
    with pytest.raises(UserError, match=r"^a soup is made of Candidate\(name, load\), not of a dict$"):
        greedy_soup(wrong, distance)
    none: Any = lambda state: None  # noqa: E731
    with pytest.raises(UserError, match="the score of a must be finite, not None"):
        greedy_soup([Candidate("a", partial(point, 1.0))], none)
