"""Options from a TOML file, the file that each comparison leaves, and passes over the images instead of steps."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.helpers import TINY, one_line

import largedrop as ld
from largedrop.cli import main
from largedrop.runs.read import read_runs

pytestmark = pytest.mark.usefixtures("quick_heads")

SMALL = [f"--{name.replace('_', '-')}={value}" for name, value in TINY.items()]


def digests(folder: Path) -> list[str]:
    """The digests of the runs in a comparison's folder."""
    return sorted(path.name.rpartition("-")[2] for path in (folder / "runs").iterdir())


@pytest.mark.parametrize(
    ("command", "domains"), [("train", ["--test-domain", "ink"]), ("compare", ["--test-domains", "ink"])]
)
def test_a_comparison_leaves_the_file_that_repeats_it(
    toy: Path, tmp_path: Path, command: str, domains: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rates = "0.5" if command == "train" else "0,0.5"
    monkeypatch.chdir(toy.parent)
    given = [
        command,
        toy.name,
        *domains,
        "--dropout",
        rates,
        "--masks",
        "2",
        "--recipe",
        "short",
        "--seeds",
        "2" if command == "train" else "1",
    ]
    assert main([*given, *SMALL, "--output", str(tmp_path / "first")]) == 0
    monkeypatch.chdir(tmp_path)
    written = tmp_path / "first" / f"{command}.toml"
    assert written.read_text().startswith(f"# largedrop {command} --config {command}.toml\n")
    assert main([command, "--config", str(written), "--output", "second"]) == 0
    assert digests(tmp_path / "first") == digests(tmp_path / "second")
    assert len(digests(tmp_path / "first")) == 2


def test_a_table_is_repeated_with_its_columns_and_groups(tmp_path: Path, toy: Path) -> None:
    lines = ["file,species,place"]
    lines += [f"{path},{path.parent.name},{path.parent.parent.name}" for path in sorted(toy.glob("*/*/*.png"))]
    (tmp_path / "all.csv").write_text("\n".join(lines))
    columns = ["--column", "path=file", "--column", "label=species", "--column", "domain=place"]
    groups = ["--group-pattern", "^([0-9])[.]"]
    first = ["train", str(tmp_path / "all.csv"), *columns, *groups, "--test-domain", "oil", *SMALL]
    assert main([*first, "--output", str(tmp_path / "a")]) == 0
    again = ["train", "--config", str(tmp_path / "a" / "train.toml"), "--output", str(tmp_path / "b")]
    assert main(again) == 0
    assert "group-pattern = " in (tmp_path / "b" / "train.toml").read_text()
    assert digests(tmp_path / "a") == digests(tmp_path / "b")


def test_the_command_line_replaces_what_the_file_says(toy: Path, tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    settings = {**TINY, "data": str(toy), "test_domain": "ink", "dropout": 0.9, "recipe": "short"}
    file.write_text("".join(f"{name} = {value!r}\n" for name, value in settings.items()))
    assert main(["train", "--config", str(file), "--dropout", "0.5", "--output", str(tmp_path / "out")]) == 0
    (run,) = read_runs(tmp_path / "out").runs
    assert (run.config.dropout, run.config.steps, run.config.test_domain) == (0.5, TINY["steps"], "ink")


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("stesp = 3", "train has no option 'stesp'; did you mean 'steps'? (there are: "),
        ("steps = 3.5", "Invalid value for '--steps': "),
        ("steps = true", "Invalid value for '--steps': "),
        ("dry-run = 'yes'", "'dry-run' must be true or false, not 'yes'"),
        ("[steps]\nx = 1", "'steps' must be a text, a number, or a list of these, not {'x': 1}"),
        ("eval-every = 1\neval_every = 2", "'eval_every' is named twice"),
        ("steps = ", "is no TOML file: "),
        ("a = " + "[" * 5000, "is no TOML file: "),
        ("config = 'other.toml'", "train has no option 'config'"),
    ],
)
def test_a_mistake_in_the_file_takes_one_line(
    toy: Path, tmp_path: Path, content: str, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run.toml").write_text(content)
    said = one_line(capsys, "train", toy, "--test-domain", "ink", "--config", tmp_path / "run.toml")
    assert text in said


def test_a_missing_file_takes_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = one_line(capsys, "train", "--config", tmp_path / "none.toml")
    assert said == f"cannot read {tmp_path / 'none.toml'}: No such file or directory"


@pytest.mark.skipif(os.name != "posix", reason="pipes")
def test_a_pipe_is_not_waited_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(tmp_path / "pipe.toml")
    said = one_line(capsys, "train", "--config", tmp_path / "pipe.toml")
    assert said == f"cannot read {tmp_path / 'pipe.toml'}: it is no regular file"


def test_epochs_are_passes_over_the_training_images(toy: Path, tmp_path: Path) -> None:
    """Two domains of 18 images, 15 each to train on, in batches of 4 each: 3.75 steps a pass."""
    small = [option for option in SMALL if not option.startswith(("--steps", "--eval-every"))]
    given = ["train", str(toy), "--test-domain", "ink", "--recipe", "short", *small]
    assert main([*given, "--epochs", "1.5", "--output", str(tmp_path / "out")]) == 0
    (run,) = read_runs(tmp_path / "out").runs
    assert (run.config.steps, run.config.eval_every) == (6, 1)  # recipe 'short' evaluates after each sixth
    settings = {name: value for name, value in TINY.items() if name not in ("steps", "eval_every")}
    data = ld.open_dataset(toy, bound=32)
    alone = ld.finetune(data, "ink", recipe="short", epochs=1.5, eval_every=4, output=tmp_path / "run", **settings)
    assert (alone.config.steps, alone.config.eval_every) == (6, 4)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--epochs", "2", "--steps", "3"], "epochs say how many steps there are: leave one of them out"),
        (["--epochs", "0"], "epochs must be above 0 and 10,000,000 at most, not 0.0"),
        (["--epochs", "1e308"], "epochs must be above 0 and 10,000,000 at most, not 1e+308"),
        (["--epochs", "nan"], "epochs must be above 0 and 10,000,000 at most, not nan"),
        (["--epochs", "2", "--budget", "10s"], "--budget chooses --epochs: leave one of them out"),
    ],
)
def test_epochs_that_cannot_be_take_one_line(
    toy: Path, options: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert text in one_line(capsys, "train", toy, "--test-domain", "ink", *options)
