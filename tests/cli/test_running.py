"""Budgets on the command line: what is chosen, kept on resume, and refused."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.helpers import FAST, TINY, make_toy, one_line

import largedrop as ld
from largedrop.cli import main
from largedrop.experiments import budget
from largedrop.experiments.budget import Pace
from largedrop.runs.read import read_runs

pytestmark = pytest.mark.usefixtures("quick_heads")

CHOSEN = ("steps", "eval_every", "size")
SMALL = [f"--{name.replace('_', '-')}={value}" for name, value in TINY.items() if name not in CHOSEN]


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A pace of half a second a step at any size, and the sizes that were measured."""
    sizes: list[int] = []

    def pretend(config: ld.Config, data: Any, views: Any) -> Pace:
        sizes.append(config.size)
        return Pace(step=0.5, image=1e-3, save=0.0, head=0.5)

    monkeypatch.setattr(budget, "measure", pretend)
    return sizes


def settings(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "comparison.json").read_text())
    return {name: content[name] for name in (*CHOSEN, "budget")}


def test_a_budget_chooses_once_and_is_kept(
    toy: Path, tmp_path: Path, measured: list[int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    command = ["train", str(toy), "--test-domain", "photo", "--budget", "10s", *SMALL]
    assert main(command) == 0
    assert measured == [64]  # and no larger one, since few steps fit
    (folder,) = (tmp_path / "largedrop-runs").iterdir()
    assert folder.name.startswith(f"{toy.name}-photo-10s-")
    assert settings(folder) == {"steps": 17, "eval_every": 3, "size": 64, "budget": 10.0}
    told = "a budget of 10 s for each run: 17 steps at 64 px, evaluated every 3 "
    out = capsys.readouterr().out
    assert told + "(by a short measurement)\n" in out
    assert " time a run\n" in out
    (run,) = (folder / "runs").iterdir()
    assert ld.Run.open(run).config.steps == 17

    monkeypatch.setattr(budget, "measure", lambda *arguments: pytest.fail("measured again"))
    assert main(command) == 0
    assert f"{told}(as chosen before in largedrop-runs/{folder.name})\n" in capsys.readouterr().out
    other = one_line(capsys, *command[:5], "20s", *SMALL, "--output", folder)
    assert other == f"{folder} belongs to a comparison with a budget of 10 s; name another --output"


def test_a_given_size_is_kept(toy: Path, tmp_path: Path, measured: list[int]) -> None:
    output = ["--output", str(tmp_path / "out"), "--size", "32"]
    assert (
        main(["compare", str(toy), "--test-domains", "ink", "--dropout", "0", "--budget", "8s", *SMALL, *output]) == 0
    )
    assert measured == [32]
    assert settings(tmp_path / "out")["size"] == 32


def test_a_dry_run_measures_and_writes_nothing(
    toy: Path, tmp_path: Path, measured: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    output = ["--output", str(tmp_path / "out"), "--dry-run"]
    assert main(["compare", str(toy), "--budget", "0.5m", *SMALL, *output]) == 0
    assert "a budget of 30 s for each run: " in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--budget", "10"], "--budget 10 has no unit: say 10s, 10m or 10h"),
        (["--budget", "soon"], "--budget must be a time such as 90s, 10m or 1.5h, not 'soon'"),
        (["--budget", "10m", "--steps", "50"], "--budget chooses --steps: leave one of them out"),
        (["--budget", "10m", "--eval-every", "5"], "--budget chooses --eval-every: leave one of them out"),
        (["--budget", "10m", "--fit", "probe"], "--budget is for fine-tuning; fit 'probe' takes seconds"),
        (
            ["--budget", "10m", "--jobs", "2"],
            "--budget measures a run that has the machine to itself: leave --jobs out",
        ),
        (
            ["--budget", "5s"],
            "a budget of 5 s is too short: 10 steps and one evaluation at 64 px take 6 s here",
        ),
    ],
)
def test_contradictions_and_mistakes_take_one_line(
    toy: Path,
    tmp_path: Path,
    measured: list[int],
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    text: str,
) -> None:
    output = tmp_path / "out"
    assert one_line(capsys, "train", toy, "--test-domain", "photo", *SMALL, *options, "--output", output) == text
    assert not output.exists()


def test_classes_that_a_domain_lacks_are_said_before_training_and_with_the_results(
    toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only 'ink' has 'red', and it lacks 'green'."""
    root = shutil.copytree(toy, tmp_path / "toy")
    for cell in ("oil/red", "photo/red", "ink/green"):
        shutil.rmtree(root / cell)
    both = ["--test-domains", "ink,photo", "--dropout", "0", "--output"]
    assert main(["compare", str(root), *both, str(tmp_path / "out"), *FAST]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == (
        "classes: the 3 of all domains, each domain scored on those it has; 'ink' lacks 'green'; 'oil' lacks 'red'; "
        "'photo' lacks 'red' (--classes common leaves these out)"
    )
    wrong = (
        "tested on 'ink', 'red' cannot be predicted, as no domain trained on has it: 6 of 12 test images count as wrong"
    )
    assert wrong in lines[:4]
    said = [
        "'ink' lacks 'green': o.o.d. accuracy there is over the classes it has.",
        "No domain trained on has 'red' of 'ink': its images count as wrong there.",
        "'photo' lacks 'red': o.o.d. accuracy there is over the classes it has.",
    ]
    assert [line for line in lines if line in said] == said
    runs = read_runs(tmp_path / "out")
    assert runs.notes[:3] == said
    assert "lacks &#39;red&#39;" in (tmp_path / "out" / "report.html").read_text()
    for run in runs.runs:
        for record in run.records:
            images = 12  # of two classes, six each
            assert record.ood_accuracy is not None
            assert record.ood_accuracy * images == pytest.approx(round(record.ood_accuracy * images))
            assert record.test_domain == "photo" or record.ood_accuracy <= 0.5

    for cell in ("ink/green", "oil/red", "photo/red"):
        shutil.copytree(toy / cell, root / cell)
    shutil.rmtree(root / "ink" / "red")
    assert main(["compare", str(root), *both, str(tmp_path / "common"), *FAST, "--classes", "common", "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == [
        "classes: the 2 that every domain has; without 'red' (12 images)",
        "toy: 36 images, 3 domains, 2 classes",
    ]
    refused = one_line(capsys, "train", str(root), "--test-domain", "ink", "--classes", "all", *FAST)
    assert refused == "classes must be 'union' or 'common', not 'all'"


def test_a_table_is_trained_on_and_its_domains_may_have_slashes(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [path.relative_to(toy) for path in sorted(toy.rglob("*.png"))]
    lines = [f"{path.as_posix()},{path.parts[1]},site/{path.parts[0]}" for path in paths]
    table = toy / "shots.csv"
    table.write_text("\n".join(["file,species,site", *lines]))
    monkeypatch.chdir(tmp_path)
    data = [str(table), "--column", "path=file", "--column", "label=species", "--column", "domain=site"]
    try:
        assert main(["train", *data, "--test-domain", "site/ink", *FAST]) == 0
        assert capsys.readouterr().out.startswith("shots: 54 images, 3 domains, 3 classes\n")
        (folder,) = (tmp_path / "largedrop-runs").iterdir()
        assert folder.name.startswith("shots-site-ink-")
        (run,) = (folder / "runs").iterdir()
        assert ld.Run.open(run).config.test_domain == "site/ink"
        inspected = ["--measures", "richness", "--images", "4", "--draws", "1", "--output", "inspected"]
        assert main(["inspect", str(run), "--data", *data, *inspected]) == 0
        assert main(["compare", *data, "--dropout", "0", "--dry-run", *FAST]) == 0
        assert one_line(capsys, "train", str(table), "--test-domain", "site/ink", *FAST) == (
            f"{table} has no column 'path' and 'label', only file, species, site; --column path=NAME says which it is"
        )
    finally:
        table.unlink()


def test_a_dataset_that_was_renamed_or_moved_goes_on(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = shutil.copytree(toy, tmp_path / "before")
    monkeypatch.chdir(tmp_path)
    assert main(["train", "before", "--test-domain", "ink", *FAST]) == 0
    assert main(["train", "before", "--test-domain", "ink", *FAST, "--output", "out"]) == 0
    before = sorted(path for path in tmp_path.glob("*/**/runs/*/result.json"))
    assert len(before) == 2
    times = [path.stat().st_mtime_ns for path in before]
    capsys.readouterr()
    moved = tmp_path / "elsewhere" / "after"
    moved.parent.mkdir()
    root.rename(moved)
    for output in ([], ["--output", "out"]):
        assert main(["train", str(moved), "--test-domain", "ink", *FAST, *output]) == 0
        said = capsys.readouterr().out.splitlines()
        assert "after is 'before' under another name: the images are the same" in said
        assert "before: 54 images, 3 domains, 3 classes" in said
    assert sorted(path for path in tmp_path.glob("*/**/runs/*/result.json")) == before
    assert [path.stat().st_mtime_ns for path in before] == times
    run = ld.finetune(ld.open_dataset(moved), "ink", output=tmp_path / "run", dropout=0.9, **{**TINY, "steps": 2})
    assert run.config.data == "after"
    again = ld.finetune(
        replace(ld.open_dataset(moved), name="x"), "ink", output=tmp_path / "run", dropout=0.9, **{**TINY, "steps": 2}
    )
    assert again.config == run.config


PRESET = """
title = "Tiny"
[settings]
model = "test_efficientnet"
weights = "random"
size = 32
batch = 4
steps = 2
eval_every = 1
[grid]
dropout = [0.0, 0.9]
"""
ONLY = "'all' is the only domain, and there is an i.i.d. score alone\n"


def of_kind(kind: str, root: Path) -> list[str]:
    """A table, classes without domains, or groups with a class that a domain lacks: its name and options."""
    toy = make_toy(root / "toy")
    if kind == "classes":
        return [str(toy / "ink")]
    if kind == "table":
        lines = [f"toy/{path.relative_to(toy)},{path.parts[-2]},{path.parts[-3]}" for path in toy.glob("*/*/*.png")]
        (root / "t.csv").write_text("\n".join(["file,kind,site", *lines]))
        names = {"path": "file", "label": "kind", "domain": "site"}
        return [str(root / "t.csv"), *(f"--column={what}={name}" for what, name in names.items())]
    shutil.rmtree(toy / "ink" / "blue")
    return [str(toy), "--group-pattern", r"^(\d)"]  # of every class and domain


@pytest.mark.usefixtures("quick_heads")
@pytest.mark.parametrize("kind", ["table", "classes", "groups"])
def test_every_command_takes_every_kind_of_data(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, *options = of_kind(kind, tmp_path)
    several = kind != "classes"
    out = {name: str(tmp_path / name) for name in ("train", "compare", "advise", "sweep")}
    test_domain = ["--test-domain", "photo"] if several else []
    assert main(["train", source, *options, *test_domain, *FAST, "--output", out["train"]]) == 0
    (split,) = Path(out["train"]).glob("runs/*/split.csv")
    sides: dict[str, set[str]] = {}
    for row in csv.DictReader(split.read_text().splitlines()):
        sides.setdefault(Path(row["key"]).name, set()).add(row["split"])
    assert all(len(parts) == 1 for parts in sides.values()) == (kind == "groups")
    network = ["--model", "test_efficientnet", "--weights", "random", "--size", "32", "--device", "cpu"]
    advise = ["advise", source, *options, "--rates", "0.5", "--seeds", "1", *network, "--output", out["advise"]]
    assert main(advise) == 0
    (tmp_path / "tiny.toml").write_text(PRESET)
    compare = ["compare", source, *options, "--dropout", "0", *FAST, "--output", out["compare"]]
    sweep = [
        "sweep",
        str(tmp_path / "tiny.toml"),
        "--data",
        source,
        *options,
        "--output",
        out["sweep"],
        "--device",
        "cpu",
    ]
    capsys.readouterr()
    assert main(compare) == main(sweep) == 0
    assert len(list(Path(out["sweep"]).glob("runs/*/result.json"))) == (6 if several else 2)
    assert (tmp_path / "compare" / "report.html").is_file()
    assert capsys.readouterr().out.count(ONLY) == (0 if several else 2)
