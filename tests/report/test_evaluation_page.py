"""The page of an evaluation: it says what the tables say, shows the mistakes, and loads and runs nothing."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tests.report.evaluations import BAD, CLASSES, GOOD, evaluation, model

from largedrop.report.evaluation_page import matrices, write_evaluation_page


class Pictures:
    """Forty images of one colour each."""

    bound = 320

    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int, /) -> npt.NDArray[np.uint8]:
        return np.full((20, 10 + index, 3), 6 * index, np.uint8)


def written(tmp_path: Path, *models: Any) -> str:
    path = tmp_path / "evaluation.html"
    found = evaluation(*models)
    write_evaluation_page(path, found, Pictures(), command="largedrop <evaluate>", seconds=5, machine="a machine")
    return path.read_text("utf-8")


def test_one_model(tmp_path: Path) -> None:
    page = written(tmp_path, BAD)
    assert "70.0\u00a0% of the images are recognised on average over 2 domains." in page
    assert "<li>a note</li>" in page
    assert "largedrop &lt;evaluate&gt;" in page
    assert "cat, taken for dog" in page
    assert page.count("data:image/jpeg;base64,") == 12  # the mistakes
    assert page.count("data:image/png;base64,") == 1
    assert "Difference by class" not in page
    assert not re.search(r"<script|<link|https?://|url\(", page)


def test_two_models(tmp_path: Path) -> None:
    page = written(tmp_path, GOOD, BAD)
    assert "A is 27.5 percentage points above B" in page
    assert page.count("The mistakes it is surest of") == 2
    assert "Difference by class" in page
    assert 'class="good">+50.0 [' not in page
    assert re.search(r'<td class="good">\+100\.0 \[', page)  # cats at night


def test_a_model_without_mistakes(tmp_path: Path) -> None:
    page = written(tmp_path, model("right", {}))
    assert "Nothing: every image is recognised." in page
    assert "The mistakes" not in page


def test_matrices() -> None:
    day, night = matrices(CLASSES, BAD[0])
    assert (day.title, day.heads) == ("day", ("cat", "dog"))
    assert day.rows == (
        ("cat", (("8", 80, True), ("2", 20, False))),
        ("dog", (("·", 0, False), ("10", 100, True))),
    )
    assert night.rows[0][1] == (("·", 0, True), ("10", 100, False))
    assert matrices([f"{number}" for number in range(17)], BAD[0]) == []
