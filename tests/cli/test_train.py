"""``largedrop train``: without a test domain, with several, and what is predicted afterwards."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.helpers import FAST, make_toy, one_line

from largedrop.cli import main
from largedrop.runs.read import read_runs

pytestmark = pytest.mark.usefixtures("quick_heads")


def results(folder: Path) -> list[dict[str, Any]]:
    content: dict[str, Any] = json.loads((folder / "results.json").read_text())
    records: list[dict[str, Any]] = content["records"]
    return records


def test_every_domain_is_trained_on_where_none_is_tested_on(
    toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["train", str(toy), *FAST, "--seeds", "2", "--output", str(out)]) == 0
    said = capsys.readouterr().out
    assert "no test domain: every domain is trained on, and there is an i.i.d. score alone\n" in said
    assert "Accuracy in %, mean ± standard error over 2 seeds; no test domain.\n" in said
    assert " % i.i.d., – o.o.d.\n" in said
    assert {(each["test_domain"], each["ood_accuracy"]) for each in results(out)} == {("", None)}
    assert not (out / "figure.png").exists()
    page = (out / "report.html").read_text()
    assert "on every domain, so there is no o.o.d. accuracy." in page
    assert "<img src=" in page  # the examples
    shutil.copytree(toy / "ink" / "red", tmp_path / "new")
    (run, _) = sorted((out / "runs").iterdir())
    assert run.name.startswith(f"{toy.name}-d0.9-s0-")
    assert main(["predict", str(run), str(tmp_path / "new")]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 7
    assert main(["report", str(out), "--output", str(tmp_path / "report")]) == 0
    assert "no test domain" in (tmp_path / "report" / "report.md").read_text()
    assert "has no test domain" in one_line(capsys, "inspect", run, "--data", toy)


def test_a_domain_without_labels_is_not_scored_and_can_be_predicted(
    toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a table; the run with it as its test domain is the one without a test domain."""
    paths = sorted(toy.rglob("*.png"))
    rows = [(path, "" if path.parts[-3] == "photo" else path.parts[-2], path.parts[-3]) for path in paths]
    table = tmp_path / "t.csv"
    table.write_text("path,label,domain\n" + "".join(f"{path},{label},{domain}\n" for path, label, domain in rows))
    said = []
    for options in (["--test-domain", "photo"], []):
        assert main(["train", str(table), *options, *FAST, "--dry-run", "--output", str(tmp_path)]) == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1]
    told = "no labels: all 18 images of 'photo', not trained on and not scored; `largedrop predict` takes such"
    assert told in " ".join(said[0].split())
    assert "t: 36 images, 2 domains" in said[0]
    assert main(["train", str(table), "--test-domain", "photo,ink", *FAST, "--dry-run", "--output", str(tmp_path)]) == 0
    assert "/t-ink-d0.9-s0-" in capsys.readouterr().out
    refused = "no image of 'photo' has a label, so nothing can be scored on it; `largedrop predict` takes them"
    assert one_line(capsys, "compare", table, "--test-domains", "photo", *FAST) == refused


def test_a_single_domain_is_said_once(toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(toy / "ink", tmp_path / "one" / "ink")
    command = [str(tmp_path / "one"), *FAST, "--output", str(tmp_path / "out")]
    assert main(["train", *command]) == 0
    said = capsys.readouterr().out
    assert said.count("is the only domain") == 1
    assert "'ink' is the only domain, and there is an i.i.d. score alone\n" in said
    told = "one has only the domain 'ink': testing on it leaves none to train on"
    assert one_line(capsys, "compare", *command, "--dropout", "0", "--test-domains", "ink") == told
    assert one_line(capsys, "train", *command, "--test-domain", "ink") == told


def test_the_folder_is_named_by_what_is_tested_on(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for options, name in (([], ""), (["--test-domain", "oil,ink"], "-ink-oil"), (["--test-domain", "ink"], "-ink")):
        assert main(["train", str(toy), *options, *FAST, "--dry-run"]) == 0
        folder = capsys.readouterr().out.splitlines()[-1].strip().split("/")[1]
        assert folder.rpartition("-")[0] == f"{toy.name}{name}"


def test_several_test_domains_in_one_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = make_toy(tmp_path / "toy")
    (data / "ink").rename(data / "San Jose, CA")
    out = tmp_path / "out"
    names = ["--test-domain", "photo", "--test-domain", "San Jose, CA"]
    assert main(["train", str(data), *names, *FAST, "--output", str(out)]) == 0
    said = capsys.readouterr().out
    assert "averaged over the test domains San Jose, CA and photo." in " ".join(said.split())
    assert len(list((out / "runs").iterdir())) == 1
    found = [each for each in results(out) if each["method"] == "fine-tuning"]
    assert [each["test_domain"] for each in found] == ["San Jose, CA", "photo"]
    (run,) = read_runs(out).runs
    assert run.config.also_tested == "photo"
    again = ["--test-domain", 'photo,"San Jose, CA"']
    assert main(["train", str(data), *again, *FAST, "--output", str(out)]) == 0
    assert len(list((out / "runs").iterdir())) == 1
    page = (out / "report.html").read_text()
    assert "tested on San Jose, CA and photo" in page
    assert "from 1 training." in page


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["photo", "foto"], "no domain 'foto' in {name}; did you mean 'photo'? (there are: ink, oil, photo)"),
        (["photo", "photo"], "the test domain 'photo' is named twice"),
        (["photo,ink,oil"], "without 'ink' and 'oil' and 'photo', {name} has no domain to train on"),
        ([""], "a test domain is named by nothing: ''"),
        (['"ink'], '\'"ink\': a name with a comma or with quotes goes in double quotes, as "San Jose, CA"'),
    ],
)
def test_test_domains_that_there_are_not(
    toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], names: list[str], told: str
) -> None:
    options = [text for name in names for text in ("--test-domain", name)]
    command = ["train", str(toy), *options, *FAST, "--output", str(tmp_path / "out")]
    assert one_line(capsys, *command) == told.format(name=toy.name)
    assert not (tmp_path / "out").exists()


def test_a_finished_run_whose_model_is_damaged(toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command: tuple[str | Path, ...] = ("train", toy, "--test-domain", "photo", *FAST, "--output", tmp_path / "out")
    assert main(list(map(str, command))) == 0
    (run,) = (tmp_path / "out" / "runs").iterdir()
    best, final = run / "best.safetensors", run / "final.safetensors"
    content = best.read_bytes()
    for path in (best, final):  # which the recipe may hand over
        shutil.copy(run / "average.safetensors", path)
    handed = json.loads((run / "result.json").read_text())["model"]
    told = f"{run / handed} is the checkpoint 'average' of its run, not '{handed.removesuffix('.safetensors')}'"
    assert one_line(capsys, *command) == f"{told}; remove {run} and train it again"
    assert one_line(capsys, "predict", run, toy) == f"{told}; remove {run} and train it again"
    (run / handed).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert "is damaged: its checksum is not that of its content; remove" in one_line(capsys, *command)
