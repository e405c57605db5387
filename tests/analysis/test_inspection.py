"""Runs inspected: what is measured on what, how runs are averaged, and what is printed and drawn."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from tests.helpers import TINY, Watch

import largedrop as ld
from largedrop.analysis.inspection import Inspection, find_runs, inspect_run, inspection_cost
from largedrop.analysis.inspection_compare import RateComparison, compare_inspections, inspection_json
from largedrop.data.views.batches import HostViews
from largedrop.errors import UserError
from largedrop.report.inspection import inspection_figure, interpolation_figure, render_comparison
from largedrop.runs.estimate import Estimate
from largedrop.runs.run import Run
from largedrop.training.evaluation import accuracy, logits
from largedrop.training.features import FeatureCache


@pytest.fixture(scope="module")
def made(toy: Path, weights: Path, tmp_path_factory: pytest.TempPathFactory, quick_heads: None) -> Path:
    """Two rates × two seeds on one test domain, from given weights, so that batch norm is frozen."""
    folder = tmp_path_factory.mktemp("inspected")
    settings = {**TINY, "recipe": "short", "weights": str(weights), "device": "cpu"}
    data = ld.open_dataset(toy, cache=folder / "cache")
    for dropout in (0.0, 0.5):
        for seed in (0, 1):
            ld.finetune(
                data, "photo", dropout=dropout, seed=seed, output=folder / "runs" / f"{dropout}-{seed}", **settings
            )
    return folder


@pytest.fixture
def runs(made: Path) -> list[Run]:
    found, problems = find_runs([made / "runs"])
    assert problems == []
    return found


@pytest.fixture(scope="module")
def inspections(made: Path, toy: Path) -> list[Inspection]:
    """Richness and linearity alone."""
    found, _ = find_runs([made / "runs"])
    data = ld.open_dataset(toy, cache=made / "cache")
    return [inspected(run, data, measures=("richness", "linearity"), draws=3) for run in found]


def inspected(run: Run, data: ld.Dataset, **settings: Any) -> Inspection:
    return inspect_run(run, data, FeatureCache(HostViews(data)), **settings)


def fake(inspection: Inspection, **settings: Any) -> Inspection:
    """The same numbers under another config."""
    run = replace(inspection.run, config=replace(inspection.run.config, **settings))
    return replace(inspection, run=run)


def test_what_is_measured_is_what_the_checkpoint_says(runs: list[Run], data: ld.Dataset) -> None:
    done: list[float] = []
    found = inspected(runs[0], data, draws=2, reporter=Watch(advance=done.append))
    network = ld.load_model(runs[0].best)
    split = data.split("photo", 0)
    for kind, indices in (("iid", split.iid), ("ood", split.ood)):
        wanted = accuracy(logits(network, HostViews(data), indices, "float32"), data.labels[indices])
        rich, linear = found.richness[kind], found.linearity[kind]
        assert rich.images == linear.images == len(indices)
        assert rich.accuracy == linear.accuracy == wanted
        assert rich.units == network.head.in_features
        assert 1 <= rich.effective_rank <= len(indices) - 1
        assert (linear.distance > 0) is runs[0].beats_start
    assert found.interpolation is not None
    assert found.interpolation.which == "final"
    assert found.numbers["ood.accuracy"] == found.richness["ood"].accuracy
    assert found.numbers["iid.head_0.1"] == found.richness["iid"].kept_random[3].mean
    assert sum(done) > 0
    assert inspection_cost(runs, data, ("richness",), 5) == 3 * 5 * 4


@pytest.mark.parametrize("head", ["warm", "random"])
def test_the_start_of_a_linearisation_is_the_start_of_the_run(
    head: str, weights: Path, data: ld.Dataset, tmp_path: Path
) -> None:
    """Where training moves nothing to speak of, the start is the end."""
    settings = {**TINY, "weights": str(weights), "lr": 1e-9, "steps": 2, "head": head}
    run = ld.finetune(data, "photo", dropout=0.5, output=tmp_path / "run", device="cpu", **settings)
    for linear in inspected(run, data, measures=("linearity",)).linearity.values():
        assert linear.start_accuracy == linear.accuracy == linear.linear_accuracy
        assert linear.agreement == 1


def test_samples_are_bounded_and_the_same_for_every_rate(runs: list[Run], data: ld.Dataset) -> None:
    few = [inspected(run, data, measures=("richness",), images=5, draws=2) for run in runs[:2]]
    assert [each.richness["ood"].images for each in few] == [5, 5]
    assert not few[0].linearity
    assert few[0].interpolation is None
    assert inspected(runs[0], data, measures=("richness",), images=5, draws=2) == few[0]


def test_runs_from_random_weights_have_no_linearity_and_say_so(data: ld.Dataset, tmp_path: Path) -> None:
    run = ld.finetune(data, "photo", dropout=0.0, output=tmp_path / "scratch", device="cpu", **{**TINY, "steps": 2})
    found = inspected(run, data, measures=("linearity",))
    assert found.linearity == {}
    assert found.notes == ("scratch: no linearity, since its running statistics moved with its weights",)


def test_rates_are_averaged_over_domains_within_seeds_then_over_seeds(inspections: list[Inspection]) -> None:
    (comparison,) = compare_inspections(inspections)
    assert [(rate.dropout, rate.seeds) for rate in comparison.rates] == [(0.0, (0, 1)), (0.5, (0, 1))]
    assert (comparison.domains, comparison.settings, comparison.title) == (("photo",), (), "")
    plain = comparison.rates[0]
    values = [each.numbers["ood.effective_rank"] for each in inspections if each.run.config.dropout == 0]
    assert plain.estimate("ood.effective_rank") == Estimate.of(values)
    assert plain.estimate("ood.interpolation_gap") is None
    curve = plain.curve(lambda each: each.richness["ood"].kept_smallest)
    curves = np.array([each.richness["ood"].kept_smallest for each in inspections if each.run.config.dropout == 0])
    np.testing.assert_allclose([each.mean for each in curve], curves.mean(0), atol=1e-12)
    np.testing.assert_allclose(
        np.array([each.error for each in curve], float), curves.std(0, ddof=1) / np.sqrt(2), atol=1e-12
    )


def test_a_seed_without_every_test_domain_is_left_out_and_named(inspections: list[Inspection]) -> None:
    zero, one = (each for each in inspections if each.run.config.dropout == 0)
    other = fake(one, test_domain="ink", seed=0)
    (comparison,) = compare_inspections([zero, one, other])
    (column,) = comparison.rates
    assert (column.seeds, column.missing) == ((0,), (("ink", 1),))
    both = [zero.numbers["ood.correlation"], other.numbers["ood.correlation"]]
    assert column.estimate("ood.correlation") == Estimate.of([float(np.mean(both))])
    with pytest.raises(UserError, match=r"dropout 0: no seed has a run on every test domain \(ink, photo\)"):
        compare_inspections([one, other])


def test_other_settings_are_other_comparisons(inspections: list[Inspection]) -> None:
    changed = [fake(each, lr=0.5) for each in inspections]
    first, second = compare_inspections([*inspections, *changed])
    assert (first.title, second.title) == ("lr 0.001", "lr 0.5")
    with pytest.raises(UserError, match="are runs of the same settings"):
        compare_inspections([inspections[0], inspections[0]])


def test_what_changes_no_weight_makes_no_other_comparison(inspections: list[Inspection]) -> None:
    mixed = [fake(each, wise_ft=each.run.config.dropout > 0, ema=0.99) for each in inspections]
    (comparison,) = compare_inspections(mixed)
    assert ([rate.dropout for rate in comparison.rates], comparison.title) == ([0.0, 0.5], "")
    (one,) = compare_inspections([*inspections, *mixed])
    assert one.runs == inspections


def test_no_dropout_is_compared_with_every_number_of_masks(inspections: list[Inspection]) -> None:
    large = [each for each in inspections if each.run.config.dropout]
    same = [fake(each, masks=16) for each in inspections]
    (one,) = compare_inspections(same)
    assert ([rate.dropout for rate in one.rates], one.title) == ([0.0, 0.5], "")
    both = compare_inspections([*inspections, *(fake(each, masks=16) for each in large)])
    assert [([rate.dropout for rate in each.rates], each.title) for each in both] == [
        ([0.0, 0.5], "masks 1"),
        ([0.0, 0.5], "masks 16"),
    ]


def test_an_objective_without_dropout_is_not_called_plain(inspections: list[Inspection]) -> None:
    (comparison,) = compare_inspections([fake(each, objective="vrex") for each in inspections])
    assert "images dropout 0 dropout 0.5" in [" ".join(line.split()) for line in printed(comparison).splitlines()]


def printed(comparison: RateComparison) -> str:
    console = Console(width=120, record=True, file=None, quiet=False)
    with console.capture() as capture:
        render_comparison(comparison, console)
    return capture.get()


def test_table_and_figures(inspections: list[Inspection]) -> None:
    (comparison,) = compare_inspections(inspections)
    said = printed(comparison)
    rows = [" ".join(line.split()) for line in said.splitlines()]
    assert "images plain dropout 0.5" in rows
    mean = comparison.rates[0].estimate("iid.effective_rank")
    assert mean is not None
    assert any(row.startswith(f"effective rank i.i.d. {mean.mean:.1f} ± {mean.error:.1f}") for row in rows)
    assert not any(row.startswith("interpolation") for row in rows)
    assert "Mean ± standard error over seeds (plain: n = 2; dropout 0.5: n = 2); test domain photo." in rows
    figure = inspection_figure(comparison, title="toy $0$")
    drawn = {str(line.get_gid()): line for axes in figure.axes for line in axes.get_lines()}
    shares = [1, 2, 5, 10, 20, 35, 50, 70, 85, 100]
    np.testing.assert_allclose(np.asarray(drawn["ood 0.5 random"].get_xdata()), shares)
    wanted = comparison.rates[1].curve(lambda each: [one.mean for one in each.richness["ood"].kept_random])
    np.testing.assert_allclose(np.asarray(drawn["ood 0.5 random"].get_ydata()), [100 * each.mean for each in wanted])
    spectrum = np.asarray(drawn["spectrum 0"].get_ydata())
    assert (np.diff(spectrum) <= 0).all()
    assert spectrum.sum() == pytest.approx(100, rel=1e-3)
    assert [text.get_text() for text in figure.legends[0].get_texts()][:2] == ["plain", "dropout 0.5"]


def test_interpolations_are_read_where_they_lie_and_drawn(runs: list[Run], data: ld.Dataset) -> None:
    found = [inspected(run, data, measures=("interpolation",)) for run in runs]
    path = runs[0].folder / "interpolation.json"
    before = path.stat().st_mtime_ns
    assert inspected(runs[0], data, measures=("interpolation",)) == found[0]
    assert path.stat().st_mtime_ns == before
    assert inspection_cost(runs, data, ("interpolation",), 5) == 0
    one = found[0].interpolation
    assert one is not None
    shorter = replace(one, alphas=one.alphas[:2], weights=one.weights[:2], representations=one.representations[:2])
    with pytest.raises(UserError, match="of plain have different α"):
        interpolation_figure(compare_inspections([replace(found[0], interpolation=shorter), *found[1:]])[0], title="")
    (comparison,) = compare_inspections(found)
    figure = interpolation_figure(comparison, title="")
    drawn = {str(line.get_gid()): line for line in figure.axes[0].get_lines()}
    both = [each.interpolation for each in found if each.run.config.dropout == 0.5]
    wanted = np.mean([[pair[1] for pair in one.weights] for one in both if one is not None], axis=0)
    np.testing.assert_allclose(np.asarray(drawn["dropout 0.5: weights"].get_ydata()), 100 * wanted)


def test_json_holds_all_of_it(inspections: list[Inspection]) -> None:
    comparisons = compare_inspections(inspections)
    content = json.loads(json.dumps(inspection_json(inspections, comparisons, checkpoint="best"), allow_nan=False))
    assert (content["format"], content["checkpoint"], len(content["runs"])) == (1, "best", 4)
    rate = content["comparisons"][0]["rates"][1]
    assert rate["dropout"] == 0.5
    assert rate["numbers"]["ood.accuracy"]["n"] == 2
    first = content["runs"][0]
    assert first["richness"]["ood"]["probes"].keys() == {"0.1", "0.5"}
    assert first["linearity"]["iid"]["distance"] == inspections[0].linearity["iid"].distance


def test_mistakes(runs: list[Run], data: ld.Dataset, tmp_path: Path) -> None:
    run = runs[0]
    with pytest.raises(UserError, match=r"unknown measure 'rich'; did you mean 'richness'\?"):
        inspected(run, data, measures=("rich",))
    with pytest.raises(UserError, match=r"unknown checkpoint 'bets'; did you mean 'best'\?"):
        inspected(run, data, checkpoint="bets")
    shutil.copytree(run.folder, tmp_path / "old")
    (tmp_path / "old" / "final.safetensors").unlink()
    with pytest.raises(UserError, match=r"old has no final\.safetensors"):
        inspected(Run.open(tmp_path / "old"), data, checkpoint="final")
    with pytest.raises(UserError, match="no folder"):
        find_runs([tmp_path / "nowhere"])
