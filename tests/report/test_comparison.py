"""What a comparison leaves: exactly the named files, whatever became of its runs."""

from __future__ import annotations

import io
import json
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from rich.console import Console
from tests.helpers import TINY, refusal

import largedrop as ld
from largedrop.experiments.compare import Comparison, Plan, plan
from largedrop.experiments.learning_rates import Choice
from largedrop.report import comparison as output
from largedrop.report.comparison import machine, publish
from largedrop.runs.methods import METHODS as METHOD_TEXTS
from largedrop.runs.record import Record, describe
from largedrop.runs.run import Run

CPU = torch.device("cpu")
METHODS = ("fine-tuning", "ensemble", "weight-average", "linear-probe")
FAILED = {"dropout": 0.9, "test_domain": "photo", "seed": 1, "error": "the run collapsed at <b>step</b> 21"}


@pytest.fixture
def planned(data: ld.Dataset) -> Plan:
    settings = {**TINY, "precision": "float32"}
    return plan(data, CPU, test_domains=["photo", "ink"], dropouts=(0.0, 0.9), seeds=(0, 1), **settings)


def comparison(planned: Plan, *, missing: tuple[tuple[str, float, int], ...] = (), failed: Any = ()) -> Comparison:
    """Runs with made-up accuracies: dropout 0.9 gains a tenth."""
    runs = []
    for config in planned.configs:
        if (config.test_domain, config.dropout, config.seed) in missing:
            continue
        ood = 0.5 + config.dropout / 9 + 0.02 * config.seed
        scores = {"iid_accuracy": 0.8, "ood_accuracy": ood, "steps": 6, "seconds": 1.5}
        runs.append(Run(Path("nowhere"), config, {"methods": dict.fromkeys(METHODS, scores)}))
    return Comparison(planned, runs, list(failed))


def published(data: ld.Dataset, planned: Plan, result: Comparison, folder: Path) -> tuple[list[Path], str]:
    console = Console(file=io.StringIO(), width=120)
    told: dict[str, Any] = {"title": "Toys <never> seen", "command": "largedrop compare toy", "seconds": 200.0}
    paths = publish(console, data, result, folder, device=CPU, **told)
    assert isinstance(console.file, io.StringIO)
    return paths, console.file.getvalue()


def results(folder: Path) -> Any:
    return json.loads((folder / "results.json").read_text())


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_exactly_these_files_are_written(data: ld.Dataset, planned: Plan, tmp_path: Path) -> None:
    paths, said = published(data, planned, comparison(planned), tmp_path)
    assert paths == [tmp_path / name for name in ("report.html", "figure.png", "figure.svg", "results.json")]
    assert names(tmp_path) == ["figure.png", "figure.svg", "report.html", "results.json"]
    for line in ("fine-tuning", "ensemble", "weight-average", "linear-probe"):
        assert line in said
    assert "+10.0 ± 0.0" in said
    with Image.open(tmp_path / "figure.png") as image:
        assert image.format == "PNG"
    assert (tmp_path / "figure.svg").read_text().startswith("<?xml")


def test_the_results_are_read_back(data: ld.Dataset, planned: Plan, tmp_path: Path) -> None:
    result = comparison(planned)
    published(data, planned, result, tmp_path)
    found = results(tmp_path)
    assert list(found) == ["largedrop", "accuracy", "command", "dataset", "failed", "records"]
    assert [Record.from_json(entry, "") for entry in found["records"]] == result.records
    assert len(found["records"]) == 8 * 4
    assert found["dataset"] == describe(data)
    assert found["dataset"]["domains"] == {"ink": 18, "oil": 18, "photo": 18}
    assert (found["failed"], found["command"]) == ([], "largedrop compare toy")


def test_the_page_says_what_was_done(data: ld.Dataset, planned: Plan, tmp_path: Path) -> None:
    published(data, planned, comparison(planned), tmp_path)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<h1>Toys &lt;never&gt; seen</h1>" in page
    assert "largedrop compare toy" in page
    for said in ("weight decay", "test_efficientnet", "eval every", "weights digest", "3 min 20 s"):
        assert said in page
    assert re.search(r">masks</th><td[^>]*>16</td>", page)  # of the runs that have some
    assert machine(CPU) in page
    assert data.fingerprint[:8] in page


def test_failed_runs_are_in_the_results_and_on_the_page(data: ld.Dataset, planned: Plan, tmp_path: Path) -> None:
    result = comparison(planned, missing=(("photo", 0.9, 1),), failed=[FAILED])
    paths, said = published(data, planned, result, tmp_path)
    assert [path.name for path in paths] == ["report.html", "figure.png", "figure.svg", "results.json"]
    found = results(tmp_path)
    assert found["failed"] == [FAILED]
    assert len(found["records"]) == 7 * 4
    assert "* fine-tuning, dropout 0.9: no record of photo (seed 1)" in said
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "the run collapsed at &lt;b&gt;step&lt;/b&gt; 21" in page


def test_without_a_finished_run_there_are_only_results(data: ld.Dataset, planned: Plan, tmp_path: Path) -> None:
    paths, said = published(data, planned, Comparison(planned, [], [FAILED]), tmp_path)
    assert paths == [tmp_path / "results.json"]
    assert names(tmp_path) == ["results.json"]
    assert said == ""
    found = results(tmp_path)
    assert (found["records"], found["failed"]) == ([], [FAILED])


def test_shares_of_the_way_back_are_one_row(data: ld.Dataset, planned: Plan, tmp_path: Path) -> None:
    result = comparison(planned)
    common = {"ood_accuracy": 0.5, "steps": 6, "seconds": 1.5}
    for run in result.runs:
        best = 0.3 if run.config.test_domain == "ink" else 0.0
        curve = [{"alpha": alpha, "iid_accuracy": 0.9 if alpha == best else 0.8, **common} for alpha in (0.0, 0.3, 1.0)]
        run.result["methods"] = {**run.result["methods"], "wise-ft": curve}
    _, said = published(data, planned, result, tmp_path)
    assert len(results(tmp_path)["records"]) == 8 * (4 + 3)
    assert said.count("\nwise-ft ") == 2 * 2  # overall, and by test domain
    assert "wise-ft, dropout 0.9: alpha 0 on photo and 0.3 on ink, by i.i.d. accuracy." in said
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.count("wise-ft, alpha 0.3") == 8
    assert METHOD_TEXTS["wise-ft"].explanation in page


def test_the_learning_rate_of_each_arm_is_in_all_of_it(data: ld.Dataset, planned: Plan, tmp_path: Path) -> None:
    """Dropout 0.9 took another on ink than on photo, and yet is one row without missing runs."""
    plan = replace(planned, learning_rates=(0.001, 0.01))
    result = comparison(plan)
    for run in result.runs:
        if run.config.dropout and run.config.test_domain == "ink":
            result.runs[result.runs.index(run)] = replace(run, config=replace(run.config, lr=0.01))
    result.choices = [
        Choice(0.0, ("photo",), {0.001: 0.8, 0.01: "the run collapsed"}),
        Choice(0.9, ("photo",), {0.001: 0.8, 0.01: 0.8}),
        Choice(0.9, ("ink",), {0.001: 0.75, 0.01: 0.8}),
    ]
    _, said = published(data, plan, result, tmp_path)
    assert said.count("\nfine-tuning ") == 2 * 2  # overall and by test domain
    assert "no record of" not in said
    lines = [line.split() for line in said.splitlines()]
    at = lines.index(["learning", "rates"])
    assert [lines[at + 1], *lines[at + 3 : at + 6]] == [
        ["dropout", "test", "domain", "0.001", "0.01"],
        ["0", "photo", "80.0", "*", "–"],
        ["0.9", "photo", "80.0", "*", "80.0"],
        ["0.9", "ink", "75.0", "80.0", "*"],
    ]
    warned = "Dropout 0.9 on ink: the best learning rate is the largest that was tried, 0.01"
    assert warned in said
    found = results(tmp_path)
    assert found["learning_rates"] == [choice.to_json() for choice in result.choices]
    assert {(each["test_domain"], each["settings"]["lr"]) for each in found["records"] if each["dropout"]} == {
        ("photo", 0.001),
        ("ink", 0.01),
    }
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert warned in page
    assert "the best i.i.d. of 0.001 and 0.01" in page
    assert '<td class="best">80.0 *</td>' in page
    drawn = (tmp_path / "figure.svg").read_text()
    for label in ("plain fine-tuning, lr 0.001", "fine-tuning, dropout 0.9, lr 0.001/0.01", "ensemble, dropout 0.9"):
        assert f'"cloud {label}"' in drawn


def test_a_plan_of_one_run(data: ld.Dataset, planned: Plan, tmp_path: Path) -> None:
    one = Plan((replace(planned.configs[1], seed=0),), (1.0,))
    paths, _ = published(data, one, comparison(one), tmp_path)
    assert len(paths) == 4
    assert len(results(tmp_path)["records"]) == 4


def test_writing_again_replaces_and_repeats(data: ld.Dataset, planned: Plan, tmp_path: Path) -> None:
    published(data, planned, comparison(planned), tmp_path)
    before = {name: (tmp_path / name).read_bytes() for name in names(tmp_path)}
    published(data, planned, comparison(planned), tmp_path)
    assert {name: (tmp_path / name).read_bytes() for name in names(tmp_path)} == before


def test_a_folder_that_cannot_be_written(data: ld.Dataset, planned: Plan, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    said = refusal(published, data, planned, comparison(planned), tmp_path / "file")
    file = tmp_path / "file"
    assert said == f"cannot write {file / 'results.json'}: {file} is a file; rename it or remove it"


def test_the_machine_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {"cpu": "Fast CPU @ 3.0: GHz", "cuda": "NVIDIA T4"}
    monkeypatch.setattr(output, "device_name", lambda device: names[device.type])
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr(os, "sysconf", lambda name: {"SC_PHYS_PAGES": 2**21, "SC_PAGE_SIZE": 4096}[name])
    assert machine(CPU) == "Fast CPU @ 3.0: GHz, 2 cores, 8 GiB"
    assert machine(torch.device("cuda")) == "Fast CPU @ 3.0: GHz, 2 cores, 8 GiB, NVIDIA T4"
