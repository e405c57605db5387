"""``largedrop sweep``: a tiny preset from end to end, its plan, the list, and mistakes."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from tests.helpers import complaint, one_line

from largedrop.catalog.facts import published
from largedrop.catalog.layouts import imagenet_names
from largedrop.cli import main
from largedrop.experiments.preset import preset_names

TOML = """
title = "Tiny"
[settings]
model = "test_efficientnet"
weights = "random"
size = 32
batch = 4
optimizer = "sgd"
steps = 2
eval_every = 1
[grid]
dropout = [0.0, 0.9]
lr = [1e-3, 1e-2]
[small]
test_domains = ["ink"]
[small.settings]
lr = 1e-3
"""
RUN = ["--device", "cpu", "--precision", "float32"]

pytestmark = pytest.mark.usefixtures("quick_heads")


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(TOML)
    return path


def test_a_tiny_preset_from_end_to_end(
    toy: Path, mine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    arguments = ["sweep", str(mine), "--data", str(toy), "--output", str(output), *RUN]
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert "Tiny\n12 runs, 24 steps to go, " in said
    assert re.search(
        r"when all are finished; very roughly \d.* one after the other, by the speed of the network alone\n", said
    )
    assert f"  {output / 'report-mine' / 'report.md'}\n" in said
    assert sorted(path.name for path in output.iterdir()) == ["plans", "report-mine", "runs", "sweep.json"]
    assert len(list(output.glob("runs/*/result.json"))) == 12
    assert {path.name for path in (output / "report-mine").iterdir()} == {
        *("report.md", "report.json", "table.csv", "table.tex"),
        *(f"{name}.{kind}" for name in ("clouds", "paths", "comparison") for kind in ("png", "svg")),
    }
    content = json.loads((output / "report-mine" / "report.json").read_text())
    assert (content["runs"], content["left_out"], content["seeds"]) == (12, [], [0])
    assert {(row["method"], row["dropout"]) for row in content["rows"]} == {
        (method, rate)
        for method in ("fine-tuning", "ensemble", "weight-average", "linear-probe")
        for rate in (0.0, 0.9)
    }

    stamps = {path: path.stat().st_mtime_ns for path in output.glob("runs/*/*")}
    assert main([*arguments, "--scale", "small"]) == 0
    said = capsys.readouterr().out
    assert "2 runs (2 finished), 0 steps to go" in said
    assert {path: path.stat().st_mtime_ns for path in output.glob("runs/*/*")} == stamps
    assert json.loads((output / "report-mine-small" / "report.json").read_text())["runs"] == 2


def test_across_trajectories_and_interpolation_come_after_the_runs(toy: Path, mine: Path, tmp_path: Path) -> None:
    mine.write_text(
        'afterwards = ["across", "interpolation"]\ntest_domains = ["ink"]\n'
        + TOML.split("[small]")[0].replace("1e-2", "1e-4")
    )
    output = tmp_path / "out"
    assert main(["sweep", str(mine), "--data", str(toy), "--output", str(output), *RUN]) == 0
    content = json.loads((output / "report-mine" / "report.json").read_text())
    assert {row["method"] for row in content["rows"]} >= {"ensemble-across", "weight-average-across", "greedy-soup"}
    assert content["not_computed"] == []
    assert (output / "report-mine" / "alpha.png").is_file()
    assert len(list(output.glob("runs/*/interpolation.json"))) == 4
    assert len(list(output.glob("across/*.json"))) >= 6


def test_weights_come_from_a_file(toy: Path, mine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = TOML.replace('weights = "random"\n', "")
    mine.write_text(text)
    weights = tmp_path / "weights.safetensors"
    with torch.random.fork_rng(devices=[]):
        network = timm.create_model("test_efficientnet", pretrained=False)
    save_file(network.state_dict(), weights)
    arguments = ["sweep", str(mine), "--scale", "small", "--data", str(toy), "--output", str(tmp_path / "out"), *RUN]
    assert main([*arguments, "--weights", str(weights), "--jobs", "auto"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert re.search(
        r"--jobs auto: test_efficientnet at 32 px: \d+ side by side, by the (processor cores|memory);", said
    )
    configs = [json.loads(path.read_text()) for path in (tmp_path / "out").glob("runs/*/config.json")]
    assert [config["weights"] for config in configs] == [str(weights)] * 2
    said = one_line(capsys, *arguments, "--weights", "resnet50=x")
    assert said == "--weights resnet50=x: this preset has no such model; there are: test_efficientnet"


def test_dry_run_prints_the_plan_and_writes_nothing(
    toy: Path, mine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    assert main(["sweep", str(mine), "--data", str(toy), "--output", str(output), "--dry-run", *RUN]) == 0
    said = capsys.readouterr().out
    assert "12 runs, 24 steps to go, " in said
    rows = [line.split() for line in said.splitlines() if re.match(r"\s*\d+ .*new\s*$", line)]
    assert [row[:5] for row in rows] == [
        [str(number), lr, domain, rate, "2"]
        for number, (lr, domain, rate) in enumerate(
            (
                (lr, domain, rate)
                for lr in ("0.001", "0.01")
                for domain in ("ink", "oil", "photo")
                for rate in ("0", "0.9")
            ),
            1,
        )
    ]
    assert not output.exists()


def test_the_list_has_every_preset_with_its_runs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", "--list"]) == 0
    said = capsys.readouterr().out
    for name in preset_names():
        assert name in said
    rows = {line.split()[0]: line for line in said.splitlines() if line.strip().startswith("paper-")}
    assert re.search(r"^paper-figure-2 +figure 2 +144 × 10,000 +24 × 600 ", rows["paper-figure-2"])
    assert re.search(r"^paper-figure-4 +figure 4 +288 × 30,000 +32 × 600 ", rows["paper-figure-4"])


def test_collapsed_runs_are_told_and_the_others_reported(
    toy: Path, mine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = TOML.replace("lr = [1e-3, 1e-2]", "lr = [1e-3, 1e6]").replace("steps = 2\neval_every = 1", "steps = 40")
    text = text.replace("[settings]\n", "[settings]\nhead = 'zero'\n")
    mine.write_text(text.replace("dropout = [0.0, 0.9]", "dropout = [0.9]"))
    assert main(["sweep", str(mine), "--data", str(toy), "--output", str(tmp_path / "out"), *RUN]) == 2
    captured = capsys.readouterr()
    assert captured.err == "largedrop: 3 of 6 runs collapsed and are missing from the report\n"
    told = r"dropout 0.9, head zero, lr 1e\+06, weight decay 0.01, seed 0: the run (?:collapsed|diverged)"
    assert len(re.findall(told, captured.out)) == 3
    assert json.loads((tmp_path / "out" / "report-mine" / "report.json").read_text())["runs"] == 3


def test_help_has_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", "--help"]) == 0
    said = capsys.readouterr().out
    assert "Example: largedrop sweep paper-figure-2 --scale small" in " ".join(said.split())
    assert "[default: full]" in said


class TestMistakes:
    def test_an_unknown_launcher(self, capsys: pytest.CaptureFixture[str]) -> None:
        said = one_line(capsys, "sweep", "paper-figure-2", "--launcher", "locl")
        assert said == "unknown launcher 'locl'; did you mean 'local'? (there are: local, ray, slurm, commands)"

    def test_no_preset(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert one_line(capsys, "sweep") == (
            f"name a preset ({', '.join(preset_names())}) or a TOML file; --list shows them"
        )

    def test_misspelt_preset_and_scale(self, mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert "did you mean 'paper-figure-3'?" in one_line(capsys, "sweep", "paper-fig-3")
        assert one_line(capsys, "sweep", mine, "--scale", "tiny").startswith("unknown scale 'tiny'; ")

    def test_no_data_and_no_output(self, mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert one_line(capsys, "sweep", mine) == "--data and --output must be given"
        assert one_line(capsys, "sweep", mine, "--data", "x") == "--output must be given"
        assert one_line(capsys, "sweep", mine, "--list") == f"--list shows every preset; leave '{mine}' out"

    def test_everything_wrong_with_a_preset(self, mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
        mine.write_text(TOML.replace("steps = 2", "setps = 2").replace("[0.0, 0.9]", "[0.0, 1.0]"))
        said = complaint(capsys, "sweep", mine, "--data", "x", "--output", "y").splitlines()
        assert said[0] == f"{mine}: 2 mistakes"
        assert said[1].startswith("  settings.setps: unknown field; did you mean 'steps'?")
        assert said[2] == "  grid.dropout: dropout must be in [0, 1), not 1.0"


def test_figure_1_on_imagenet(toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The toy's classes stand for three of ImageNet, its domains for ImageNet and two shifted ones."""
    names = [imagenet_names()[index] for index in published("ImageNet-A").imagenet[:3]]
    for domain, name in (("ink", "imagenet"), ("oil", "a"), ("photo", "sketch")):
        for red, own in zip(sorted((toy / domain).iterdir()), names, strict=True):
            shutil.copytree(red, tmp_path / name / own)
    text = TOML.replace("dropout = [0.0, 0.9]\nlr = [1e-3, 1e-2]", "lr = [1e-3]")
    (tmp_path / "one.toml").write_text('afterwards = ["interpolation"]\n' + text)
    (tmp_path / "none.toml").write_text(text)
    command: list[str | Path] = [
        "sweep",
        tmp_path / "one.toml",
        "--data",
        tmp_path / "imagenet",
        "--output",
        tmp_path / "out",
        *RUN,
    ]
    sets = ["--test-on", f"imagenet-a={tmp_path / 'a'}", "--test-on", f"ImageNet-Sketch={tmp_path / 'sketch'}"]
    assert main([*map(str, command), *sets]) == 0
    (file,) = (tmp_path / "out").glob("runs/*/interpolation.json")
    found = json.loads(file.read_text())
    assert list(found["tested_on"]) == ["ImageNet-A", "ImageNet-Sketch"]
    both = [found["tested_on"][name]["weights"] for name in found["tested_on"]]
    assert found["weights"]["ood"] == pytest.approx([sum(pair) / 2 for pair in zip(*both, strict=True)])
    (report,) = (tmp_path / "out").glob("report-*")
    assert (report / "alpha.png").is_file()
    assert "averaged over ImageNet-A and ImageNet-Sketch (o.o.d.)" in (report / "report.md").read_text()
    capsys.readouterr()
    said = "--test-on takes NAME=DATA, such as ImageNet-A=path/to/imagenet-a, not ImageNet-A"
    assert one_line(capsys, *command, "--test-on", "ImageNet-A") == said
    assert "no published dataset 'ImageNet-B' is known" in complaint(capsys, *command, "--test-on", "ImageNet-B=x")
    command[1] = tmp_path / "none.toml"
    assert one_line(capsys, *command, *sets).startswith("--test-on is for presets with interpolations alone")
