"""Every preset that comes with largedrop, in its structure but tiny: planned, trained, completed and reported on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.helpers import Watch

import largedrop as ld
from largedrop.analysis.afterwards import afterwards, afterwards_cost
from largedrop.config import make_config
from largedrop.experiments.preset import Preset, Scale, preset_names, read_preset
from largedrop.experiments.sweep import plan_sweep, run_sweep
from largedrop.report.sweep import report_sweep

CPU = torch.device("cpu")
TINY: dict[str, Any] = {"weights": "random", "size": 32, "batch": 4, "steps": 2, "eval_every": 1}
MODELS = ("test_resnet", "test_efficientnet")

pytestmark = pytest.mark.usefixtures("quick_heads")


def shrunk(values: Mapping[str, Any]) -> dict[str, Any]:
    """A preset's fields, with those that cost time made small."""
    small = {**values, **{name: value for name, value in TINY.items() if name in values}}
    if values.get("steps", 0) > 120:
        small["steps"] = 4
    return small


def tiny(preset: Preset) -> Preset:
    """The preset's small scale on one test domain, with one seed and one weight decay, and all that is compared."""
    scale: Scale | None = preset.small
    assert scale is not None
    grid = dict(scale.grid)
    for name, count in (("seed", 1), ("weight_decay", 1)):
        if name in grid:
            grid[name] = grid[name][:count]
    if "model" in grid:
        grid["model"] = MODELS
    varied = {*grid, *(name for variant in scale.variants for name in variant)}
    # For equation 1 there must be several residual blocks of one resolution, for stochastic depth batch norm's kind.
    model = "test_convnext" if "linear" in scale.values("fit") else MODELS[0]
    fixed = {**shrunk(scale.settings), **TINY, "model": model}
    settings = {name: value for name, value in fixed.items() if name not in varied}
    variants = tuple(shrunk(variant) for variant in scale.variants)
    made = replace(scale, settings=settings, grid=grid, variants=variants, test_domains=("photo",))
    return replace(preset, small=made)


@pytest.mark.parametrize("name", preset_names())
def test_a_preset_from_its_plan_to_its_report(name: str, data: ld.Dataset, tmp_path: Path) -> None:
    preset = tiny(read_preset(name))
    scale = preset.scale("small")
    planned = plan_sweep(preset, "small", data, tmp_path, device=CPU)
    assert run_sweep(data, planned, device=CPU).broken == []
    again = plan_sweep(preset, "small", data, tmp_path, device=CPU)
    assert [entry.state for entry in again.entries] == ["finished"] * len(planned.entries)
    done: list[float] = []
    expected = afterwards_cost(scale.afterwards, planned.finished, data, tmp_path)
    refused = afterwards(
        scale.afterwards, planned.finished, data, tmp_path, device=CPU, reporter=Watch(advance=done.append)
    )
    assert refused == []
    assert sum(done) == pytest.approx(expected, rel=0.5)
    assert afterwards_cost(scale.afterwards, planned.finished, data, tmp_path) == 0
    written = {path.name for path in report_sweep(planned)}
    assert {"report.md", "table.csv", "table.tex", "report.json", "comparison.png"} <= written
    report = json.loads((planned.report / "report.json").read_text())
    assert report["runs"] == len(planned.entries)
    assert report["left_out"] == []
    assert report["not_computed"] == [] or "across" not in scale.afterwards
    rows = {(row["method"], row["dropout"]) for row in report["rows"]}
    assert not any(row["missing"] for row in report["rows"])
    for fit in scale.values("fit"):
        main = {"all": "fine-tuning", "linear": "linear-fine-tuning", "probe": "linear-probe"}[fit]
        assert {(main, rate) for rate in scale.values("dropout")} <= rows
    across = {"ensemble-across", "weight-average-across", "greedy-soup"}
    assert across & {method for method, _ in rows} == (across if "across" in scale.afterwards else set())
    assert bool(report["interpolations"]) == ("interpolation" in scale.afterwards)
    assert ("alpha.png" in written) == ("interpolation" in scale.afterwards)


def test_what_was_shrunk_is_still_the_preset() -> None:
    for name in preset_names():
        whole, small = read_preset(name).scale("small"), tiny(read_preset(name)).scale("small")
        for field in ("dropout", "head_lr_multiplier", "block_dropout", "fit", "lr"):
            assert whole.values(field) == small.values(field)
        for run in small.runs(["photo", "ink"]):
            assert make_config(small.recipe, data="", fingerprint="", **run).steps <= 4
