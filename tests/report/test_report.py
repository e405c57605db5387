"""Reports on stored runs: the tables word for word, and what is refused."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import pytest
from tests.helpers import PACS, config, golden, refusal, result, store

from largedrop.errors import UserError
from largedrop.report.report import FORMATS, write_report
from largedrop.runs.read import read_runs
from largedrop.runs.run import never_beat


def grid(root: Path) -> Path:
    """Two rates × two learning rates × two test domains × two seeds; one run is missing."""
    for dropout in (0.0, 0.9):
        for lr in (5e-4, 1e-3):
            for place, domain in enumerate(("photo", "sketch")):
                for seed in (0, 1):
                    if (dropout, lr, domain, seed) != (0.9, 1e-3, "sketch", 1):
                        iid = 0.90 + 0.01 * (lr == 1e-3) + 0.02 * seed - 0.04 * place
                        ood = 0.80 + 0.05 * (dropout > 0) + 0.02 * (lr == 1e-3) - 0.01 * seed - 0.10 * place
                        store(root / "runs", config(domain, seed, dropout, lr), result(round(iid, 4), round(ood, 4)))
    return root


def test_tables_word_for_word(tmp_path: Path) -> None:
    folder = grid(tmp_path / "comparison")
    store(folder / "runs", config("photo", 7), None, "begun")
    written = write_report(read_runs(folder), tmp_path / "out", dataset=PACS)
    assert [path.name for path in written] == [
        "report.md",
        *(f"{name}.{kind}" for name in ("clouds", "paths", "comparison") for kind in ("png", "svg")),
        "table.csv",
        "table.tex",
        "report.json",
    ]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(path.name for path in written)
    for name in ("report.md", "table.csv", "table.tex"):
        golden(name, (tmp_path / "out" / name).read_text("utf-8"))


def test_numbers_of_the_tables_by_hand(tmp_path: Path) -> None:
    folder = grid(tmp_path / "comparison")
    write_report(read_runs(folder), tmp_path / "out", dataset=PACS, formats=("json", "csv"))
    content = json.loads((tmp_path / "out" / "report.json").read_text("utf-8"))
    assert content["recognised"] == "PACS"
    plain, large = content["rows"][:2]
    # lr 1e-3 is the better i.i.d.: seed 0 (0.82 + 0.72) / 2, seed 1 (0.81 + 0.71) / 2
    assert plain["ood"] == {"mean": 0.765, "error": pytest.approx(0.005), "n": 2}
    assert plain["domains"]["photo"]["chosen"] == "fine-tuning, dropout 0, lr 0.001"
    assert plain["cloud"]["dots"] == 4
    # The centre: lr 5e-4 is 0.02 below.
    assert plain["cloud"]["centre"]["ood"]["mean"] == pytest.approx(0.755)
    assert plain["published"]["difference_ood"]["mean"] == pytest.approx(0.755 - 0.865)
    # On sketch lr 1e-3 lacks a seed, so lr 5e-4 is taken: (0.87 + 0.75) / 2 and (0.86 + 0.74) / 2
    assert large["domains"]["sketch"]["chosen"] == "fine-tuning, dropout 0.9, lr 0.0005"
    assert large["ood"]["mean"] == pytest.approx(0.805)
    # Paired by seed: (0.87 + 0.75) / 2 - 0.77 and (0.86 + 0.74) / 2 - 0.76
    assert large["gain"] == {"mean": pytest.approx(0.04), "error": pytest.approx(0), "n": 2}
    assert plain["gain"] is None
    assert large["missing"] == ["fine-tuning, dropout 0.9, lr 0.001; test domain sketch, seed 1"]
    assert large["cloud"]["dots"] == 2
    rows = list(csv.DictReader(io.StringIO((tmp_path / "out" / "table.csv").read_text("utf-8"))))
    first = rows[0]
    assert [first[name] for name in ("method", "test_domain", "n", "selection")] == [
        "fine-tuning",
        "average",
        "2",
        "iid",
    ]
    assert [float(first[name]) for name in ("ood", "centre_ood", "paper_ood", "difference_ood")] == pytest.approx(
        [76.5, 75.5, 86.5, -11.0]
    )
    assert len(rows) == 4 * 3


def test_an_unknown_dataset_has_no_published_columns(tmp_path: Path) -> None:
    folder = grid(tmp_path / "comparison")
    runs = read_runs(folder)
    write_report(runs, tmp_path / "out", formats=("md",))
    text = (tmp_path / "out" / "report.md").read_text("utf-8")
    assert "paper" not in text
    write_report(runs, tmp_path / "out", formats=("md",), dataset={**PACS, "domains": {**PACS["domains"], "photo": 1}})
    text = (tmp_path / "out" / "report.md").read_text("utf-8")
    assert "No published numbers beside it: looks like PACS but has other numbers of images (photo 1 instead" in text
    assert "difference" not in text
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["report.md"]


def test_random_weights_have_no_published_numbers_beside_them(tmp_path: Path) -> None:
    for domain in ("photo", "sketch"):
        random = config(domain, weights="random", weights_digest="random")
        store(tmp_path / "runs", random, result(0.3, 0.2))
    write_report(read_runs(tmp_path), tmp_path / "out", formats=("md",), dataset=PACS)
    text = (tmp_path / "out" / "report.md").read_text("utf-8")
    assert "The paper has no number for any of these methods and dropout rates, of networks with such weights." in text
    assert "86.5" not in text


def test_rules_and_missing_runs_are_said(tmp_path: Path) -> None:
    runs = read_runs(grid(tmp_path / "comparison"))
    write_report(runs, tmp_path / "o", "oracle", formats=("md",), seeds=(0, 1, 2), allow_missing=True)
    text = (tmp_path / "o" / "report.md").read_text("utf-8")
    assert "Selection (oracle): " in text
    assert "an upper bound and not a method" in text
    assert "## Missing runs (18)" in text  # 8 a seed and method, and the one that is missing of both methods
    with pytest.raises(UserError, match=r"^leave-one-domain-out selection needs three domains"):
        write_report(runs, tmp_path / "o", "leave-one-domain-out")


def test_what_cannot_be_reported(tmp_path: Path) -> None:
    runs = read_runs(grid(tmp_path / "comparison"))
    said = refusal(
        write_report, runs, tmp_path / "o", formats=("md", "pdf"), dataset={**PACS, "fingerprint": "beef" * 16}
    )
    assert said == (
        f"unknown format 'pdf'; there are: {', '.join(FORMATS)}; the facts are of another dataset: fingerprint "
        "beefbeefbeef instead of f00df00df00d"
    )
    assert not (tmp_path / "o").exists()


def test_latex_tables_have_as_many_cells_in_every_row(tmp_path: Path) -> None:
    write_report(read_runs(grid(tmp_path / "comparison")), tmp_path / "o", formats=("tex",), dataset=PACS)
    text = (tmp_path / "o" / "table.tex").read_text("utf-8")
    tables = re.findall(r"\\begin\{tabular\}\{([lr]+)\}\n(.*?)\\end\{tabular\}", text, re.DOTALL)
    assert len(tables) == 3
    for columns, body in tables:
        rows = [line for line in body.splitlines() if line.endswith(r"\\")]
        assert {len(re.findall(r"(?<!\\)&", row)) + 1 for row in rows} == {len(columns)}
        assert [rule in body for rule in (r"\toprule", r"\midrule", r"\bottomrule")] == [True] * 3
    assert text.count("{") == text.count("}")


def test_runs_that_never_beat_their_head_are_counted(tmp_path: Path) -> None:
    for seed, step in enumerate((300, 0, 0)):
        found = result(0.9, 0.7, best_step=step)
        found["log"][0]["step"] = step
        store(tmp_path, config(seed=seed), found)
    runs = read_runs(tmp_path)
    (note,) = runs.notes
    assert [note] == never_beat([True, False, False])
    assert note.startswith("In 2 of 3 runs fine-tuning never beat the head that it started from: ")
    write_report(runs, tmp_path / "out", formats=["md"])
    assert "In 2 of 3 runs " in (tmp_path / "out" / "report.md").read_text()
