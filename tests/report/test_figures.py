"""Which figures rows allow, and what is in them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from tests.helpers import record

from largedrop.report.figures import figures_of, runs_figure
from largedrop.runs.record import Record
from largedrop.selection.averages import average
from largedrop.selection.selection import select, summarise

ROWS = [("fine-tuning", 0.0), ("fine-tuning", 0.9), ("ensemble", 0.0), ("weight-average", 0.9), ("linear-probe", 0.5)]
NAMES = [
    "plain fine-tuning",
    "fine-tuning, dropout 0.9",
    "ensemble, dropout 0",
    "weight-average, dropout 0.9",
    "linear-probe, dropout 0.5",
]


def records(domains: tuple[str, ...] = ("photo", "sketch"), seeds: int = 2) -> list[Record]:
    rng = np.random.default_rng(0)
    return [
        record(domain, seed, 0.8 + 0.1 * rng.random(), 0.5 + 0.3 * rng.random(), method, dropout)
        for method, dropout in ROWS
        for domain in domains
        for seed in range(seeds)
    ]


def clouds(figure: Figure, panel: int) -> dict[str, PathCollection]:
    found = [entry for entry in figure.axes[panel].collections if isinstance(entry, PathCollection)]
    return {str(entry.get_gid()).removeprefix("cloud "): entry for entry in found}


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_a_comparison_has_a_panel_for_the_average_and_one_for_each_test_domain() -> None:
    rows = summarise(records())
    figure = runs_figure(rows, title="costs $5 & more")
    assert figure.get_suptitle() == "costs $5 & more"
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == ["average of 2 test domains", "photo", "sketch"]
    for panel, size in enumerate((4, 2, 2)):
        assert list(clouds(figure, panel)) == NAMES
        assert {np.shape(entry.get_offsets())[0] for entry in clouds(figure, panel).values()} == {size}
        assert len(figure.axes[panel].containers) == len(NAMES)
    assert legend(figure) == NAMES
    means = [container.lines[0].get_xydata() for container in figure.axes[0].containers]  # type: ignore[attr-defined]
    np.testing.assert_allclose(
        means, [[(100 * row.iid.mean, 100 * row.ood.mean)] for row in rows if row.iid and row.ood]
    )
    note = figure.legends[0].get_title().get_text()
    assert note == (
        "large: mean over seeds ± standard error  ·  small: every choice of one run a test domain, or single runs"
    )


def test_a_point_of_the_average_is_one_run_for_each_test_domain() -> None:
    runs = [record("a", 0, 0.8, 0.5), record("a", 1, 0.9, 0.7), record("b", 0, 0.6, 0.1), record("b", 1, 0.7, 0.3)]
    figure = runs_figure(summarise(runs), title="")
    expected = [[70, 30], [75, 40], [75, 40], [80, 50]]
    np.testing.assert_allclose(clouds(figure, 0)["plain fine-tuning"].get_offsets(), expected)  # type: ignore[arg-type]


def test_one_run_of_each_method() -> None:
    figure = runs_figure(summarise(records(("photo",), seeds=1)), title="")
    (axes,) = figure.axes
    assert axes.get_title(loc="left") == "photo"
    assert [container.lines[2] for container in axes.containers] == [()] * len(ROWS)  # type: ignore[attr-defined]
    assert figure.legends[0].get_title().get_text() == "large: mean  ·  small: single runs"


def test_an_incomplete_row_says_so_and_has_no_overall_mean_without_a_whole_seed() -> None:
    runs = [run for run in records(seeds=1) if (run.method, run.test_domain) != ("ensemble", "sketch")]
    figure = runs_figure(summarise(runs), title="")
    assert set(legend(figure)) == {*NAMES[:2], "ensemble, dropout 0 (incomplete)", *NAMES[3:]}
    assert [len(axes.containers) for axes in figure.axes] == [4, 5, 4]


def test_a_report_draws_clouds_of_settings_with_arrows_from_plain_fine_tuning() -> None:
    runs = [
        record(domain, seed, 0.9 - lr, 0.5 + dropout / 10 + lr, method, dropout, lr=lr)
        for domain in "ab"
        for seed in (0, 1)
        for lr in (0.1, 0.2)
        for method in ("fine-tuning", "ensemble")
        for dropout in (0.0, 0.5, 0.9)
    ]
    figures, undrawn = figures_of(select(average(runs)), [], "toys")
    assert (list(figures), undrawn) == (["clouds", "paths", "comparison"], [])
    names = ["plain fine-tuning", "ensemble", "dropout 0.9"]
    assert list(clouds(figures["clouds"], 0)) == names
    gids = [str(each.get_gid()) for each in figures["clouds"].axes[0].get_children()]
    assert [gid for gid in gids if gid.startswith("arrow")] == [f"arrow {names[0]} to {name}" for name in names[1:]]
    offsets = clouds(figures["clouds"], 0)["dropout 0.9"].get_offsets()
    np.testing.assert_allclose(offsets, [[80, 69], [75, 74], [75, 74], [70, 79]])  # type: ignore[arg-type]
    assert [axes.get_title(loc="left") for axes in figures["comparison"].axes] == [
        "average of 2 test domains",
        "a",
        "b",
    ]


def test_what_is_not_drawn_says_why() -> None:
    many = [record("a", 0, 0.9, 0.5, lr=lr, size=size) for lr in (0.1, 0.2) for size in range(9)]
    _, undrawn = figures_of(select(average(many)), [], "toys")
    assert undrawn == ["clouds: 9 panels are too many; report fewer settings at once", "paths: needs two dropout rates"]
    wide = [record(domain, 0, 0.9, 0.5, lr=lr) for domain in "abcdef" for lr in range(1, 13)]
    assert figures_of(select(average(wide)), [], "toys")[1][0] == "clouds: more than 2,000,000 combinations"


def test_plain_fine_tuning_is_beside_its_rivals_and_in_the_panel_of_every_number_of_masks() -> None:
    settings = ((0.0, 1, "erm"), (0.9, 1, "erm"), (0.9, 16, "erm"), (0.0, 1, "vrex"))
    runs = [
        record("a", seed, 0.9, 0.5 + dropout / 10, dropout=dropout, masks=masks, objective=objective)
        for dropout, masks, objective in settings
        for seed in (0, 1)
    ]
    runs += [replace(each, method="linear-probe") for each in runs]
    figures, _ = figures_of(select(average(runs)), [], "toys")
    found = {
        axes.get_title(loc="left"): list(clouds(figures["clouds"], n)) for n, axes in enumerate(figures["clouds"].axes)
    }
    plain = "plain fine-tuning"
    assert list(found.items()) == [
        ("masks 1", [plain, "dropout 0.9"]),
        ("masks 16", [plain, "dropout 0.9"]),
        ("objective vrex", [plain, "fine-tuning"]),
    ]
    assert [axes.get_title(loc="left") for axes in figures["paths"].axes] == ["masks 1", "masks 16"]
    names = [text.get_text() for text in figures["comparison"].axes[0].get_yticklabels()]
    tuned = [plain, "fine-tuning, objective vrex", "dropout 0.9, masks 1", "dropout 0.9, masks 16"]
    assert names == [*tuned, "linear-probe", "linear-probe, dropout 0.9"]
