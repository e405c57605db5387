"""Results across trajectories and interpolations in a report, word for word, from stored files alone."""

from __future__ import annotations

import json
from pathlib import Path

from tests.helpers import PACS, config, golden, result, store

from largedrop.report.report import write_report
from largedrop.runs.across import Across, groups_of, methods_across
from largedrop.runs.interpolation import Interpolation
from largedrop.runs.read import read_runs
from largedrop.selection.averages import average
from largedrop.selection.selection import select

VALUE = {"ensemble-across": 0.85, "weight-average-across": 0.86, "greedy-soup": 0.855}


def whole(root: Path) -> Path:
    """Two rates × two learning rates × two test domains × two seeds, all of them there, and what is across them."""
    named = []
    for dropout in (0.0, 0.9):
        for lr in (5e-4, 1e-3):
            for place, domain in enumerate(("photo", "sketch")):
                for seed in (0, 1):
                    made = config(domain, seed, dropout, lr)
                    ood = round(0.80 + 0.05 * (dropout > 0) + 0.02 * (lr == 1e-3) - 0.01 * seed - 0.10 * place, 4)
                    folder = store(root / "runs", made, result(0.9, ood))
                    named.append((folder.name, made))
                    ends = tuple((0.9, ood - step) for step in (0.0, 0.02, 0.2))
                    if dropout == 0:
                        found = Interpolation("final", (0.0, 0.5, 1.0), ends, ((0.9, ood), (0.91, ood + 0.01), ends[2]))
                        (folder / "interpolation.json").write_text(json.dumps(found.to_json()))
    (root / "across").mkdir()
    for group in groups_of(named):
        for method in methods_across(group):
            ood = round(VALUE[method] + 0.05 * (group.dropout > 0) - 0.1 * (group.test_domain == "sketch"), 4)
            ood = round(ood - 0.01 * (group.seed or 0), 4)
            scores = tuple((0.9, 0.8) for _ in group.names)
            iid = None if group.seed is None else 0.95
            made_of = (group.test_domain, group.seed, group.dropout, dict(group.settings), group.names, scores)
            found_across = Across(method, *made_of, iid, ood, (), 20_000, 30.0)
            path = root / "across" / f"{group.stem(method)}.json"
            path.write_text(json.dumps(found_across.to_json()))
            assert Across.read(path) == found_across
    return root


def test_the_report_word_for_word(tmp_path: Path) -> None:
    folder = whole(tmp_path / "sweep")
    write_report(read_runs(folder), tmp_path / "out", dataset=PACS)
    for name, to in (("report.md", "across.md"), ("table.csv", "across.csv"), ("table.tex", "across.tex")):
        golden(to, (tmp_path / "out" / name).read_text("utf-8"))


def test_only_whole_groups_of_the_runs_that_are_read(tmp_path: Path) -> None:
    folder = whole(tmp_path / "sweep")
    runs = read_runs(folder)
    assert (len(runs.across), runs.not_across) == (2 * (4 * 3 + 2 * 2), ())
    plain = {run.name.partition("/")[2] for run in runs.runs if run.config.dropout == 0}
    fewer = read_runs(folder / "runs", only=plain)
    assert len(fewer.across) == 4 * 3 + 2 * 2
    assert {each.dropout for each in fewer.across} == {0.0}
    # With one more learning rate the stored results are of other groups.
    store(folder / "runs", config("photo", 0, 0.0, 2e-3), result(0.9, 0.8))
    more = read_runs(folder)
    assert {each.dropout for each in more.across} == {0.9}
    assert more.not_across == (
        "dropout 0: ensemble-across (1 of 1 groups), weight-average-across (1 of 1 groups), greedy-soup (1 of 1 "
        "groups); largedrop sweep computes them where its preset has afterwards = ['across']",
        "dropout 0, test domain photo, seed 1: no run with lr 0.002, seed 1",
        "dropout 0, test domain sketch, seed 0: no run with lr 0.002, seed 0",
        "dropout 0, test domain sketch, seed 1: no run with lr 0.002, seed 1",
        "dropout 0, test domain photo, every seed: no run with lr 0.002, seed 1",
        "dropout 0, test domain sketch, every seed: no run with lr 0.002, seed 0 and 1 more",
    )


def test_results_do_not_change_what_the_others_are_chosen_among(tmp_path: Path) -> None:
    runs = read_runs(whole(tmp_path / "sweep"))
    own = [record for run in runs.runs for record in run.records]
    alone = {row.setting: row for row in select(average(own))}
    together = {row.setting: row for row in select(average(runs.records))}
    assert set(alone) < set(together)
    for group, row in alone.items():
        same = together[group]
        assert (same.chosen, same.iid, same.ood, same.gain) == (row.chosen, row.iid, row.ood, row.gain)


def test_names_say_what_they_are_of(tmp_path: Path) -> None:
    made = [config("Real World", 0, 0.9, lr) for lr in (1e-3, 5e-4)]
    (group,) = groups_of((each.run_name, each) for each in made)
    assert group.stem("greedy-soup").startswith("greedy-soup-Real_World-d0.9-s0-")
    assert str(group) == "dropout 0.9, test domain Real World, seed 0"
    (turned,) = groups_of((each.run_name, each) for each in reversed(made))
    assert turned.stem("greedy-soup") == group.stem("greedy-soup")
    assert turned.names == group.names
