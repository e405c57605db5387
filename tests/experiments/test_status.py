"""The status of sweeps, from what is in their folder, which may be damaged, another's or read-only."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.helpers import refusal

from largedrop.config import PROTOCOL, Config
from largedrop.errors import CollapseError, RunError
from largedrop.experiments import status
from largedrop.experiments.status import PlanStatus, status_of
from largedrop.experiments.stored_plan import StoredRun, store_plan
from largedrop.files import write_stored
from largedrop.lease import LAPSES, take
from largedrop.runs.failure import write_failure

ABOUT = {"preset": "mine", "title": "Mine", "scale": "full"}


def sweep(folder: Path, seconds: list[float], kinds: list[int] | None = None) -> list[Path]:
    """A plan of runs of 100 steps, and the folders of its runs, of which there is none."""
    kinds = kinds or [0] * len(seconds)
    runs = [
        StoredRun(f"r{number}", f"seed {number}", 100, kind, time)
        for number, (time, kind) in enumerate(zip(seconds, kinds, strict=True))
    ]
    store_plan(folder, "mine", ABOUT, runs)
    return [folder / "runs" / run.name for run in runs]


def result(folder: Path, seconds: Any = 10.0) -> None:
    write_stored(folder / "config.json", {})
    write_stored(folder / "result.json", {"methods": {"fine-tuning": {"seconds": seconds}}, "log": []})


def begun(folder: Path, step: int | None) -> None:
    write_stored(folder / "config.json", {})
    if step is not None:
        (folder / "log.json").write_text(json.dumps({"log": [{"step": 0}, {"step": step}]}))


def only(folder: Path) -> PlanStatus:
    (plan,) = status_of(folder).plans
    return plan


def test_a_sweep_in_the_middle(tmp_path: Path) -> None:
    done, half, idle, collapsed, failed, *_ = sweep(tmp_path, [5.0] * 7)
    result(done, 10.0)
    begun(half, 50)
    begun(idle, 25)
    lease = take(half)
    write_failure(collapsed, CollapseError("the loss is nan"))
    write_failure(failed, RunError("it is\ngiven up"), "Traceback\n  in f\nValueError: no\n\n")
    plan = only(tmp_path)
    lease.give_back(ended=True)
    assert (plan.runs, plan.finished, plan.begun, plan.new, len(plan.working)) == (7, 1, 1, 2, 1)
    assert (plan.working[0].run, plan.working[0].step, plan.working[0].steps) == ("r1", 50, 100)
    assert plan.working[0].who.startswith(f"process {os.getpid()} on ")
    # A finished one took 10 s where 5 were expected; half, three quarters and two whole runs are left.
    assert plan.seconds == plan.left == pytest.approx(2 * 5 * (0.5 + 0.75 + 2))
    assert plan.share == pytest.approx((1 + 0.5 + 0.25) / 5)
    assert plan.per_hour == 1
    assert [(each.run, each.kind, each.reason, each.last_line) for each in plan.failures] == [
        ("r3", "collapsed", "the loss is nan", ""),
        ("r4", "failed", "it is given up", "ValueError: no"),
    ]
    assert only(tmp_path).left is None


def test_measured_times_replace_those_of_their_own_kind_first(tmp_path: Path) -> None:
    short, long, *_ = sweep(tmp_path, [1.0, 10.0, 1.0, 10.0, 10.0], [0, 1, 0, 1, 2])
    assert only(tmp_path).seconds == 32.0
    result(short, 3.0)
    result(long, 20.0)
    assert only(tmp_path).seconds == pytest.approx(3.0 + 20.0 + 10.0 * 23 / 11)


def test_an_ended_sweep_and_one_that_nobody_has_begun(tmp_path: Path) -> None:
    folders = sweep(tmp_path, [1.0, 1.0])
    plan = only(tmp_path)
    assert (plan.new, plan.share, plan.seconds, plan.left) == (2, 0.0, 2.0, None)
    for folder in folders:
        result(folder)
    plan = only(tmp_path)
    assert (plan.finished, plan.share, plan.seconds, plan.left) == (2, 1.0, 0, None)


def test_damaged_runs_are_named_and_the_others_counted(tmp_path: Path) -> None:
    empty, folder, damaged, failed, odd, file, *rest = sweep(tmp_path, [1.0] * 20)
    for path in rest:
        result(path)
    for path in (empty, folder, damaged, failed, odd):
        path.mkdir(parents=True)
    (empty / "result.json").touch()
    (folder / "result.json").mkdir()
    (damaged / "config.json").write_text("{}")
    (damaged / "result.json").write_text("{")
    flipped, pipe, looping, without = rest[:4]
    content = (flipped / "result.json").read_text()
    (flipped / "result.json").write_text(content.replace("10.0", "10.5"))
    for path in (pipe, looping, without):
        (path / "config.json").unlink()
    os.mkfifo(pipe / "config.json")
    (looping / "config.json").symlink_to("config.json")
    (failed / "failure.json").write_text("[")
    begun(odd, None)
    (odd / "log.json").write_text('{"log": [{"step": "x"}]}')
    file.write_text("no folder")
    plan = only(tmp_path)
    assert {each.run: each.reason for each in plan.failures} == {
        "r0": "result.json is empty",
        "r1": "result.json is no file",
        "r2": "result.json is not JSON: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)",
        "r3": "failure.json cannot be read",
        "r5": "result.json cannot be read: Not a directory",
        "r6": "result.json was changed after it was written: its checksum is not that of its content",
        "r7": "config.json cannot be read: it is no regular file",
        "r8": "config.json cannot be read: Too many levels of symbolic links",
        "r9": "config.json cannot be read: No such file or directory",
    }
    assert (plan.finished, plan.begun, plan.new, plan.unread) == (10, 1, 0, 0)


def test_a_process_of_another_machine_that_is_silent_has_none(tmp_path: Path) -> None:
    (run,) = sweep(tmp_path, [1.0])
    begun(run, 10)
    lease = run / ".lease-1"
    lease.write_text(json.dumps({"host": "far", "system": "other 1", "process": 7, "started": "1"}))
    (working,) = only(tmp_path).working
    assert working.who == "process 7 on far"
    past = lease.stat().st_mtime - LAPSES - 5
    os.utime(lease, (past, past))
    plan = only(tmp_path)
    assert (plan.working, plan.begun) == ((), 1)


def test_nothing_is_written(tmp_path: Path) -> None:
    run, *_ = sweep(tmp_path, [1.0, 1.0])
    result(run)
    before = sorted(tmp_path.rglob("*"))
    for path in (run, run.parent, tmp_path):
        path.chmod(0o500)
    try:
        assert only(tmp_path).finished == 1
    finally:
        for path in (tmp_path, run.parent, run):
            path.chmod(0o700)
    assert sorted(tmp_path.rglob("*")) == before


def test_where_there_is_no_sweep(tmp_path: Path) -> None:
    assert refusal(status_of, tmp_path / "none") == f"no folder {tmp_path / 'none'}"
    (tmp_path / "file").touch()
    assert refusal(status_of, tmp_path / "file") == f"no folder {tmp_path / 'file'} (it is a file)"
    assert refusal(status_of, tmp_path).startswith(f"no sweep was begun in {tmp_path}: there is no plans/*.json")
    sweep(tmp_path, [1.0])
    said = refusal(status_of, tmp_path, "mime")
    assert said == f"no sweep of 'mime' was begun in {tmp_path}; did you mean 'mine'? (there are: mine)"
    assert len(status_of(tmp_path, "presets/mine.toml").plans) == 1


def test_a_damaged_plan_is_a_line_and_the_others_are_read(tmp_path: Path) -> None:
    sweep(tmp_path, [1.0])
    other = tmp_path / "plans" / "other.json"
    other.write_text("{")
    found = status_of(tmp_path)
    assert len(found.plans) == 1
    assert found.problems[0].startswith(f"{other} is not JSON")
    assert found.problems[0].endswith("; remove it: the next largedrop sweep of its preset writes it again")
    assert found.to_json()["plans"][0]["new"] == 1


def test_many_results_are_not_all_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in sweep(tmp_path, [1.0] * 120):
        result(path)
    read: list[Path] = []
    monkeypatch.setattr(status, "measured", lambda folder: read.append(folder))
    assert only(tmp_path).finished == 120
    assert len(read) == 50
    monkeypatch.setattr(status, "READ", 100)
    assert only(tmp_path).unread == 20


def test_files_of_another_run_and_a_link_to_nothing(tmp_path: Path) -> None:
    configs = [Config("toy", "f00d" * 16, "photo", seed=seed) for seed in range(4)]
    runs = [StoredRun(config.run_name, f"seed {config.seed}", 100, 0, 1.0) for config in configs]
    store_plan(tmp_path, "mine", ABOUT, runs)
    for config in configs:
        folder = tmp_path / "runs" / config.run_name
        write_stored(folder / "config.json", {"protocol": PROTOCOL, **config.to_json()})
        write_stored(folder / "result.json", {"run": config.digest(), "methods": {}, "log": []})
    assert only(tmp_path).finished == 4
    first, second, third, _ = (tmp_path / "runs" / run.name for run in runs)
    shutil.copy(second / "result.json", first)
    shutil.copy(first / "config.json", second)
    (third / "result.json").unlink()
    (third / "result.json").symlink_to("nothing")
    plan = only(tmp_path)
    assert (plan.finished, plan.new, plan.begun) == (1, 0, 0)
    assert {each.said: each.reason.partition(":")[0] for each in plan.failures} == {
        "seed 0": "result.json is of another run",
        "seed 1": "config.json",
        "seed 2": "result.json is a link to nothing",
    }
