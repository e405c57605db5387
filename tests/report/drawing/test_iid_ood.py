"""The figure: what is drawn where, in which marker, and that nothing outside of it is touched."""

from __future__ import annotations

import io
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from PIL import Image

from largedrop.errors import UserError
from largedrop.report.drawing.iid_ood import cloud, iid_ood_figure
from largedrop.report.drawing.style import rendered, save_figure
from largedrop.runs.record import Record

ROWS = [("fine-tuning", 0.0), ("fine-tuning", 0.9), ("ensemble", 0.0), ("weight-average", 0.9), ("linear-probe", 0.5)]


def records(domains: tuple[str, ...] = ("photo", "sketch"), seeds: int = 2) -> list[Record]:
    rng = np.random.default_rng(0)
    return [
        Record(method, dropout, domain, seed, 0.8 + 0.1 * rng.random(), 0.5 + 0.3 * rng.random(), 150, 41.5)
        for method, dropout in ROWS
        for domain in domains
        for seed in range(seeds)
    ]


def clouds(figure: Figure, panel: int) -> dict[str, PathCollection]:
    found = [entry for entry in figure.axes[panel].collections if isinstance(entry, PathCollection)]
    return {str(entry.get_gid()): entry for entry in found}


def test_cloud_is_every_choice_of_one_run_a_domain() -> None:
    runs = [
        Record("fine-tuning", 0.0, "a", 0, 0.8, 0.5, 1, 1.0),
        Record("fine-tuning", 0.0, "a", 1, 0.9, 0.7, 1, 1.0),
        Record("fine-tuning", 0.0, "b", 0, 0.6, 0.1, 1, 1.0),
        Record("fine-tuning", 0.0, "b", 1, 0.7, 0.3, 1, 1.0),
    ]
    np.testing.assert_allclose(cloud(runs, ["a", "b"]), [[0.7, 0.3], [0.75, 0.4], [0.75, 0.4], [0.8, 0.5]])
    np.testing.assert_allclose(cloud(runs, ["b"]), [[0.6, 0.1], [0.7, 0.3]])
    assert cloud(runs, ["a", "c"]).shape == (0, 2)


def test_cloud_of_the_papers_six_settings_on_four_domains_has_1296_points() -> None:
    runs = [run for run in records(("a", "b", "c", "d"), 6) if run.method == "ensemble"]
    assert cloud(runs, ["a", "b", "c", "d"]).shape == (1296, 2)


def test_larger_cloud_is_drawn_from_and_always_the_same() -> None:
    runs = [run for run in records(("a", "b", "c", "d"), 7) if run.method == "ensemble"]
    points = cloud(runs, ["a", "b", "c", "d"])
    assert points.shape == (1296, 2)
    np.testing.assert_array_equal(points, cloud(runs, ["a", "b", "c", "d"]))
    # The mean of the draws is near to the mean of all choices, which is the mean of the runs.
    np.testing.assert_allclose(points.mean(0)[1], np.mean([run.ood_accuracy for run in runs]), atol=0.01)


def test_panels_clouds_and_labels() -> None:
    figure = iid_ood_figure(records(), title="costs $5 & more")
    assert figure.get_suptitle() == "costs $5 & more"
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == ["average of 2 test domains", "photo", "sketch"]
    assert [axes.get_xlabel() for axes in figure.axes] == ["i.i.d. accuracy (%)"] * 3
    assert [axes.get_ylabel() for axes in figure.axes] == ["o.o.d. accuracy (%)", "", ""]
    names = [
        "plain fine-tuning",
        "fine-tuning, dropout 0.9",
        "ensemble, dropout 0",
        "weight-average, dropout 0.9",
        "linear-probe, dropout 0.5",
    ]
    for panel, size in enumerate((4, 2, 2)):
        assert list(clouds(figure, panel)) == [f"cloud {name}" for name in names]
        assert {np.shape(entry.get_offsets())[0] for entry in clouds(figure, panel).values()} == {size}
        assert len(figure.axes[panel].containers) == len(names)
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == names
    assert [handle.get_marker() for handle in legend.legend_handles] == ["o", "D", "^", "*", "s"]  # type: ignore[union-attr]


def test_mean_and_bars_are_the_summarys() -> None:
    runs = [
        Record("fine-tuning", 0.0, "photo", 0, 0.88, 0.60, 1, 1.0),
        Record("fine-tuning", 0.0, "photo", 1, 0.90, 0.64, 1, 1.0),
    ]
    figure = iid_ood_figure(runs, title="")
    (axes,) = figure.axes
    assert axes.get_title(loc="left") == "photo"
    container: Any = axes.containers[0]
    line, _, bars = container.lines
    np.testing.assert_allclose(line.get_xydata(), [[89.0, 62.0]])
    np.testing.assert_allclose(bars[0].get_segments(), [[[88.0, 62.0], [90.0, 62.0]]])
    np.testing.assert_allclose(bars[1].get_segments(), [[[89.0, 60.0], [89.0, 64.0]]])


def test_one_seed_has_no_bars() -> None:
    figure = iid_ood_figure(records(seeds=1), title="")
    for axes in figure.axes:
        containers: list[Any] = axes.containers
        assert [container.lines[2] for container in containers] == [()] * len(ROWS)
    assert figure.legends[0].get_title().get_text().startswith("large: mean  ·  small: ")


def test_rates_of_one_method_differ_in_shade() -> None:
    runs = [Record("fine-tuning", dropout, "a", 0, 0.9, 0.7, 1, 1.0) for dropout in (0.5, 0.9)]
    half, most = (
        handle.get_markerfacecolor()  # type: ignore[union-attr]
        for handle in iid_ood_figure(runs, title="").legends[0].legend_handles
    )
    assert sum(mpl.colors.to_rgb(half)) > sum(mpl.colors.to_rgb(most)) + 0.3


def test_incomplete_row_says_so_and_has_no_overall_mean_without_a_whole_seed() -> None:
    runs = [run for run in records(seeds=1) if (run.method, run.test_domain) != ("ensemble", "sketch")]
    figure = iid_ood_figure(runs, title="")
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels[2] == "ensemble, dropout 0 (incomplete)"
    assert [len(axes.containers) for axes in figure.axes] == [4, 5, 4]
    assert np.shape(clouds(figure, 0)["cloud ensemble, dropout 0"].get_offsets()) == (0, 2)


def test_no_records_no_figure() -> None:
    with pytest.raises(UserError, match=r"^there is nothing to draw: no run gave a record$"):
        iid_ood_figure([], title="")


def test_files_decode_and_are_the_same_each_time(tmp_path: Path) -> None:
    png, svg = save_figure(iid_ood_figure(records(), title="t"), tmp_path / "one" / "figure-0.9")
    assert (png.name, svg.name) == ("figure-0.9.png", "figure-0.9.svg")
    again = save_figure(iid_ood_figure(records(), title="t"), tmp_path / "figure.png")
    assert [path.name for path in again] == ["figure.png", "figure.svg"]
    assert png.read_bytes() == again[0].read_bytes()
    assert svg.read_bytes() == again[1].read_bytes()
    image = Image.open(io.BytesIO(png.read_bytes()))
    image.load()
    assert image.size == (1500, 705)
    text = svg.read_text("utf-8")
    assert "<dc:date>" not in text
    assert "cloud plain fine-tuning" in text


def test_nothing_global_is_touched(tmp_path: Path) -> None:
    before = dict(mpl.rcParams)
    with ThreadPoolExecutor(4) as pool:
        pngs = list(pool.map(lambda _: rendered(iid_ood_figure(records(), title="t"), "png"), range(4)))
    save_figure(iid_ood_figure(records(), title="t"), tmp_path / "figure")
    assert dict(mpl.rcParams) == before
    assert len(set(pngs)) == 1
    if "matplotlib.pyplot" in sys.modules:  # other tests may have imported it; no figure of ours is registered there
        assert sys.modules["matplotlib.pyplot"].get_fignums() == []
