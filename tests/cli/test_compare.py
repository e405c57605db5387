"""``largedrop compare``: how test domains are named, and several learning rates."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.helpers import FAST, make_toy, one_line

from largedrop.cli import main
from largedrop.config import defaults_of


@pytest.mark.parametrize(
    ("named", "domains"),
    [
        (["San Jose, CA"], ["San Jose, CA"]),
        (['"San Jose, CA", photo'], ["San Jose, CA", "photo"]),
        (["San Jose, CA", "photo"], ["San Jose, CA", "photo"]),
        (["oil,photo"], ["oil", "photo"]),
    ],
)
def test_a_name_with_a_comma(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], named: list[str], domains: list[str]
) -> None:
    data = make_toy(tmp_path / "toy")
    (data / "ink").rename(data / "San Jose, CA")
    options = [text for name in named for text in ("--test-domains", name)]
    out = ["--output", str(tmp_path / "out"), "--dry-run"]
    assert main(["compare", str(data), *options, "--dropout", "0", *FAST, *out]) == 0
    planned = [line for line in capsys.readouterr().out.splitlines() if "/runs/" in line]
    assert [name.partition("toy-")[2].rpartition("-d0-")[0] for name in planned] == domains


def test_a_domain_is_tested_on_by_a_name_with_a_comma(tmp_path: Path, quick_heads: None) -> None:
    data = make_toy(tmp_path / "toy")
    (data / "ink").rename(data / "San Jose, CA")
    out = tmp_path / "out"
    assert (
        main(["compare", str(data), "--test-domains", "San Jose, CA", "--dropout", "0", *FAST, "--output", str(out)])
        == 0
    )
    records = json.loads((out / "results.json").read_text())["records"]
    assert {each["test_domain"] for each in records} == {"San Jose, CA"}


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ("1e-3,fast", "lr must be above 0, not 'fast'"),
        ("1e-3,0", "lr must be above 0, not 0.0"),
        ("1e-3,nan", "lr must be above 0, not nan"),
        (" , ", "--lr names nothing: ' , '"),
        ("1e-3,0.001", "the learning rate '0.001' is named twice"),
    ],
)
def test_mistakes_in_learning_rates_take_one_line(
    toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], given: str, text: str
) -> None:
    assert one_line(capsys, "compare", toy, *FAST, "--lr", given, "--output", tmp_path / "out") == text
    assert not (tmp_path / "out").exists()


def test_a_dry_run_of_very_many_names_the_first(toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    many = ["compare", str(toy), *FAST, "--dropout", "0", "--seeds", "500", "--output", str(tmp_path / "out")]
    assert main([*many, "--dry-run"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[1] == "1,500 runs of 6 steps (test_efficientnet, 32 px, float32, cpu)"
    assert (sum("/runs/" in line for line in said), said[-1]) == (1000, "  … and 500 more")


def test_learning_rates_are_chosen_and_more_may_join(
    toy: Path, tmp_path: Path, quick_heads: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the folder of the default learning rate, whose run is one of them, and from the file that repeats it."""
    monkeypatch.chdir(tmp_path)
    common = ["compare", str(toy), "--test-domains", "photo", "--dropout", "0", *FAST]
    rate = defaults_of("short")["lr"]
    assert main([*common, "--lr", f"{rate}"]) == 0
    (folder,) = (tmp_path / "largedrop-runs").iterdir()
    (first,) = folder.glob("runs/*/result.json")
    before = first.stat().st_mtime_ns
    several = [*common, "--seeds", "2", "--lr", f"{100 * rate},{rate}"]
    capsys.readouterr()
    assert main([*several, "--dry-run"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert (
        f"learning rates {rate:g} and {100 * rate:g}, by dropout rate and test domain: 2 runs with seed 0, then 1 with "
        "the other seeds at the best i.i.d. of each"
    ) in said
    assert f"  largedrop-runs/{folder.name}/runs/{first.parent.name} (lr {rate:g})" in said
    assert said[-3].startswith("1 of 3 finished; ")
    assert main(several) == 0
    assert "\nlearning rates\n" in capsys.readouterr().out
    found = json.loads((folder / "results.json").read_text())
    (choice,) = found["learning_rates"]
    assert {(each["seed"], each["settings"]["lr"]) for each in found["records"]} == {
        (seed, choice["chosen"]) for seed in (0, 1)
    }
    best = max(choice["tried"], key=lambda each: (each["iid_accuracy"], -each["lr"]))
    assert choice["chosen"] == best["lr"]
    assert len(list(folder.glob("runs/*/result.json"))) == 3
    repeat = ["compare", "--config", str(folder / "compare.toml"), "--output", str(folder)]
    assert main([*repeat, "--lr", f"{rate},{10 * rate},{100 * rate}", "--dry-run"]) == 0
    assert "3 of 4 finished; " in capsys.readouterr().out
    assert main([*repeat, "--dry-run"]) == 0
    assert "3 of 3 finished; nothing to train" in capsys.readouterr().out
    assert first.stat().st_mtime_ns == before


@pytest.mark.parametrize("command", ["compare", "train"])
@pytest.mark.parametrize("seeds", [0, 10**9, 10**20])
def test_the_number_of_seeds_has_a_bound(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str, seeds: int
) -> None:
    said = one_line(capsys, command, make_toy(tmp_path / "toy"), "--seeds", str(seeds), "--dry-run")
    assert said.startswith("Invalid value for '--seeds': ")
