"""A dataset from a server to a folder, whole or not at all."""

from __future__ import annotations

import hashlib
import io
import json
import threading
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import largedrop as ld
from largedrop.catalog import transfer
from largedrop.catalog.download import download
from largedrop.catalog.facts import Published, RemoteFile, Source, published
from largedrop.catalog.transfer import Watcher
from largedrop.data.digests import digest_of
from largedrop.errors import UserError
from largedrop.lease import holding


class Handler(BaseHTTPRequestHandler):
    """Answers with what the test has put under a path; ``broken`` paths are cut in the middle."""

    server: Server

    def do_GET(self) -> None:  # the library's name
        self.server.requests.append(self.path)
        content = self.server.files.get(self.path)
        if content is None:
            return self.send_error(404)
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if self.path in self.server.broken else content)
        return None

    def log_message(self, format: str, *args: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    """A server on this machine."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.broken: set[str] = set()
        self.requests: list[str] = []

    def source(self, path: str, **known: Any) -> Source:
        return Source(f"http://127.0.0.1:{self.server_address[1]}{path}", **known)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(transfer, "WAITS", (0.0,))
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def image(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32), (shade % 256, shade * 7 % 256, 90)).save(buffer, "PNG")
    return buffer.getvalue()


def archive(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, content in files.items():
            file.writestr(name, content)
    return buffer.getvalue()


IMAGES = {
    f"{domain}/{name}/{number}.png": image(40 * each + number)
    for each, (domain, name) in enumerate((a, b) for a in ("photo", "sketch") for b in ("cat", "dog"))
    for number in range(3)
}

TWO = Published(
    name="Two",
    kind="domains",
    folder="two",
    layout="folders",
    licence="MIT",
    home="http://here",
    citation="We",
    domains={"photo": 6, "sketch": 6},
    classes=("cat", "dog"),
    images=12,
)


def two(server: Server, content: bytes | None = None, *, name: str = "two.zip", **facts: Any) -> Published:
    """The dataset with one archive, which the server has."""
    content = archive({f"data/{key}": value for key, value in IMAGES.items()}) if content is None else content
    server.files[f"/{name}"] = content
    known = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    return replace(TWO, files=(RemoteFile(name, (server.source(f"/{name}", **known),)),), **facts)


def tree(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


class Seen(Watcher):
    def __init__(self) -> None:
        self.notes: list[str] = []
        self.images = 0

    def unpacked(self) -> None:
        self.images += 1

    def note(self, text: str) -> None:
        self.notes.append(text)


def refusal(facts: Published, folder: Path, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        download(facts, folder, **options)
    assert not folder.exists()
    return str(caught.value)


def test_a_dataset_is_laid_out_and_can_be_opened(server: Server, tmp_path: Path) -> None:
    seen = Seen()
    found = download(two(server), tmp_path / "deep" / "two", watch=seen)
    assert (found.folder, found.images, found.notes) == (tmp_path / "deep" / "two", {"photo": 6, "sketch": 6}, ())
    assert (seen.images, seen.notes) == (12, [])
    assert [each.name for each in (tmp_path / "deep").iterdir()] == ["two"]
    assert tree(found.folder) == sorted(IMAGES)
    assert (found.folder / "photo/cat/0.png").read_bytes() == IMAGES["photo/cat/0.png"]
    data = ld.open_dataset(found.folder)
    assert (data.domains, data.classes, len(data)) == (("photo", "sketch"), ("cat", "dog"), 12)


def test_sources_are_tried_in_turn(server: Server, tmp_path: Path) -> None:
    facts, seen = two(server), Seen()
    (file,) = facts.files
    sources = (server.source("/gone.zip"), server.source("/page.zip"), *file.sources)
    server.files["/page.zip"] = b"<html><title>Sign in</title></html>"
    download(replace(facts, files=(replace(file, sources=sources),)), tmp_path / "two", watch=seen)
    assert server.requests == ["/gone.zip", "/page.zip", "/two.zip"]
    assert [note.partition(": http")[0] for note in seen.notes] == ["two.zip", "two.zip"]
    assert seen.notes[0].endswith("/gone.zip: the server answers 404 Not Found")
    assert seen.notes[1].endswith("/page.zip: a web page came instead of the file ('Sign in')")


def test_where_no_source_has_it_all_reasons_are_told(server: Server, tmp_path: Path) -> None:
    sources = (server.source("/a.zip"), server.source("/b.zip"))
    said = refusal(replace(TWO, files=(RemoteFile("two.zip", sources),)), tmp_path / "two").splitlines()
    assert said[0] == "two.zip cannot be had:"
    assert [line.rpartition("/")[2] for line in said[1:3]] == [
        "a.zip: the server answers 404 Not Found",
        "b.zip: the server answers 404 Not Found",
    ]
    assert said[3] == "  download two.zip by hand into a folder, and name it with --from"
    assert list(tmp_path.iterdir()) == []


def test_what_was_received_is_gone_on_with_and_then_removed(server: Server, tmp_path: Path) -> None:
    first = two(server)
    other = RemoteFile("more.zip", (server.source("/more.zip"),))
    facts = replace(first, files=(*first.files, other), domains={"photo": 6, "sketch": 6, "real": 1})
    refusal(facts, tmp_path / "two")
    assert sorted(path.name for path in (tmp_path / ".two.download").iterdir()) == ["two.zip"]
    server.files["/more.zip"] = archive({"real/dog/1.png": image(3)})
    server.requests.clear()
    assert download(facts, tmp_path / "two").images == {"photo": 6, "sketch": 6, "real": 1}
    assert server.requests == ["/more.zip"]
    assert [path.name for path in tmp_path.iterdir()] == ["two"]


def test_a_cut_download_leaves_a_part_for_the_next_call(server: Server, tmp_path: Path) -> None:
    facts = two(server)
    server.broken = {"/two.zip"}
    assert "tries in a row brought nothing new" in refusal(facts, tmp_path / "two")
    assert "two.zip.part" in {path.name for path in (tmp_path / ".two.download").iterdir()}
    server.broken = set()
    download(facts, tmp_path / "two")
    assert [path.name for path in tmp_path.iterdir()] == ["two"]


def test_an_interruption_while_unpacking_leaves_no_folder(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stops(Watcher):
        def unpacked(self) -> None:
            raise KeyboardInterrupt

    facts = two(server)
    with pytest.raises(KeyboardInterrupt):
        download(facts, tmp_path / "two", watch=Stops())
    assert not (tmp_path / "two").exists()
    server.requests.clear()
    assert len(tree(download(facts, tmp_path / "two").folder)) == 12
    assert server.requests == []
    assert [path.name for path in tmp_path.iterdir()] == ["two"]


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"../x.png": b""}, "two.zip is refused: '../x.png' in it leaves the archive's folder"),
        ({"photo/cat/1.png": b"x"}, "two.zip: no image of the domain sketch, the class dog"),
        ({}, "two.zip: no image of the domain photo, the domain sketch, the class cat, the class dog"),
        ({"a/photo/cat/1.png": b"x", "b/photo/cat/1.png": b"y"}, "two.zip has two files for photo/cat/1.png"),
    ],
)
def test_a_wrong_archive_gives_nothing_and_is_had_anew(
    server: Server, tmp_path: Path, files: dict[str, bytes], reason: str
) -> None:
    facts = two(server, archive(files))
    assert refusal(facts, tmp_path / "two") == f"{reason}; it is removed, and the next call downloads it again"
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_archive_without_checksum_is_had_anew(server: Server, tmp_path: Path) -> None:
    facts = two(server)
    whole = server.files["/two.zip"]
    server.files["/two.zip"] = whole[:-200]
    facts = replace(facts, files=(RemoteFile("two.zip", (server.source("/two.zip"),)),))
    assert "two.zip is damaged" in refusal(facts, tmp_path / "two")
    server.files["/two.zip"] = whole
    download(facts, tmp_path / "two")


def test_contents_that_are_known_are_checked(server: Server, tmp_path: Path) -> None:
    keys = sorted(IMAGES)
    digest = digest_of(keys, [hashlib.sha256(IMAGES[key]).hexdigest() for key in keys])
    download(two(server, contents=digest), tmp_path / "two")
    said = refusal(two(server, contents="0" * 64), tmp_path / "other")
    assert said.startswith("the images of two.zip are not those of Two as published")


def test_other_counts_than_published_are_said(server: Server, tmp_path: Path) -> None:
    facts = two(server, domains={"photo": 1500, "sketch": 0})
    assert download(facts, tmp_path / "two").notes == ("photo has 6 images, and 1,500 are published",)


def test_files_that_somebody_has_are_used_and_left(server: Server, tmp_path: Path) -> None:
    facts, have = two(server), tmp_path / "have"
    have.mkdir()
    (have / "two.zip").write_bytes(server.files["/two.zip"])
    download(facts, tmp_path / "two", have)
    assert server.requests == []
    assert tree(have) == ["two.zip"]
    (have / "two.zip").write_bytes(b"another")
    assert refusal(facts, tmp_path / "other", have=have) == (
        f"{have / 'two.zip'}: it has 7 bytes and should have {len(server.files['/two.zip']):,}"
    )
    assert tree(have) == ["two.zip"]


def test_files_that_are_missing_are_named(server: Server, tmp_path: Path) -> None:
    first, seen, have = two(server), Seen(), tmp_path / "have"
    have.mkdir()
    (have / "two.zip").write_bytes(server.files["/two.zip"])
    more = [RemoteFile(f"{name}.zip", (server.source(f"/{name}.zip"),)) for name in "abc"]
    said = refusal(replace(first, files=(more[0], *first.files, *more[1:])), tmp_path / "two", have=have, watch=seen)
    assert said.splitlines()[0] == "a.zip cannot be had:"
    assert said.splitlines()[-1] == "  also missing: b.zip, c.zip"
    assert seen.notes[0] == f"{have} has no a.zip, b.zip, c.zip: to be downloaded"


def test_what_is_there_is_not_touched(server: Server, tmp_path: Path) -> None:
    folder = tmp_path / "two"
    folder.mkdir()
    (folder / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="two is there already; name another folder with --output, or remove it"):
        download(two(server), folder)
    assert tree(tmp_path) == ["two/mine.txt"]


def test_two_processes_do_not_download_to_one_folder(server: Server, tmp_path: Path) -> None:
    with holding(tmp_path / ".two.download"):
        assert refusal(two(server), tmp_path / "two").startswith("another process is downloading to ")


def test_a_download_that_died_on_another_machine_is_gone_on_with(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody here can know that it did, but by looking for a while."""
    work, seen, clock = tmp_path / ".two.download", Seen(), iter(range(10**9))
    work.mkdir()
    lease = {"host": "node7", "system": "another", "process": 12, "started": "34"}
    (work / ".lease-1").write_text(json.dumps(lease))
    time = type("time", (), {"monotonic": lambda: next(clock), "sleep": lambda seconds: None})
    monkeypatch.setattr("largedrop.lease.time", time)
    download(two(server), tmp_path / "two", watch=seen)
    assert seen.notes[0].startswith(f"process 12 on node7 may be using {work}: looking for up to two minutes")
    assert not work.exists()


def test_what_a_person_has_to_get_is_said(tmp_path: Path) -> None:
    said = refusal(published("ObjectNet"), tmp_path / "o")
    assert said == (
        "ObjectNet cannot be downloaded by a program: accept its terms at https://objectnet.dev, and unpack "
        "objectnet-1.0.zip with the password given there"
    )
    assert list(tmp_path.iterdir()) == []


def test_listed_images_are_left_out_and_annotations_used(server: Server, tmp_path: Path) -> None:
    traps = {
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
        "images": [{"id": n, "file_name": f"{n}.png", "location": "photo" if n % 2 else "sketch"} for n in range(8)],
        "annotations": [{"image_id": n, "category_id": 1 + n // 4} for n in range(8)]
        + [{"image_id": 7, "category_id": 1}],
    }
    content = {
        "/images.zip": archive({f"all/{n}.png": image(n) for n in range(9)}),
        "/notes.zip": archive({"notes.json": json.dumps(traps).encode()}),
        "/gone.txt": b"sketch/cat/0.png\nphoto/dog/5.png\n",
    }
    server.files |= content
    uses = {"/images.zip": "images", "/notes.zip": "annotations", "/gone.txt": "remove"}
    files = tuple(RemoteFile(path[1:], (server.source(path),), use) for path, use in uses.items())
    found = download(replace(TWO, layout="camera traps", files=files), tmp_path / "two")
    assert tree(found.folder) == [
        "photo/cat/1.png",
        "photo/cat/3.png",
        "photo/cat/7.png",
        "photo/dog/7.png",
        "sketch/cat/2.png",
        "sketch/dog/4.png",
        "sketch/dog/6.png",
    ]
    assert found.notes == ("photo has 4 images, and 6 are published", "sketch has 3 images, and 6 are published")
