"""The table of methods: complete, distinct, and the only one."""

from __future__ import annotations

import ast
import re
from dataclasses import fields
from pathlib import Path

import pytest
from matplotlib.lines import Line2D

import largedrop
from largedrop.config import FITS
from largedrop.runs.methods import METHODS, PLAIN, Method, checkpoint_method, method_of, order

SOURCE = Path(largedrop.__file__).parent


@pytest.mark.parametrize("method", [*METHODS.values(), PLAIN], ids=lambda method: method.label)
def test_every_field_of_a_method_is_filled(method: Method) -> None:
    texts = {field.name: getattr(method, field.name) for field in fields(Method) if field.type == "str"}
    assert list(texts) == ["name", "label", "marker", "colour", "line", "explanation"]
    assert all(text.strip() == text != "" for text in texts.values())
    assert re.fullmatch(r"[A-Z].{20,}\.", method.explanation)
    assert re.fullmatch(r"#[0-9A-F]{6}", method.colour)
    Line2D([], [], marker=method.marker, linestyle=method.line)  # type: ignore[arg-type]  # raises for what matplotlib does not know


def test_methods_are_told_apart() -> None:
    along = [method for method in [*METHODS.values(), PLAIN] if not method.across]
    assert len({method.marker for method in along}) == len({method.colour for method in along}) == len(along)
    assert len({method.explanation for method in METHODS.values()}) == len(METHODS)
    assert [name for name, method in METHODS.items() if name != method.name] == []
    assert [name for name in METHODS if METHODS[name].across] == [
        "ensemble-across",
        "weight-average-across",
        "greedy-soup",
    ]


def test_a_method_is_found_by_name_rate_and_fit() -> None:
    assert method_of("fine-tuning", 0) is PLAIN
    assert method_of("fine-tuning", 0.9) is METHODS["fine-tuning"]
    assert method_of("ensemble", 0) is METHODS["ensemble"]
    assert [checkpoint_method(fit).name for fit in FITS] == ["fine-tuning", "linear-fine-tuning", "linear-probe"]
    assert [order(name) for name in METHODS] == list(range(len(METHODS)))


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda path: str(path.relative_to(SOURCE)))
def test_no_other_constant_is_a_table_of_methods(path: Path) -> None:
    if path == SOURCE / "runs" / "methods.py":
        return
    for statement in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(statement, (ast.Assign, ast.AnnAssign)):
            named = set(METHODS).intersection(
                each.value for each in ast.walk(statement) if isinstance(each, ast.Constant)
            )
            assert len(named) < 2, f"line {statement.lineno} lists {sorted(named)}; put it into runs/methods.py"
