"""Full disks, quotas, disks that cannot be written, and users whom nobody knows: a line each, and nothing is lost."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from tests.experiments.presets import preset
from tests.helpers import FAST, TINY, assert_same_run, files, make_toy, one_line, refusal

import largedrop as ld
from largedrop.cli import main

pytestmark = [
    pytest.mark.usefixtures("quick_heads"),
    pytest.mark.skipif(os.name != "posix", reason="limits and mounts of POSIX systems"),
]

SHORT = {**TINY, "steps": 2, "eval_every": 1}
OPTIONS = [*FAST, "--steps", "2", "--eval-every", "1"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images in ``toy``, and in ``out`` what ``train`` makes of them."""
    folder = tmp_path_factory.mktemp("faults")
    make_toy(folder / "toy", images=5)
    command = ["train", str(folder / "toy"), "--test-domain", "photo", "--output", str(folder / "out"), *OPTIONS]
    assert main(command) == 0
    return folder


@pytest.fixture
def run(home: Path) -> Path:
    (found,) = (home / "out" / "runs").iterdir()
    return found


def mounted(*arguments: str) -> None:
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no mounts here: {done.stderr.strip()}")


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A disk of 0.4 MB."""
    folder = tmp_path / "small"
    folder.mkdir()
    if shutil.which("mount") is None or os.geteuid():
        pytest.skip("no mounts here")
    mounted("-t", "tmpfs", "-o", "size=400k", "tmpfs", str(folder))
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def finetuned(home: Path, output: Path) -> ld.Run:
    data = ld.open_dataset(home / "toy")
    return ld.finetune(data, "photo", output=output, recipe="short", device="cpu", dropout=0.9, **SHORT)


def test_a_limit_on_the_size_of_files(home: Path, run: Path, tmp_path: Path) -> None:
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        said = refusal(finetuned, home, tmp_path / "run")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert said.startswith(f"cannot write {tmp_path / 'run' / 'best.safetensors'}: ")
    assert "File too large" in said
    assert "\n" not in said
    assert_same_run(finetuned(home, tmp_path / "run").folder, run)


@pytest.mark.parametrize("number", [2, 7, 14])
def test_a_quota_that_is_used_up(
    home: Path, run: Path, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    syncs = iter(range(1, 1000))
    real, own = os.fsync, tmp_path / "run"

    def full(descriptor: int) -> None:
        """Fails at one of the run's own files; what is written to the cache, or not, does not count."""
        inode = os.fstat(descriptor).st_ino
        if inode in [path.stat().st_ino for path in own.rglob("*")] and next(syncs) == number:
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))
        real(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        said = refusal(finetuned, home, own)
    assert said.startswith(f"cannot write {own}/")
    assert said.endswith(f": {os.strerror(errno.EDQUOT)}")
    assert not [name for name in files(own) if name.endswith(".tmp")]
    assert_same_run(finetuned(home, own).folder, run)


def test_a_disk_that_is_full_until_it_is_larger(home: Path, run: Path, small: Path) -> None:
    assert "No space left on device" in refusal(finetuned, home, small / "run")
    mounted("-o", "remount,size=20m", str(small))
    assert_same_run(finetuned(home, small / "run").folder, run)


def test_every_output_on_a_full_disk_is_a_line(
    home: Path, run: Path, small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with (small / "filling").open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))
    full = "No space left on device"
    toy = home / "toy"
    for command in (
        ["predict", run, toy, "--output", small / "found.csv", "--device", "cpu"],
        ["evaluate", run, toy, "--output", small / "found", "--device", "cpu"],
        ["export", run, "--output", small / "model"],
        ["report", home / "out", "--output", small / "report"],
        ["train", toy, "--test-domain", "photo", "--output", small / "out", *OPTIONS],
    ):
        said = one_line(capsys, *map(str, command))
        assert said.startswith(f"cannot write {small}/"), said
        assert full in said, said
    said = refusal(ld.open_dataset, toy, cache=small / "cache")
    assert said.startswith("cannot write the image cache in ")
    assert f": {full}; set LARGEDROP_CACHE to a folder" in said
    assert not [path for path in small.rglob("*") if path.is_file() and path.name != "filling"]


@contextmanager
def unwritable(folder: Path, at: Path) -> Iterator[Path]:
    """``folder``, on a disk that cannot be written; root can write into any folder, so it is mounted so."""
    if os.geteuid():
        shutil.copytree(folder, at)
        for path in (at, *at.rglob("*")):
            path.chmod(0o555 if path.is_dir() else 0o444)
        try:
            yield at
        finally:
            for path in (at, *at.rglob("*")):
                path.chmod(0o755)
        return
    at.mkdir()
    mounted("--bind", str(folder), str(at))
    try:
        mounted("-o", "remount,ro,bind", str(at))
        yield at
    finally:
        subprocess.run(["umount", str(at)], check=True)


@pytest.fixture
def shown(home: Path, tmp_path: Path) -> Iterator[Path]:
    """``out``, where it cannot be written."""
    with unwritable(home / "out", tmp_path / "shown") as folder:
        yield folder


SWEEP = ["--device", "cpu"]


@pytest.fixture
def swept(home: Path, tmp_path: Path) -> Iterator[Path]:
    """A finished sweep, where it cannot be written."""
    mine = preset(home, domains='"photo"')
    command = ["sweep", str(mine), "--data", str(home / "toy"), "--output", str(home / "swept"), *SWEEP]
    assert main(command) == 0
    with unwritable(home / "swept", tmp_path / "swept") as folder:
        yield folder


def test_a_finished_run_on_a_disk_that_cannot_be_written(
    home: Path, shown: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    toy = str(home / "toy")
    before = files(shown)
    for command in (
        ["report", str(shown), "--output", str(tmp_path / "report")],
        ["predict", str(shown), toy, "--output", str(tmp_path / "found.csv"), "--device", "cpu"],
        ["evaluate", str(shown), toy, "--output", str(tmp_path / "found"), "--device", "cpu"],
        ["export", str(shown), "--output", str(tmp_path / "model")],
    ):
        assert main(command) == 0, command
    (run,) = (shown / "runs").iterdir()
    assert ld.Run.open(run).records
    assert finetuned(home, run).folder == run
    capsys.readouterr()
    for refused in (["report", shown], ["export", shown, "--output", shown / "model"]):
        said = one_line(capsys, *map(str, refused))
        assert said.startswith(f"cannot write {shown}/")
        assert said.endswith("; name another --output")
    assert files(shown) == before


@pytest.mark.parametrize("command", ["train", "compare"])
def test_finished_runs_on_a_disk_that_cannot_be_written_are_shown(
    command: str, home: Path, shown: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = files(shown)
    domain = "--test-domain" if command == "train" else "--test-domains"
    rates = ["--dropout", "0.9"]
    again = [command, str(home / "toy"), domain, "photo", "--output", str(shown), *rates, *OPTIONS]
    assert main(again) == 2
    told = capsys.readouterr()
    reason = os.strerror(errno.EACCES if os.geteuid() else errno.EROFS)
    assert told.err == f"largedrop: cannot write {shown / 'results.json'}: {reason}\n"
    assert "weight-average" in told.out
    assert ("the model to use:" in told.out) is (command == "train")
    assert files(shown) == before


def test_a_finished_sweep_on_a_disk_that_cannot_be_written(
    home: Path, swept: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = one_line(capsys, "sweep", home / "tiny.toml", *("--data", home / "toy"), "--output", swept, *SWEEP)
    reason = os.strerror(errno.EACCES if os.geteuid() else errno.EROFS)
    elsewhere = f"`largedrop report {swept / 'runs'} --output FOLDER` writes one elsewhere"
    assert said == f"cannot write {swept / 'report-tiny'}: {reason}; {elsewhere}"
    assert main(["sweep", "--status", "--output", str(swept)]) == 0


UNKNOWN = 54321


@pytest.mark.skipif(shutil.which("setpriv") is None or os.geteuid() != 0, reason="needs root to become another user")
def test_a_user_without_a_name_and_a_home(home: Path) -> None:
    """May read all that root may, as the interpreter can be in root's home, and write what anyone may."""
    with tempfile.TemporaryDirectory() as name:  # others may not look into pytest's
        folder = Path(name)
        folder.chmod(0o777)
        shutil.copytree(home, folder / "given")
        (folder / "given").chmod(0o755)
        told_and_done(folder, folder / "given")


def told_and_done(folder: Path, home: Path) -> None:
    become = ["setpriv", "--reuid", str(UNKNOWN), "--regid", str(UNKNOWN), "--clear-groups"]
    become += ["--inh-caps", "+dac_read_search", "--ambient-caps", "+dac_read_search"]
    (run,) = (home / "out" / "runs").iterdir()

    def command(*arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
        kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
        return subprocess.run(
            [*become, sys.executable, "-m", "largedrop", *map(str, arguments)],
            env={**kept, "PYTHONDONTWRITEBYTECODE": "1", "NUMBA_DISABLE_JIT": "1", **variables},  # else it compiles
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )

    told = command("--version")
    if told.returncode:
        pytest.skip(f"cannot become another user here: {told.stderr.strip()}")
    done = command(
        *("predict", run, home / "toy", "--output", "found.csv", "--device", "cpu"),
        LARGEDROP_CACHE=str(folder / "cache"),
    )
    assert done.returncode == 0, done.stderr
    assert (folder / "found.csv").stat().st_uid == UNKNOWN
    done = command("train", home / "toy", "--test-domain", "photo", *OPTIONS)
    *_, said = done.stderr.splitlines()  # matplotlib may say where it keeps its fonts
    assert (done.returncode, said) == (
        2,
        "largedrop: there is no home folder for the image cache; set LARGEDROP_CACHE to a folder",
    )
    assert "Traceback" not in done.stderr
    assert {path.name for path in folder.iterdir()} - {"cache"} == {"found.csv", "given"}  # and no "~"
