"""studies/adviser.py: the adviser's rates against the best ones, on made-up records."""

from __future__ import annotations

import importlib.util
import math
import sys
from pathlib import Path
from typing import Any

import pytest

from largedrop.errors import UserError
from largedrop.runs.record import Record

PATH = Path(__file__).parents[2] / "studies" / "adviser.py"


@pytest.fixture(scope="module")
def adviser() -> Any:
    spec = importlib.util.spec_from_file_location("adviser_study", PATH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def record(domain: str, rate: float, seed: int, ood: float, iid: float = 0.8, **settings: Any) -> Record:
    return Record("fine-tuning", rate, domain, seed, iid, ood, 10, 1.0, settings)


def grid(domain: str, accuracies: dict[float, list[float]]) -> list[Record]:
    return [record(domain, rate, seed, ood) for rate, all_ in accuracies.items() for seed, ood in enumerate(all_)]


RUNS = [
    *grid("ink", {0.0: [0.40, 0.42], 0.5: [0.50, 0.52], 0.9: [0.60, 0.62]}),
    *grid("oil", {0.0: [0.40, 0.44], 0.5: [0.61, 0.65], 0.9: [0.60, 0.64]}),
]


def test_within_regret_and_their_summary(adviser: Any) -> None:
    verdicts = adviser.judge(adviser.scores_of(RUNS), {"ink": 0.5, "oil": 0.9})
    assert [(verdict.domain, verdict.best) for verdict in verdicts] == [("ink", 0.9), ("oil", 0.5)]
    ink, oil = (verdict.choices for verdict in verdicts)
    assert ink["advised"].regret.mean == pytest.approx(0.10)
    assert ink["advised"].regret.error == pytest.approx(0.0, abs=1e-12)
    assert {name: choice.within for name, choice in ink.items()} == {
        "advised": False,
        "always 0.9": True,
        "always 0.5": False,
    }
    # 0.9 is 0.01 behind, and the standard error of two seeds 0.04 apart is 0.02.
    assert oil["advised"].regret.mean == pytest.approx(0.01)
    assert oil["advised"].within
    text = adviser.markdown(verdicts, {"ink": "use", "oil": "cannot tell"})
    assert (
        "| ink | 0.9 | 61.0 ± 1.0 | 0.5: no (10.0 ± 0.0); use | 0.9: yes (0.0 ± 0.0) | 0.5: no (10.0 ± 0.0) |" in text
    )
    assert "| within one standard error of the best | | | 1 of 2 | 2 of 2 | 1 of 2 |" in text
    regrets = [0.10, 0.01]
    spread = 100 * abs(regrets[0] - regrets[1]) / math.sqrt(2) / math.sqrt(2)
    assert f"| mean regret (points; ± over test domains) | | | {100 * sum(regrets) / 2:.1f} ± {spread:.1f} |" in text


def test_the_pooled_error_decides(adviser: Any) -> None:
    # The best rate's seeds agree by accident; the others' do not.
    runs = grid("ink", {0.0: [0.40, 0.48], 0.5: [0.53, 0.61], 0.9: [0.59, 0.59]})
    (verdict,) = adviser.judge(adviser.scores_of(runs), {"ink": 0.0})
    assert verdict.choices["always 0.5"].regret.mean == pytest.approx(0.02)
    assert verdict.choices["always 0.5"].within  # √((0.04² + 0.04² + 0) / 3) = 0.033
    assert not verdict.choices["advised"].within


def test_settings_are_chosen_by_iid_accuracy_among_those_that_every_rate_has(adviser: Any) -> None:
    runs = [
        record("ink", 0.0, 0, ood=0.3, iid=0.9, lr=1),
        record("ink", 0.0, 0, ood=0.7, iid=0.8, lr=2),
        record("ink", 0.9, 0, ood=0.4, iid=0.7, lr=1),
        record("ink", 0.9, 0, ood=0.5, iid=0.8, lr=2),
        record("ink", 0.9, 0, ood=0.9, iid=0.99, lr=3),  # plain fine-tuning has not had that one
        record("ink", 0.9, 1, ood=0.9, lr=1),  # nor this seed
    ]
    assert adviser.scores_of(runs) == {"ink": {0.0: {0: 0.3}, 0.9: {0: 0.5}}}


def test_one_seed_and_a_rate_that_was_not_fine_tuned(adviser: Any) -> None:
    runs = grid("ink", {0.0: [0.4], 0.9: [0.6]})
    (verdict,) = adviser.judge(adviser.scores_of(runs), {"ink": 0.0})
    assert verdict.choices["advised"].within is None
    assert verdict.choices["always 0.5"] is None
    text = adviser.markdown([verdict])
    assert "0: one seed (20.0 ± –)" in text
    assert "not fine-tuned" in text
    assert "| within one standard error of the best | | | 0 of 0 | 1 of 1 | 0 of 0 |" in text


def test_nothing_to_compare(adviser: Any) -> None:
    with pytest.raises(UserError, match="no test domain has a seed with two dropout rates"):
        adviser.scores_of(grid("ink", {0.9: [0.6, 0.7]}))
    with pytest.raises(UserError, match="no advice for the test domain 'ink'"):
        adviser.judge(adviser.scores_of(RUNS), {"oil": 0.9})
