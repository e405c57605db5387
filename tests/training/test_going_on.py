"""What happens to a run while it goes on changes no bit: stops, kills, images that change or go."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.helpers import FILES, KINDS, TINY, Watch, assert_same_run, files, make_toy, refusal, step_by_step, stopped_at

import largedrop as ld
from largedrop.config import Config
from largedrop.errors import Interrupted, UserError
from largedrop.runs.checkpoint import read_tensors
from largedrop.training import loop
from largedrop.training.loop import train
from largedrop.training.state import STATE_FILE

pytestmark = pytest.mark.usefixtures("quick_heads")


@pytest.mark.parametrize("changed", KINDS, indirect=True)
def test_a_process_for_every_step_ends_with_the_same_bits(data: ld.Dataset, changed: Config, tmp_path: Path) -> None:
    train(changed, data, tmp_path / "whole")
    states = step_by_step(changed, data, tmp_path / "steps")
    assert_same_run(tmp_path / "whole", tmp_path / "steps")
    assert not torch.equal(states[0]["network.head.weight"], states[-1]["network.head.weight"])


def test_a_run_stopped_once_has_no_result_until_it_goes_on(data: ld.Dataset, config: Config, tmp_path: Path) -> None:
    train(config, data, tmp_path / "whole")
    with pytest.raises(Interrupted):
        train(config, data, tmp_path / "cut", reporter=stopped_at(3))
    assert not (tmp_path / "cut" / "result.json").exists()
    train(config, data, tmp_path / "cut", reporter=stopped_at(0))
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


def test_a_crash_goes_on_from_the_last_saved_step(
    data: ld.Dataset, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "SAVE_EVERY", -1.0)  # at every step
    train(config, data, tmp_path / "whole")
    third = iter([False, False])
    with pytest.raises(StopIteration):
        train(config, data, tmp_path / "cut", reporter=Watch(stopped=lambda: next(third)))
    assert read_tensors(tmp_path / "cut" / STATE_FILE, "state")[1]["trajectory"]["step"] == 2
    asked = iter(range(100))
    train(config, data, tmp_path / "cut", reporter=Watch(stopped=lambda: next(asked) < 0))
    assert next(asked) == 4
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


def test_a_run_is_killed_while_the_head_is_evaluated(data: ld.Dataset, config: Config, tmp_path: Path) -> None:
    train(config, data, tmp_path / "whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "_log", None)
        with pytest.raises(TypeError, match="not callable"):
            train(config, data, tmp_path / "cut")
    train(config, data, tmp_path / "cut")
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


KILL = """
import functools, json, os, random, signal, sys, time
from pathlib import Path

import torch

import largedrop as ld
import largedrop.api
import largedrop.data.views.kernels  # here, not in each child
from largedrop.training import head, setup

torch.set_num_threads(1)
setup.fit_head = functools.partial(head.fit_head, round_steps=5)
source, root, settings = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
data = ld.open_dataset(source)

def begin(folder):
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        ld.finetune(data, "photo", output=folder, device="cpu", **settings)
        code = 0
    finally:
        os._exit(code)

def finish(folder):
    assert os.waitstatus_to_exitcode(os.waitpid(begin(folder), 0)[1]) == 0

def kill_once(folder, due):
    child = begin(folder)
    while not due():
        if os.waitpid(child, os.WNOHANG)[0]:
            return False
    os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL

def after(seconds):
    until = time.monotonic() + seconds
    return lambda: time.monotonic() > until

def writing(folder):
    return lambda: any(folder.glob("**/.*.tmp")) and random.random() < 0.3

random.seed(int(sys.argv[4]))
finish(root / "whole")
killed = {
    "evaluated": [kill_once(root / "evaluated", (root / "evaluated/outputs/000004.safetensors").exists)],
    "writing": [kill_once(root / "writing", writing(root / "writing")) for _ in range(5)],
    "delays": [kill_once(root / "delays", after(random.uniform(0, most))) for most in (0.02, 0.1, 0.2, 0.3, 0.3)],
}
for name in killed:
    finish(root / name)
print(json.dumps(killed))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork and SIGKILL")
def test_a_run_killed_at_any_moment_ends_with_the_same_bits(data: ld.Dataset, toy: Path, tmp_path: Path) -> None:
    settings = {**TINY, "recipe": "short", "precision": "float32", "eval_every": 2, "steps": 6}
    command = [sys.executable, "-c", KILL, str(toy), str(tmp_path), json.dumps(settings), "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    killed = json.loads(done.stdout)
    assert killed["evaluated"] == [True]
    assert True in killed["writing"]
    assert True in killed["delays"]
    assert files(tmp_path / "whole") == FILES
    for name in killed:
        assert_same_run(tmp_path / "whole", tmp_path / name)


def test_an_image_that_goes_in_the_middle_ends_the_run_and_loses_no_step(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no room in the cache, so that each image is read from its file whenever it is used."""
    monkeypatch.setenv("LARGEDROP_CACHE_GB", "1e-6")
    toy = make_toy(tmp_path / "toy", images=5)
    data = ld.open_dataset(toy, cache=tmp_path / "cache")
    config = replace(config, data=data.name, fingerprint=data.fingerprint)
    whole = train(config, data, tmp_path / "whole")
    steps = iter(range(1, 100))

    def damage() -> bool:
        if next(steps) == 3:
            for path in toy.glob("ink/*/*.png"):
                path.rename(path.with_suffix(".gone"))
        return False

    said = refusal(train, config, data, tmp_path / "cut", reporter=Watch(stopped=damage))
    assert re.fullmatch(r"\S+/ink/\w+/\d.png has changed since the data were opened", said)
    assert read_tensors(tmp_path / "cut" / STATE_FILE, "state")[1]["trajectory"]["step"] == 3
    for path in toy.glob("ink/*/*.gone"):
        path.rename(path.with_suffix(".png"))
    train(config, ld.open_dataset(toy, cache=tmp_path / "cache"), tmp_path / "cut")
    assert_same_run(whole.folder, tmp_path / "cut")


@pytest.mark.parametrize("how", ["overwritten", "truncated", "deleted", "cache deleted"])
@pytest.mark.skipif(sys.platform == "win32", reason="an open file cannot be removed")
def test_images_that_change_while_a_run_goes_on_change_no_bit(
    data: ld.Dataset, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    train(config, data, tmp_path / "whole")
    monkeypatch.setenv("LARGEDROP_CACHE", str(tmp_path / "cache"))
    mine = ld.open_dataset(make_toy(tmp_path / data.name))
    assert mine.fingerprint == data.fingerprint
    images = sorted((tmp_path / data.name).glob("*/*/*.png"))
    asked: list[bool] = []

    def spoil() -> bool:
        asked.append(True)
        if len(asked) == 3:
            if how == "cache deleted":
                shutil.rmtree(tmp_path / "cache")
            for number, path in enumerate(images):
                if how == "overwritten":
                    shutil.copyfile(images[number - 7], path)
                elif how == "truncated":
                    path.write_bytes(path.read_bytes()[:100])
                elif how == "deleted":
                    path.unlink()
        return False

    train(config, mine, tmp_path / "spoiled", reporter=Watch(stopped=spoil))
    assert len(asked) == 6
    assert_same_run(tmp_path / "whole", tmp_path / "spoiled")
    if how in ("overwritten", "truncated", "deleted"):  # and whoever opens them now is told, or has another dataset
        try:
            assert ld.open_dataset(tmp_path / data.name).fingerprint != data.fingerprint
        except UserError:
            assert how != "overwritten"


def test_a_start_that_is_another_checkpoint_is_noticed(data: ld.Dataset, config: Config, tmp_path: Path) -> None:
    changed = replace(config, hand_over="average")
    train(changed, data, tmp_path / "whole")
    with pytest.raises(Interrupted):
        train(changed, data, tmp_path / "cut", reporter=stopped_at(3))
    shutil.copy(tmp_path / "whole" / "final.safetensors", tmp_path / "cut" / "start.safetensors")
    notes: list[str] = []
    train(changed, data, tmp_path / "cut", reporter=Watch(note=notes.append))
    start = tmp_path / "cut" / "start.safetensors"
    assert notes == [f"{start} is the checkpoint 'final' of its run, not 'start'; this run is begun again"]
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


def test_a_state_that_is_gone_or_a_folder(data: ld.Dataset, config: Config, tmp_path: Path) -> None:
    train(config, data, tmp_path / "whole")
    cut = tmp_path / "cut"
    with pytest.raises(Interrupted):
        train(config, data, cut, reporter=stopped_at(3))
    state = cut / STATE_FILE
    state.unlink()
    state.mkdir()
    assert refusal(train, config, data, cut) == f"{state} is a folder, and a run's state is a file; remove it"
    state.rmdir()
    notes: list[str] = []
    train(config, data, cut, reporter=Watch(note=notes.append))
    assert notes == [f"{state} is gone; this run is begun again"]
    assert_same_run(tmp_path / "whole", cut)


@pytest.mark.parametrize("steps", [0, 3])
def test_a_state_and_a_log_that_are_gone(steps: int, data: ld.Dataset, config: Config, tmp_path: Path) -> None:
    cut = tmp_path / "cut"
    with pytest.raises(Interrupted):
        train(config, data, cut, reporter=stopped_at(1 + steps))
    for name in (STATE_FILE, "log.json"):
        (cut / name).unlink(missing_ok=True)
    notes: list[str] = []
    train(config, data, cut, reporter=Watch(note=notes.append))
    assert notes == ([f"{cut / STATE_FILE} is gone; this run is begun again"] if steps else [])


def test_the_table_of_the_split_is_written_again(data: ld.Dataset, config: Config, tmp_path: Path) -> None:
    table = train(config, data, tmp_path / "whole").split
    with pytest.raises(Interrupted):
        train(config, data, tmp_path / "cut", reporter=stopped_at(3))
    mine = tmp_path / "cut" / table.name
    mine.write_text(table.read_text().replace("train", "test"))
    train(config, data, tmp_path / "cut")
    assert_same_run(tmp_path / "whole", tmp_path / "cut")
