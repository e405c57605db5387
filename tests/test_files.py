"""Files: whole or not at all, with the permissions and the errors that a user expects."""

from __future__ import annotations

import errno
import json
import math
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.helpers import refusal, unanswering

from largedrop import files
from largedrop.files import (
    is_leftover,
    parse_json,
    read_json,
    replacing,
    tensors_crc,
    there,
    write_bytes,
    write_json,
    write_stored,
    write_text,
)


@pytest.fixture
def umask() -> Iterator[int]:
    before = os.umask(0o027)
    yield 0o027
    os.umask(before)


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def full_disk(descriptor: int) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_folders_are_made_and_the_content_is_exact(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file"
    write_bytes(path, b"one\r\n\0")
    write_bytes(path, b"two")
    assert path.read_bytes() == b"two"
    assert names(path.parent) == ["file"]


def test_text_is_utf8_with_the_line_ends_that_it_has(tmp_path: Path) -> None:
    write_text(tmp_path / "file", "λ\r\n±\n")
    assert (tmp_path / "file").read_bytes() == "λ\r\n±\n".encode()


def test_json_is_indented_unescaped_and_ends_with_a_newline(tmp_path: Path) -> None:
    write_json(tmp_path / "file.json", {"λ": [0.9, None]})
    assert (tmp_path / "file.json").read_bytes() == '{\n  "λ": [\n    0.9,\n    null\n  ]\n}\n'.encode()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_json_refuses_what_no_parser_need_read(tmp_path: Path, value: float) -> None:
    write_json(tmp_path / "file.json", {"loss": 1.0})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "file.json", {"loss": value})
    assert json.loads((tmp_path / "file.json").read_text()) == {"loss": 1.0}
    assert names(tmp_path) == ["file.json"]


@pytest.mark.parametrize("error", [RuntimeError("mine"), KeyboardInterrupt()])
def test_an_exception_leaves_the_old_file_and_nothing_else(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "file"
    write_text(path, "old")

    def write_half() -> None:
        with replacing(path) as temporary:
            temporary.write_text("ne")
            raise error

    with pytest.raises(type(error)) as caught:
        write_half()
    assert caught.value is error
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_the_temporary_file_is_beside_the_target_and_known_as_one(tmp_path: Path) -> None:
    with replacing(tmp_path / "file.json") as temporary:
        assert temporary.parent == tmp_path
        assert is_leftover(temporary)
        assert not (tmp_path / "file.json").exists()
        temporary.write_text("new")
    assert not temporary.exists()
    assert is_leftover(Path(".tmppXz3OK"))  # safetensors' own
    assert not any(is_leftover(Path(name)) for name in ("file.json", ".lock", "file.tmp"))


def test_permissions_follow_the_umask(tmp_path: Path, umask: int) -> None:
    path = tmp_path / "file"
    for content in ("old", "new"):
        write_text(path, content)
        assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask
    assert os.umask(umask) == umask


@pytest.mark.parametrize("old", ["old", None])
def test_a_full_disk_is_said_and_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: str | None
) -> None:
    path = tmp_path / "file"
    if old is not None:
        write_text(path, old)
    monkeypatch.setattr(os, "fsync", full_disk)
    assert refusal(write_text, path, "new") == f"cannot write {path}: No space left on device"
    assert (path.read_text() if path.exists() else None) == old
    assert names(tmp_path) == ([] if old is None else ["file"])


@pytest.mark.parametrize(
    ("below", "reason"),
    [(("it.json",), "{file} is a file; rename it or remove it"), (("below", "it.json"), "Not a directory")],
)
def test_a_path_below_a_file_is_said(tmp_path: Path, below: tuple[str, ...], reason: str) -> None:
    file = tmp_path / "file"
    file.write_text("kept")
    said = refusal(write_json, file.joinpath(*below), {})
    assert said == f"cannot write {file.joinpath(*below)}: {reason.format(file=file)}"
    assert file.read_text() == "kept"


def test_a_folder_of_that_name_is_said_and_left(tmp_path: Path) -> None:
    (tmp_path / "taken" / "inside").mkdir(parents=True)
    assert refusal(write_text, tmp_path / "taken", "") == (
        f"cannot write {tmp_path / 'taken'}: there is a folder of that name; rename it or remove it"
    )
    assert names(tmp_path) == ["taken"]


def test_a_checksum_is_of_the_content_and_of_the_bytes(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    content = {"λ": [0.1, None], "checksum of": "a\udce9", "log": [{"step": 1}]}
    for compact in (False, True):
        write_stored(path, content, compact=compact)
        assert read_json(path) == content
    other = json.loads(path.read_text())
    write_json(path, {name: other[name] for name in reversed(other)})  # in another order and layout
    assert read_json(path) == content
    write_json(path, {**other, "λ": [0.2, None]})
    assert refusal(read_json, path).endswith(
        "was changed after it was written: its checksum is not that of its content"
    )
    write_json(path, {**content, "checksum": other["checksum"][:8]})  # as files of before have it
    assert read_json(path) == content


def test_a_field_is_left_out_of_a_file_that_is_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    write_stored(path, {"a": 1, "log": [{"log": 1}]})
    assert parse_json(path.read_bytes(), "it", without="log") == {"a": 1}
    assert parse_json(path.read_bytes(), "it", without="soup") == {"a": 1, "log": [{"log": 1}]}
    path.write_bytes(path.read_bytes().replace(b'"a": 1', b'"a":  1'))
    assert parse_json(path.read_bytes(), "it", without="log") == {"a": 1, "log": [{"log": 1}]}


def test_json_is_read_back_and_what_is_wrong_with_it_is_said(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    write_json(path, {"λ": [0.9, None]})
    assert read_json(path) == {"λ": [0.9, None]}
    for content, said in (
        (b"{", "is not JSON: Expecting property name"),
        (b"\xff\xfe{", "is not JSON: "),
        (b"[1]", "is not a JSON object"),
        (b"[" * 100_000, "is not JSON: it is nested too deeply"),
        (b'{"a": -Infinity}', "is not JSON: -Infinity is no finite number"),
        (b'{"a": 1e400}', "is not JSON: 1e400 is no finite number"),
        (b'{"a": 36893488147419103232}', "is not JSON: 36893488147419103232… is a number of more than 64 bits"),
    ):
        write_bytes(path, content)
        for name, told in (("", path), ("a name", "a name")):
            assert refusal(read_json, path, name).startswith(f"{told} {said}")
    assert refusal(read_json, tmp_path) == f"{tmp_path} cannot be read: Is a directory"


def test_a_file_may_have_the_longest_name(tmp_path: Path) -> None:
    write_text(tmp_path / ("é" * 127), "whole")
    assert (tmp_path / ("é" * 127)).read_text() == "whole"


def test_what_is_not_answered_is_not_taken_for_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "link").symlink_to("nothing")
    assert there(tmp_path / "link")
    assert not there(tmp_path / "other")
    assert not there(tmp_path / "link" / "below")
    unanswering(monkeypatch, "lstat")
    assert refusal(there, tmp_path / "link").endswith(
        "link: Input/output error; the file system failed or did not answer; what is saved is kept, and the same "
        "command goes on"
    )


def test_where_nothing_is_answered_any_more_that_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_bytes(tmp_path / "file", b"old")
    unanswering(monkeypatch, "replace", "unlink")
    assert refusal(write_bytes, tmp_path / "file", b"new") == f"cannot write {tmp_path / 'file'}: Input/output error"
    monkeypatch.undo()
    assert (tmp_path / "file").read_bytes() == b"old"


def test_a_file_of_no_tensors_has_no_checksum(tmp_path: Path) -> None:
    for content in (b"", b"{", b"\xff" * 8, b"\xff" * 7 + b"\x7f" + b"x" * 50):
        write_bytes(tmp_path / "file", content)
        assert tensors_crc(tmp_path / "file") == ("", 0)


def test_leftovers_that_may_be_in_use_stay(tmp_path: Path) -> None:
    names = (".a.x.tmp", ".b.y.tmp", ".tmpAbC", ".keep", "c.tmp")
    for name in names:
        (tmp_path / name).touch()
    (tmp_path / ".d.tmp").mkdir()
    for name in (".b.y.tmp", ".tmpAbC", ".keep", "c.tmp", ".d.tmp"):
        os.utime(tmp_path / name, (1, 1))
    files.remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".a.x.tmp", ".d.tmp", ".keep", "c.tmp"]
    files.remove_leftovers(tmp_path / "none")


def test_a_text_is_written_where_it_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "split.csv"
    files.keep_text(path, "a\ud800")
    before = path.stat().st_ino
    files.keep_text(path, "a\ud800")
    assert path.stat().st_ino == before
    files.keep_text(path, "b")
    assert path.read_text() == "b"
    path.unlink()
    os.mkfifo(path)
    files.keep_text(path, "c")
    assert path.read_text() == "c"
