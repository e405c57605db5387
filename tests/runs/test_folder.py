"""Whose a folder is: one run's, one comparison's or one sweep's, and one process's at a time."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.helpers import Watch, unanswering

from largedrop.config import PROTOCOL, Config
from largedrop.data.dataset import Dataset
from largedrop.errors import BusyError, CollapseError, UserError
from largedrop.files import read_json, replacing, write_json
from largedrop.reporter import SILENT
from largedrop.runs.checkpoint import write_tensors
from largedrop.runs.failure import write_failure
from largedrop.runs.folder import claim, claimed, named_before, owned

ME = f"process {os.getpid()} on {socket.gethostname()}"


KINDS_OF_LEASE = [
    pytest.param(Path.mkdir, "Is a directory", id="folder"),
    pytest.param(getattr(os, "mkfifo", None), "it is no regular file", id="pipe"),
]


def refusal(folder: Path, config: Config) -> str:
    with pytest.raises(UserError) as caught, claimed(folder, config, SILENT):
        raise AssertionError
    return str(caught.value)


def test_a_folder_is_claimed_once_and_for_one_config(config: Config, tmp_path: Path) -> None:
    folder = tmp_path / "a" / "run"
    for _ in range(2):
        with claimed(folder, config, SILENT):
            assert refusal(folder, config) == f"another process is using {folder} ({ME})"
        assert read_json(folder / "config.json") == {"protocol": PROTOCOL, **config.to_json()}


def test_a_folder_in_which_another_process_writes_at_this_moment_is_no_other_ones(
    config: Config, tmp_path: Path
) -> None:
    """It is looked into before the owner's file is looked for, which is written first."""
    for name in (".lease-1", ".config.json.x.tmp", ".lock"):
        (tmp_path / name).touch()
    assert not owned(tmp_path, "config.json", "run", config.to_json())
    claim(tmp_path, "config.json", "run", config.to_json())
    (tmp_path / "log.json").touch()
    assert owned(tmp_path, "config.json", "run", config.to_json())


def test_a_reporter_learns_that_the_folder_was_taken(config: Config, tmp_path: Path) -> None:
    done: list[float] = []
    with claimed(tmp_path, config, Watch(advance=done.append)) as reporter:
        reporter.advance(1.0)
        assert not reporter.stopped()
        (tmp_path / ".lease-1").unlink()
        vars(reporter)["_lease"].renew()
        for call in (lambda: reporter.advance(2.0), reporter.stopped):
            with pytest.raises(
                BusyError, match=r"^another process has taken .*, which this one left alone for too long$"
            ):
                call()
    assert done == [1.0]


@pytest.mark.parametrize("error", [UserError("cannot write log.json"), OSError(116, "Stale file handle")])
def test_what_fails_since_the_folder_was_taken_says_so(config: Config, tmp_path: Path, error: Exception) -> None:
    """As of a file that is gone because the process that took the folder has removed it."""

    def fail(lost: bool) -> None:
        with claimed(tmp_path, config, SILENT):
            if lost:
                (tmp_path / ".lease-2").unlink()
            raise error

    with pytest.raises(type(error)):
        fail(lost=False)
    with pytest.raises(BusyError, match=r"^another process has taken "):
        fail(lost=True)


def test_a_file_system_that_does_not_answer_is_said_and_leaves_the_folder_free(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one that is mounted ``soft``: also where not even the lease can be given back."""

    def fail() -> None:
        with claimed(tmp_path, config, SILENT):
            unanswering(monkeypatch, "open", "lstat", "unlink", "truncate", "utime")
            (tmp_path / "log.json").unlink()

    with pytest.raises(UserError, match=r"log\.json: Input/output error; the file system failed or did not answer"):
        fail()
    monkeypatch.undo()
    with claimed(tmp_path, config, SILENT):
        pass


def test_what_was_written_before_the_folder_was_taken_is_not_put_there_after(config: Config, tmp_path: Path) -> None:
    """As where the file server was away in the middle of writing, and whoever took the folder has finished."""

    def write() -> None:
        with claimed(tmp_path, config, SILENT) as reporter, replacing(tmp_path / "log.json") as temporary:
            temporary.write_text("old")
            (tmp_path / ".lease-1").unlink()
            (tmp_path / "log.json").write_text("new")
            vars(reporter)["_lease"].renew()

    with pytest.raises(BusyError, match=r"^another process has taken "):
        write()
    assert (tmp_path / "log.json").read_text() == "new"
    assert not list(tmp_path.glob("*.tmp"))
    write_json(tmp_path / "log.json", {})  # the lease is given back


def test_what_a_failure_left_is_removed_with_what_kills_left(config: Config, tmp_path: Path) -> None:
    with claimed(tmp_path, config, SILENT):
        pass
    write_failure(tmp_path, CollapseError("it collapsed"))
    (tmp_path / ".log.json.x.tmp").touch()
    with claimed(tmp_path, config, SILENT):
        assert sorted(path.name for path in tmp_path.iterdir()) == [".lease-2", "config.json"]


@pytest.mark.parametrize(
    ("changes", "listed"),
    [
        ({"seed": 1}, "seed 0 instead of 1"),
        (
            {"test_domain": "ink", "dropout": 0.5, "lr": 0.1},
            "test_domain 'photo' instead of 'ink', dropout 0.9 instead of 0.5, lr 0.001 instead of 0.1",
        ),
        (
            {"seed": 1, "steps": 7, "batch": 8, "eval_every": 3, "size": 48},
            "seed 0 instead of 1, steps 6 instead of 7, batch 4 instead of 8, eval_every 2 instead of 3",
        ),
    ],
)
def test_another_config_is_told_by_its_settings(
    config: Config, tmp_path: Path, changes: dict[str, Any], listed: str
) -> None:
    with claimed(tmp_path, config, SILENT):
        pass
    assert refusal(tmp_path, replace(config, **changes)) == (
        f"{tmp_path} belongs to another run: {listed}; name another --output"
    )


def test_what_an_older_version_did_not_know_is_as_its_default(config: Config, tmp_path: Path) -> None:
    content = {name: value for name, value in config.to_json().items() if name not in ("held_out", "swad")}
    content["protocol"] = PROTOCOL
    (tmp_path / "config.json").write_text(json.dumps({**content, "held_out": 0.2}))
    with claimed(tmp_path, config, SILENT):
        pass
    assert "swad False instead of True; name" in refusal(tmp_path, replace(config, swad=True))
    (tmp_path / "config.json").write_text(json.dumps(content))
    assert "held_out None instead of 0.2" in refusal(tmp_path, config)


@pytest.mark.parametrize(("more", "said"), [({}, "2 or older"), ({"protocol": 2}, "2"), ({"protocol": 4}, "4")])
def test_what_was_begun_by_another_protocol_is_not_gone_on_with(
    config: Config, tmp_path: Path, more: dict[str, Any], said: str
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**config.to_json(), **more}))
    for ours in (config, replace(config, lr=0.5)):
        assert refusal(tmp_path, ours) == (
            f"{tmp_path} was begun by protocol {said}, and this version trains by protocol 3; name another --output"
        )


def test_other_files_are_left_alone(config: Config, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    assert (
        refusal(tmp_path, config)
        == f"{tmp_path} contains other files (thesis.tex, …) and no run; name another --output"
    )
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.tex"]
    file = tmp_path / "thesis.tex"
    assert refusal(file, config) == f"{file} is a file; name another --output"
    assert refusal(file / "below", config) == f"cannot write {file / 'below'}: Not a directory"
    assert file.read_text() == "precious"


def test_what_a_killed_process_leaves_is_removed(config: Config, tmp_path: Path) -> None:
    (tmp_path / ".config.json.x1y2.tmp").write_text("")
    with claimed(tmp_path, config, SILENT):
        pass
    (tmp_path / "outputs").mkdir()
    for left in (".tmpAbC", "outputs/.000002.safetensors.x.tmp"):
        (tmp_path / left).write_text("")
    with claimed(tmp_path, config, SILENT):
        assert sorted(entry.name for entry in tmp_path.rglob("*")) == [".lease-2", "config.json", "outputs"]


def test_facts_must_be_the_same_and_what_is_said_besides_may_differ(tmp_path: Path) -> None:
    facts, folder = {"fingerprint": "0123456789ab" + 52 * "c"}, tmp_path / "out"
    assert not owned(folder, "sweep.json", "sweep", facts)
    assert not folder.exists()
    claim(folder, "sweep.json", "sweep", facts, {"data": "PACS"})
    claim(folder, "sweep.json", "sweep", facts, {"data": "moved"})
    assert read_json(folder / "sweep.json") == {"protocol": PROTOCOL, "data": "PACS", **facts}
    assert owned(folder, "sweep.json", "sweep", facts, {"data": "moved"})
    with pytest.raises(UserError) as caught:
        owned(folder, "sweep.json", "sweep", {"fingerprint": 64 * "d"}, {"data": "VLCS"})
    assert str(caught.value) == (
        f"{folder} belongs to another sweep: data 'PACS' instead of 'VLCS', "
        "fingerprint '0123456789ab…' instead of 'dddddddddddd…'; name another --output"
    )


def test_a_folder_that_cannot_be_read(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(self: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", denied)
    assert refusal(tmp_path, config) == f"cannot read {tmp_path}: Permission denied"


def test_a_damaged_config(config: Config, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text("{")
    said = refusal(tmp_path, config)
    assert said.startswith(f"{path} is not JSON: ")
    assert said.endswith(f"; remove {tmp_path} and train it again")
    path.unlink()
    path.symlink_to(path)
    assert refusal(tmp_path, config).startswith(f"{path} cannot be read: Too many levels of symbolic links; remove ")
    path.unlink()
    os.mkfifo(path)
    said = refusal(tmp_path, config)
    assert said == f"{path} cannot be read: it is no regular file; remove {tmp_path} and train it again"


def damaged(path: Path) -> Iterator[None]:
    """Ways in which a file can be no file of ours."""
    for change in (
        lambda: path.write_text("{"),
        lambda: path.write_text('{"lr": 1, "checksum": "0123456789abcdef"}'),
        lambda: os.mkfifo(path),
        lambda: path.symlink_to(path),
        lambda: path.symlink_to(path.parent / "nothing"),
    ):
        path.unlink(missing_ok=True)
        change()
        yield


def test_a_damaged_config_is_written_again_where_the_state_is_of_this_run(config: Config, tmp_path: Path) -> None:
    path, state = tmp_path / "config.json", tmp_path / "resume.safetensors"
    write_tensors(state, {"x": torch.zeros(1)}, "state", {"run": config.digest()})
    for _ in damaged(path):
        with claimed(tmp_path, config, SILENT):
            assert read_json(path) == {"protocol": PROTOCOL, **config.to_json()}
            assert not path.is_symlink()
    path.unlink()
    assert "contains other files" in refusal(tmp_path, config)  # one that is gone says nothing of whose it was
    write_tensors(state, {"x": torch.zeros(1)}, "state", {"run": "0123456789ab"})
    for _ in damaged(path):
        assert f"; remove {tmp_path} and train it again" in refusal(tmp_path, config)


def test_a_damaged_file_of_sweeps_is_written_again_where_the_runs_are_of_these_images(
    config: Config, tmp_path: Path
) -> None:
    facts, path = {"fingerprint": config.fingerprint}, tmp_path / "sweep.json"
    for _ in damaged(path):
        with pytest.raises(UserError, match=r"sweep\.json .*; name another --output$"):
            claim(tmp_path, "sweep.json", "sweep", facts)
    claim(tmp_path / "runs" / "a", "config.json", "run", config.to_json())
    for _ in damaged(path):
        with pytest.raises(UserError, match="name another --output"):
            claim(tmp_path, "sweep.json", "sweep", {"fingerprint": "0"})
        claim(tmp_path, "sweep.json", "sweep", facts)
        assert read_json(path) == {"protocol": PROTOCOL, **facts}
    path.unlink()
    with pytest.raises(UserError, match=r"contains other files \(runs, …\) and no sweep"):
        claim(tmp_path, "sweep.json", "sweep", facts)


def test_a_file_that_cannot_be_read_may_be_whole(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim(tmp_path, "config.json", "run", config.to_json())
    write_tensors(tmp_path / "resume.safetensors", {"x": torch.zeros(1)}, "state", {"run": config.digest()})
    before = (tmp_path / "config.json").read_bytes()
    with monkeypatch.context() as patch:
        unanswering(patch, "open")
        with pytest.raises(UserError, match="Input/output error"):
            claim(tmp_path, "config.json", "run", config.to_json())
    assert (tmp_path / "config.json").read_bytes() == before


def test_a_dataset_that_was_renamed_keeps_the_name_it_was_trained_under(data: Dataset, tmp_path: Path) -> None:
    stored = [tmp_path / name for name in ("none.json", "other.json", "broken.json", "b.json", "a.json")]
    for path, fingerprint, name in zip(stored[1:], ("0", "", data.fingerprint, data.fingerprint), "oxba", strict=True):
        path.write_text(json.dumps({"fingerprint": fingerprint, "data": name}) if fingerprint else "{")
    assert named_before(data, stored[:3]) is data
    renamed = named_before(data, stored)
    assert (renamed.name, renamed.fingerprint) == ("b", data.fingerprint)
    assert named_before(replace(data, name="a"), stored).name == "a"


@pytest.mark.skipif(os.name != "posix", reason="names are text elsewhere")
def test_a_folder_whose_name_is_not_text_is_refused_before_anything_is_trained(config: Config, tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    assert refusal(folder, config) == f"the name of {folder} is not UTF-8; name another --output"


@pytest.mark.parametrize(("make", "reason"), KINDS_OF_LEASE)
def test_a_lease_that_is_no_file_is_named(
    make: Callable[[Path], object], reason: str, config: Config, tmp_path: Path
) -> None:
    lease = tmp_path / ".lease-3"
    make(lease)
    assert refusal(tmp_path, config) == f"cannot write {lease}: {reason}; remove it"


@pytest.mark.parametrize("name", ["outputs", ".lease-3"])
def test_nothing_is_written_through_a_link(tmp_path: Path, config: Config, name: str) -> None:
    folder, away = tmp_path / "run", tmp_path / "away"
    away.mkdir()
    kept = away / ".000002.safetensors.x.tmp"
    kept.write_text("someone else's")
    claim(folder, "config.json", "run", config.to_json())
    (folder / name).symlink_to(kept if name == ".lease-3" else away)
    with pytest.raises(UserError) as caught, claimed(folder, config, SILENT):
        pass
    assert str(caught.value) == (
        f"{folder / name} is a link, and a run writes into its own folder only; remove the link"
    )
    assert kept.read_text() == "someone else's"
