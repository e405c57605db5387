"""Records: their file, and what is refused of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.helpers import refusal

from largedrop.data.dataset import Dataset
from largedrop.errors import UserError
from largedrop.runs.methods import METHODS
from largedrop.runs.record import Record, describe, write_results


def record(method: str, dropout: float, domain: str, seed: int, iid: float, ood: float, **settings: Any) -> Record:
    return Record(method, dropout, domain, seed, iid, ood, steps=150, seconds=41.5, settings=settings)


RECORDS = [record("linear-probe", 0.0, "a", 0, 0.70, 0.40), record("fine-tuning", 0.9, "b", 1, 0.90, 0.70, lr=1e-3)]


def whole(dropout: float = 0.9) -> dict[str, Any]:
    return record("fine-tuning", dropout, "a", 0, 0.9, 0.7, learning_rate=5e-4).to_json()


def test_results_survive_the_file(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    failed = [{"method": "ensemble", "error": "collapsed"}]
    write_results(path, RECORDS, dataset={"name": "emoji"}, failed=failed, command="largedrop compare emoji")
    content = json.loads(path.read_text("utf-8"))
    assert list(content) == ["largedrop", "accuracy", "command", "dataset", "failed", "records"]
    assert content["accuracy"] == "fraction of images, 0 to 1"
    assert [Record.from_json(entry, "") for entry in content["records"]] == RECORDS
    names = ["method", "dropout", "test_domain", "seed", "iid_accuracy", "ood_accuracy", "steps", "seconds", "settings"]
    names += ["iid_macro_accuracy", "ood_macro_accuracy"]
    assert [*content["records"][0]] == names
    assert (content["dataset"], content["failed"]) == ({"name": "emoji"}, failed)
    assert content["command"] == "largedrop compare emoji"


def test_all_that_is_wrong_with_a_record_is_told_at_once() -> None:
    content = whole() | {
        "method": "ensembel",
        "dropout": 1.0,
        "ood_accuracy": 72.7,
        "seed": True,
        "steps": -1,
        "spam": 1,
    }
    del content["test_domain"]
    assert refusal(Record.from_json, content, "results.json, records[4]") == (
        "results.json, records[4]: unknown field 'spam'; "
        "'method' must be the name of a method, not \"ensembel\"; "
        f"did you mean 'ensemble'? (there are: {', '.join(METHODS)}); "
        "'dropout' must be a number in [0, 1), not 1.0; 'test_domain' is missing; "
        "'seed' must be a whole number, 0 or more, not true; 'ood_accuracy' must be a fraction from 0 to 1 (not %), "
        "not 72.7; 'steps' must be a whole number, 0 or more, not -1"
    )


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("method", 3, "'method' must be the name of a method, not 3"),
        ("test_domain", "", "there must be an 'ood_accuracy' where there is a 'test_domain', and only there"),
        ("iid_accuracy", float("nan"), "'iid_accuracy' must be a fraction from 0 to 1 (not %), not NaN"),
        ("seconds", float("inf"), "'seconds' must be a number, 0 or more, not Infinity"),
        ("settings", [], "'settings' must be an object, not []"),
        ("iid_acuracy", 1, "unknown field 'iid_acuracy', did you mean 'iid_accuracy'?"),
    ],
)
def test_field_is_refused(name: str, value: Any, told: str) -> None:
    assert refusal(Record.from_json, whole() | {name: value}, "here") == f"here: {told}"


def test_settings_may_be_absent() -> None:
    content = whole()
    del content["settings"]
    assert Record.from_json(content, "here").settings == {}


def test_entry_that_is_no_object() -> None:
    with pytest.raises(UserError, match=r"^here: must be an object with method, dropout, test_domain"):
        Record.from_json([], "here")


def test_describe_counts_the_images_of_each_domain() -> None:
    class Blank(list[Any]):
        bound = 8

    ids = np.array([0, 0, 1], dtype=np.int64)
    dataset = Dataset("toy", ("x",), ("a", "b"), ids * 0, ids, np.arange(3), ("1", "2", "3"), Blank(), "f00d", ("bad",))
    assert describe(dataset) == {
        "name": "toy",
        "images": 3,
        "domains": {"a": 2, "b": 1},
        "classes": ["x"],
        "fingerprint": "f00d",
        "skipped": 1,
    }
    part = replace(dataset, classes=("x", "y"), labels=np.array([0, 1, 0]))
    assert describe(part)["lacking"] == {"b": ["y"]}
