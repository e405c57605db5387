"""Runs side by side: the same bits as one after the other, whatever is stopped, killed or collapses meanwhile.

Each process takes seconds to import torch, so each test asks several things of the processes that it starts.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from tests.experiments.side_by_side import CPU, DIED, LONG, planned
from tests.helpers import Watch, assert_same_run, refusal

import largedrop as ld
from largedrop.cli import main
from largedrop.config import Config
from largedrop.errors import CollapseError, Interrupted
from largedrop.experiments import compare as compare_module
from largedrop.experiments import runner
from largedrop.experiments.compare import Comparison, Plan, compare
from largedrop.reporter import Reporter
from largedrop.runs.checkpoint import read_tensors, write_tensors
from largedrop.training.loop import cost, train
from largedrop.training.state import STATE_FILE

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")


def folder_of(root: Path, config: Config) -> Path:
    return root / "runs" / config.run_name


def step_of(folder: Path) -> int:
    """The step that a run that is not finished would go on from; 0 where it was not begun."""
    if not (folder / STATE_FILE).exists():
        return 0
    step: int = read_tensors(folder / STATE_FILE, "state")[1]["trajectory"]["step"]
    return step


def doom(config: Config, data: ld.Dataset, folder: Path) -> None:
    """Take a run's first step and leave a state on disk that is on the verge of collapse."""
    with pytest.raises(Interrupted):
        train(config, data, folder, reporter=Watch(stopped=lambda: True))
    state, header = read_tensors(folder / STATE_FILE, "state")
    watch = {"first": 1e9, "losses": [10.0] * 20, "sizes": [1.0] * 20}
    rest = {name: value for name, value in header.items() if name not in ("kind", "version")}
    write_tensors(folder / STATE_FILE, state, "state", {**rest, "watch": watch})


@pytest.fixture(scope="module")
def alone(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, Path, Comparison]:
    """Four runs, one after the other."""
    root = tmp_path_factory.mktemp("alone")
    data = ld.open_dataset(toy)
    made = planned(data, 0.0, 0.3, 0.6, 0.9)
    return made, root, compare(data, made, root, device=CPU)


def command(toy: Path, output: Path, jobs: int, dropouts: str) -> list[str]:
    options = [text for name, value in LONG.items() for text in (f"--{name.replace('_', '-')}", str(value))]
    arguments = ["compare", str(toy), "--test-domains", "photo", "--dropout", dropouts, *options, "--device", "cpu"]
    return [*arguments, "--jobs", str(jobs), "--output", str(output)]


def test_runs_side_by_side_have_the_bits_and_the_order_of_runs_one_by_one(
    toy: Path,
    data: ld.Dataset,
    alone: tuple[Plan, Path, Comparison],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """From the command line, with a run that is finished already and one that collapses."""
    made, before, expected = alone
    first, finished, doomed, last = made.configs
    shutil.copytree(folder_of(before, finished), folder_of(tmp_path, finished))
    doom(doomed, data, folder_of(tmp_path, doomed))
    (tmp_path / "comparison.json").write_bytes((before / "comparison.json").read_bytes())
    begun: list[Config] = []
    done: list[float] = []
    logged: list[Path] = []
    results: list[Comparison] = []

    def watched(*arguments: Any, reporter: Reporter, **options: Any) -> Comparison:
        def beginning(config: Config) -> None:
            begun.append(config)
            if len(begun) == 2:
                # As from a terminal, whose Ctrl-C reaches every process: they are still importing.
                for process in multiprocessing.active_children():
                    for number in (signal.SIGINT, signal.SIGTERM):
                        os.kill(process.pid or 0, number)

        watch = Watch(advance=done.append, begin=beginning, logged=logged.append, failed=reporter.failed)
        results.append(compare(*arguments, reporter=watch, **options))
        return results[0]

    monkeypatch.setattr(compare_module, "compare", watched)
    assert main(command(toy, tmp_path, 2, "0,0.3,0.6,0.9")) == 2
    assert multiprocessing.active_children() == []
    said = capsys.readouterr()
    assert said.err == "largedrop: 1 of 4 runs collapsed or are damaged: they are missing from the results\n"
    (result,) = results
    assert begun == [first, finished, doomed, last]
    # After each evaluation and at the end; once where it was finished.
    assert [logged.count(folder_of(tmp_path, each)) for each in begun] == [5, 1, 0, 5]
    assert [run.config for run in result.runs] == [first, finished, last]
    error = str(result.failed[0]["error"])
    assert error.startswith("the run collapsed at step 2: its representation has shrunk to ")
    assert result.failed == [{"dropout": 0.6, "test_domain": "photo", "seed": 0, "error": error}]
    assert "\nphoto, dropout 0.6, seed 0: the run collapsed at step 2: " in said.out
    for config in (first, finished, last):
        assert_same_run(folder_of(before, config), folder_of(tmp_path, config))
    assert [run.result["log"] for run in result.runs] == [
        run.result["log"] for run in expected.runs if run.config != doomed
    ]
    content = json.loads((tmp_path / "results.json").read_text())
    assert content["failed"] == result.failed
    assert [record["dropout"] for record in content["records"] if record["method"] == "ensemble"] == [0.0, 0.3, 0.9]
    whole = cost(first, data.split("photo", 0))
    assert 3 * whole + len(data) <= sum(done) <= 3 * whole + 2 * len(data) + whole / 10


def test_when_a_process_is_killed_the_others_save_and_the_same_call_finishes(
    data: ld.Dataset, alone: tuple[Plan, Path, Comparison], tmp_path: Path, quick_processes: None
) -> None:
    made, before, _ = alone
    folders = [folder_of(tmp_path, config) for config in made.configs]
    killed: list[dict[Path, int]] = []

    def saved() -> dict[Path, int]:
        """What has been saved, and when."""
        found = {}
        for path in (folder / name for folder in folders for name in (STATE_FILE, "result.json")):
            with suppress(FileNotFoundError):
                found[path] = path.stat().st_mtime_ns
        return found

    def kill(done: float) -> None:
        if not killed and sum((folder / STATE_FILE).exists() for folder in folders) == 2:  # both are at work
            killed.append(saved())
            os.kill(multiprocessing.active_children()[0].pid or 0, signal.SIGKILL)

    assert refusal(compare, data, made, tmp_path, device=CPU, jobs=2, reporter=Watch(advance=kill)) == DIED
    assert len(killed) == 1
    assert multiprocessing.active_children() == []
    assert saved().items() - killed[0].items()  # the other has saved or, just then, finished
    assert not all((folder / "result.json").exists() for folder in folders)
    asked = iter(range(1, 1000))
    with pytest.raises(Interrupted):
        compare(data, made, tmp_path, device=CPU, jobs=2, reporter=Watch(stopped=lambda: next(asked) > 20))
    assert multiprocessing.active_children() == []
    compare(data, made, tmp_path, device=CPU, jobs=2)
    for config in made.configs:
        assert_same_run(folder_of(before, config), folder_of(tmp_path, config))


SIDE = "import sys, torch, largedrop.cli; torch.set_num_threads(1); sys.exit(largedrop.cli.main())"


def children(process: int) -> list[int]:
    """The processes that ``process`` has started to train; the other is multiprocessing's tracker."""
    found = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return [int(child) for child in found if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux's /proc")
def test_a_command_with_jobs_is_killed_and_goes_on(
    toy: Path, data: ld.Dataset, alone: tuple[Plan, Path, Comparison], tmp_path: Path
) -> None:
    _, before, _ = alone
    output = tmp_path / "out"
    arguments = command(toy, output, 2, "0,0.9")
    folders = [folder_of(output, config) for config in planned(data, 0.0, 0.9).configs]

    with subprocess.Popen(
        [sys.executable, "-c", SIDE, *arguments], stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        deadline = time.monotonic() + 240
        while not any((folder / "outputs/000020.safetensors").exists() for folder in folders):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.005)
        workers = children(process.pid)
        process.kill()
        # communicate() waits until the workers, which have the same standard error, have ended too.
        said = process.communicate(timeout=120)[1]
    assert len(workers) == 2
    assert "Traceback" not in said
    assert not any(map(alive, workers))
    assert 20 < max(map(step_of, folders)) < 60  # saved where it was, later than at the evaluation
    assert main(command(toy, output, 1, "0,0.9")) == 0
    for folder in folders:
        assert_same_run(before / "runs" / folder.name, folder)


@pytest.mark.parametrize("jobs", [0, -1])
def test_fewer_than_one_job(data: ld.Dataset, tmp_path: Path, jobs: int) -> None:
    said = refusal(compare, data, planned(data, 0.0), tmp_path / "out", device=CPU, jobs=jobs)
    assert said == f"--jobs must be 1 or more, not {jobs}"
    assert not (tmp_path / "out").exists()


def test_no_process_is_started_for_a_single_run(
    data: ld.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "train_side_by_side", None)
    monkeypatch.setattr(runner, "train", lambda config, *arguments, **options: CollapseError("it did"))
    assert len(compare(data, planned(data, 0.0), tmp_path, device=CPU, jobs=8).failed) == 1
