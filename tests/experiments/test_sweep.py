"""Sweeps: their plan, the runs that presets share, and runs that are finished, stopped, or another process's."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.experiments.presets import CPU, planned, preset, varied
from tests.helpers import TINY, Watch, make_toy, refusal

import largedrop as ld
from largedrop.config import Config
from largedrop.errors import CollapseError, Interrupted, UserError
from largedrop.experiments import packing
from largedrop.experiments import sweep as sweep_module
from largedrop.experiments.preset import read_preset
from largedrop.experiments.processes import ProcessFailedError
from largedrop.experiments.sweep import SweepPlan, begin_sweep, ended_sweep, plan_sweep, run_sweep
from largedrop.experiments.tasks import Task
from largedrop.files import write_stored
from largedrop.lease import take
from largedrop.report.report import write_report
from largedrop.report.sweep import report_sweep
from largedrop.runs.failure import write_failure
from largedrop.runs.folder import claim
from largedrop.runs.read import read_runs
from largedrop.training.loop import cost

pytestmark = pytest.mark.usefixtures("quick_heads")


def states(plan: SweepPlan) -> list[str]:
    return [entry.state for entry in plan.entries]


def test_the_plan_goes_seed_by_seed_and_writes_nothing(data: ld.Dataset, tmp_path: Path) -> None:
    plan = planned(data, tmp_path, grid="lr = [1e-3, 1e-2]\nseed = [0, 1]")
    assert varied(entry.config for entry in plan.entries) == [
        (seed, lr, domain, dropout)
        for seed in (0, 1)
        for lr in (1e-3, 1e-2)
        for domain in ("photo", "ink")
        for dropout in (0.0, 0.9)
    ]
    assert set(states(plan)) == {"new"}
    assert (plan.steps, plan.rough) == (16 * 2, True)
    for entry in plan.entries:
        assert entry.folder == tmp_path / "out" / "runs" / entry.config.run_name
        assert entry.cost == cost(entry.config, data.split(entry.config.test_domain, entry.config.seed))
        expected = {name: value for name, value in TINY.items() if name not in ("steps", "eval_every", "lr")}
        assert {name: getattr(entry.config, name) for name in expected} == expected
        assert entry.config.weights_digest == "random"
    assert plan.report == tmp_path / "out" / "report-tiny"
    assert not (tmp_path / "out").exists()


def test_the_longest_runs_come_first_and_others_keep_their_order(data: ld.Dataset, tmp_path: Path) -> None:
    path = preset(tmp_path, settings="eval_every = 1", grid="steps = [2, 20]\nseed = [0, 1]", rates="0, 0.9")
    plan = plan_sweep(read_preset(path), "full", data, tmp_path / "out", device=CPU, precision="float32")
    order = [entry.config for entry in plan.queue]
    assert [config.steps for config in order] == [20] * 8 + [2] * 8
    for steps in (2, 20):  # test domains differ a little in their images
        assert varied(each for each in order if each.steps == steps) == varied(
            entry.config for entry in plan.entries if entry.config.steps == steps
        )


def test_masks_at_dropout_0_are_no_run_of_their_own(data: ld.Dataset, tmp_path: Path) -> None:
    entries = planned(data, tmp_path, grid="masks = [1, 4]").entries
    assert len(entries) == len({entry.folder for entry in entries})
    assert sorted({(entry.config.dropout, entry.config.masks) for entry in entries}) == [(0.0, 1), (0.9, 1), (0.9, 4)]


def test_what_is_wrong_on_these_data_is_said_before_anything_is_trained(data: ld.Dataset, tmp_path: Path) -> None:
    path = preset(tmp_path)
    path.write_text(path.read_text().replace('"photo", "ink"', '"foto", "ink", "zzz"'))
    assert refusal(plan_sweep, read_preset(path), "full", data, tmp_path / "out", device=CPU) == (
        f"{path}: test_domains: no domain 'foto' in {data.name}; did you mean 'photo'? (there are: ink, oil, photo); "
        f"no domain 'zzz' in {data.name}; there are: ink, oil, photo"
    )
    path = preset(tmp_path)
    path.write_text(path.read_text().replace("test_efficientnet", "test_efficientnot"))
    misspelt = read_preset(path)
    with pytest.raises(UserError, match=r"unknown model 'test_efficientnot'; did you mean 'test_efficientnet'\?"):
        plan_sweep(misspelt, "full", data, tmp_path / "out", device=CPU)


def test_two_presets_share_their_runs_and_report_on_their_own(data: ld.Dataset, tmp_path: Path) -> None:
    two = planned(data, tmp_path, name="two")
    done: list[float] = []
    begun: list[Config] = []
    result = run_sweep(data, two, device=CPU, reporter=Watch(advance=done.append, begin=begun.append))
    assert begun == result.trained == [entry.config for entry in two.entries]
    assert (result.collapsed, result.broken) == ([], [])
    assert sum(done) >= two.work
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("runs/*/*")}

    again = planned(data, tmp_path, name="two")
    with pytest.raises(UserError, match="--jobs must be 1 or more, not 0"):
        run_sweep(data, again, device=CPU, jobs=0)
    assert (again.pending, again.steps, again.work, again.seconds) == ((), 0, 0, 0.0)
    assert run_sweep(data, again, device=CPU).trained == []
    four = planned(data, tmp_path, name="four", rates="0, 0.5, 0.9, 0.95")
    assert states(four) == ["finished", "new", "finished", "new"] * 2
    assert not four.rough
    assert four.seconds > 0
    more = run_sweep(data, four, device=CPU)
    assert varied(more.trained) == [(0, 1e-4, domain, rate) for domain in ("photo", "ink") for rate in (0.5, 0.95)]
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    assert sorted(path.name for path in (tmp_path / "out" / "runs").iterdir()) == sorted(
        entry.config.run_name for entry in four.entries
    )

    for plan, runs in ((two, 4), (four, 8)):
        written = report_sweep(plan)
        assert written[0] == plan.report / "report.md"
        assert json.loads((plan.report / "report.json").read_text())["runs"] == runs
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["plans", "report-four", "report-two", "runs", "sweep.json"]


def test_sizes_on_disk_are_about_right(data: ld.Dataset, tmp_path: Path) -> None:
    plan = planned(data, tmp_path, rates="0.5")
    run_sweep(data, plan, device=CPU)
    for entry in plan.entries:
        size = sum(path.stat().st_size for path in entry.folder.rglob("*.safetensors"))
        assert entry.size == pytest.approx(size, rel=0.1)
    assert plan.size == sum(entry.size for entry in plan.entries)


def test_without_any_finished_run_there_is_no_report(data: ld.Dataset, tmp_path: Path) -> None:
    assert report_sweep(planned(data, tmp_path)) == []


def test_a_sweep_that_is_stopped_goes_on(data: ld.Dataset, tmp_path: Path) -> None:
    asked = iter([False, False, True])
    with pytest.raises(Interrupted, match=r"^stopped after step 1 of 2$"):
        run_sweep(data, planned(data, tmp_path), device=CPU, reporter=Watch(stopped=lambda: next(asked)))
    plan = planned(data, tmp_path)
    assert states(plan) == ["finished", "begun", "new", "new"]
    assert len(run_sweep(data, plan, device=CPU).trained) == 3


def test_what_another_process_has_is_left_by_a_worker_and_waited_for_by_a_command(
    data: ld.Dataset, tmp_path: Path
) -> None:
    plan = planned(data, tmp_path)
    first, *others = plan.entries
    begin_sweep(data, plan)
    first.folder.mkdir(parents=True)
    lease = take(first.folder)
    claim(others[0].folder, "config.json", "run", others[0].config.to_json())
    write_failure(others[0].folder, CollapseError("it shrank"))
    notes: list[str] = []

    def note(text: str) -> None:
        notes.append(text)
        lease.give_back(ended=False)

    assert run_sweep(data, plan, device=CPU, wait=False).trained == [entry.config for entry in others[1:]]
    assert [str(error) for _, error in ended_sweep(plan).collapsed] == ["it shrank"]
    result = run_sweep(data, planned(data, tmp_path), device=CPU, reporter=Watch(note=note))
    assert [config.run_name for config in result.trained] == [entry.config.run_name for entry in (others[0], first)]
    assert len(notes) == 1
    assert ended_sweep(plan).trained == [entry.config for entry in plan.entries]
    assert not list(plan.folder.glob("runs/*/.lease-*"))


def test_runs_are_packed_kind_by_kind_and_those_of_others_come_last(
    data: ld.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With fake runs, of which one tells 4 GB and the others 1 GB; another process has the last of each kind."""
    monkeypatch.setattr(packing, "_free", lambda: 10_000_000_000)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    plan = planned(data, tmp_path, grid="masks = [1, 4]")
    few, many = ([entry for entry in plan.entries if entry.config.masks == number] for number in (1, 4))
    theirs = {few[-1].config, many[-1].config}
    calls: list[tuple[list[Config], int, bool]] = []

    def fake(
        tasks: list[Task], data: ld.Dataset, device: torch.device, jobs: int, *_: Any, wait: bool, **__: Any
    ) -> Any:
        calls.append(([config for config, _ in tasks], jobs, wait))
        if len(calls) == 2:
            raise ProcessFailedError("it died", tasks[0][0])
        for config, folder in tasks:
            if config not in theirs or wait:
                content = {"methods": {"fine-tuning": {"seconds": 1.0}}, "memory": {"host": 10**9 * config.masks}}
                write_stored(folder / "result.json", content)
                yield config, object()

    monkeypatch.setattr(sweep_module, "train_all", fake)
    result = run_sweep(data, plan, device=CPU, packed=True)
    assert len(few) == 4
    assert len(many) == 2
    assert [(len(each), jobs, wait) for each, jobs, wait in calls] == [
        *((1, 1, False), (3, 9, False), (3, 9, False)),  # the second time after a process has died
        *((1, 1, False), (1, 2, False), (2, 1, True)),
    ]
    assert calls[-1][0] == [entry.config for entry in plan.queue if entry.config in theirs]
    assert sorted(result.trained, key=Config.digest) == sorted(
        (entry.config for entry in plan.entries), key=Config.digest
    )


def test_the_folder_of_other_images(data: ld.Dataset, tmp_path: Path) -> None:
    run_sweep(data, planned(data, tmp_path), device=CPU)
    other = ld.open_dataset(make_toy(tmp_path / "other", images=5))
    with pytest.raises(UserError, match=r"out belongs to another sweep: data 'toy0' instead of 'other', fingerprint"):
        planned(other, tmp_path)


def test_leave_one_domain_out_selection_from_a_sweep(data: ld.Dataset, tmp_path: Path) -> None:
    path = preset(tmp_path, rates="0.5", grid="lr = [1e-4, 1e-3]")
    path.write_text("leave_out = true\n" + path.read_text())
    planned = plan_sweep(read_preset(path), "full", data, tmp_path / "out", device=CPU)
    assert len(planned.entries) == 2 * (2 + 2 * 2)  # two rates, two test domains, two domains to leave out of each
    assert run_sweep(data, planned, device=CPU).broken == []
    runs = read_runs(planned.folder)
    write_report(runs, tmp_path / "report", "leave-one-domain-out", ["json"])
    rows = json.loads((tmp_path / "report" / "report.json").read_text())["rows"]
    (row,) = [row for row in rows if row["method"] == "fine-tuning"]
    # For 'photo' by hand: the rate that did best on the other domains, trained without them and without 'photo'.
    scores = {
        lr: sum(
            run.records[0].ood_accuracy or 0
            for run in runs.runs
            if run.config.left_out == "photo" and run.config.lr == lr and run.records[0].method == "fine-tuning"
        )
        for lr in (1e-4, 1e-3)
    }
    best = max(scores, key=lambda lr: (scores[lr], -lr))
    assert row["domains"]["photo"]["chosen"] == f"fine-tuning, dropout 0.5, lr {best:g}"
    assert row["selection"] == "leave-one-domain-out"
