"""Inputs on which a parser failed once, or ended at a place of its own, are read or refused in words."""

from __future__ import annotations

import importlib.util
import random
import sys
from pathlib import Path
from typing import Any

import pytest

STUDY = Path(__file__).parents[2] / "studies" / "fuzz.py"


@pytest.fixture(scope="module")
def fuzz() -> Any:
    spec = importlib.util.spec_from_file_location("fuzz_study", STUDY)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look
    spec.loader.exec_module(module)
    return module


@pytest.mark.filterwarnings("ignore")  # Pillow's and numpy's, of odd files
def test_the_corpus_ends_in_words(fuzz: Any, tmp_path: Path) -> None:
    known = fuzz.parsers(tmp_path)
    names = sorted(path.name for path in fuzz.CORPUS.iterdir())
    assert {*names} <= {*known}
    faults = {
        f"{name}/{path.name}": fault
        for name in names
        for path in sorted((fuzz.CORPUS / name).iterdir())
        if (fault := fuzz.tried(known[name], tmp_path / name, path.read_bytes())[1])
    }
    assert faults == {}


@pytest.mark.filterwarnings("ignore")
def test_what_it_begins_with_is_read_and_a_fault_is_seen(fuzz: Any, tmp_path: Path) -> None:
    known = fuzz.parsers(tmp_path)
    for name in ("csv", "jsonl", "parquet", "split", "shard", "archive", "image", "digests"):
        assert fuzz.tried(known[name], tmp_path / name, known[name].seeds[0]) == ("read", ""), name

    def broken(path: Path) -> None:
        raise ZeroDivisionError

    parser = known["csv"].__class__("t.csv", broken, False, (b"a",))
    assert "ZeroDivisionError" in fuzz.tried(parser, tmp_path / "csv", b"a")[1]
    chance = random.Random(0)
    assert len({fuzz.changed(chance, b"0123456789" * 9, b"abc" * 9) for _ in range(50)}) > 40
