"""Sources that are elsewhere: a server on this machine, and the memory file system."""

from __future__ import annotations

import builtins
import hashlib
import io
import re
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
from tests.data.archives import archive, png
from tests.helpers import make_toy, refusal

import largedrop as ld
from largedrop.data.remote import Store, address, folder_of, is_remote, named_in

fsspec = pytest.importorskip("fsspec")
from fsspec.spec import AbstractFileSystem  # noqa: E402


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LARGEDROP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


class Server:
    """A server of a folder.

    Attributes:
        root: the folder.
        url: its address.
        asked: method and path of every request so far.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.asked: list[str] = []
        asked = self.asked

        class Handler(SimpleHTTPRequestHandler):
            def log_message(self, text: str, *values: Any) -> None:
                asked.append(str(values[0]).rpartition(" ")[0])

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(root)))
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    @property
    def got(self) -> list[str]:
        """The paths that were read since the last call."""
        paths = [line.removeprefix("GET ") for line in self.asked if line.startswith("GET ")]
        self.asked.clear()
        return sorted(paths)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    pytest.importorskip("aiohttp")
    (tmp_path / "site").mkdir()
    made = Server(tmp_path / "site")
    thread = threading.Thread(target=made.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    made.server.shutdown()
    made.server.server_close()
    thread.join()


@pytest.fixture
def memory() -> Iterator[Any]:
    system = fsspec.filesystem("memory")
    yield system
    system.store.clear()
    system.pseudo_dirs[:] = [""]


def test_addresses() -> None:
    assert [is_remote(text) for text in ("https://h/x", "s3://b/k", "C:/x", "hf:a/b", "./x")] == [
        True,
        True,
        *[False] * 3,
    ]
    assert named_in("https://h/a/t.csv?key=/x") == "t.csv"
    assert folder_of("https://h/a/t.csv?key=/x") == "https://h/a/"
    assert address("https://h/", "a b/#1?.png") == "https://h/a%20b/%231%3F.png"
    assert address("memory://h/", "a b.png") == "memory://h/a b.png"


def test_where_files_are(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store.local("https://h:8000/a%20b/../t.csv?x=1") == tmp_path / "remote" / "https" / "h_8000" / "t.csv"
    assert store.local("s3://b//k?.png") == tmp_path / "remote" / "s3" / "b" / "k?.png"
    for url in ("https://h/../../x", "https://h/%2e%2e/%2e%2e/x", "https://h/a%00", "memory://"):
        assert refusal(store.local, url) == f"{url} is no address of a file"


def test_what_follows_a_question_mark_is_a_name_where_nothing_else_is(tmp_path: Path) -> None:
    store = Store(tmp_path)
    one, two = (store.local(f"https://h/get?id={number}") for number in range(2))
    assert (one != two, one.parent, store.local("https://h/get?id=0")) == (
        True,
        tmp_path / "remote" / "https" / "h",
        one,
    )
    assert store.local("https://h/a.PNG?signature=1") == store.local("https://h/a.PNG?signature=2")
    said = refusal(store.fetch, ["https://h/a.png?size=1", "https://h/b.png", "https://h/a.png?size=2"])
    assert said == (
        "https://h/a.png?size=1 and https://h/a.png?size=2 would be one file in the cache: fetch them under names of "
        "their own"
    )


def test_a_table_on_a_server_is_fetched_once(server: Server) -> None:
    (server.root / "pets" / "a b").mkdir(parents=True)
    names = ["a b/1%.png", "a b/#2.png", "3.png", "4?.png"]
    for number, name in enumerate(names):
        (server.root / "pets" / name).write_bytes(png(10 * number))
    rows = [f"{name},{'xy'[number % 2]},{'de'[number // 2]}" for number, name in enumerate(names)]
    (server.root / "pets" / "t.csv").write_text("\n".join(["path,label,domain", *rows]))
    calls: list[tuple[int, int]] = []
    data = ld.open_dataset(f"{server.url}/pets/t.csv", progress=lambda done, total: calls.append((done, total)))
    assert data.keys == ("d/x/a b/1%.png", "d/y/a b/#2.png", "e/x/3.png", "e/y/4?.png")
    assert [int(data.images[n][0, 0, 0]) for n in range(4)] == [0, 10, 20, 30]
    assert (data.name, (1, 1) in calls, (4, 4) in calls) == ("t", True, True)
    assert data.fingerprint == ld.open_dataset(server.root / "pets" / "t.csv").fingerprint
    assert len(server.got) == 5
    assert ld.open_dataset(f"{server.url}/pets/t.csv").fingerprint == data.fingerprint
    assert server.got == []
    (server.root / "pets" / "3.png").write_bytes(png(77) + b" ")  # of another size: times are of seconds
    changed = ld.open_dataset(f"{server.url}/pets/t.csv")
    assert (int(changed.images[2][0, 0, 0]), server.got) == (77, ["/pets/3.png"])
    (server.root / "pets" / "3.png").unlink()
    said = refusal(ld.open_dataset, f"{server.url}/pets/t.csv")
    assert said == f"{server.url}/pets/t.csv: line 4: there is no file 3.png"


def test_a_table_here_of_images_there(server: Server, tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    for number in range(2):
        (server.root / f"{number}.png").write_bytes(png(10 * number))
    rows = {"path": [f"{server.url}/{number}.png" for number in range(2)], "label": ["a", "b"]}
    pandas.DataFrame(rows).to_csv(tmp_path / "t.csv", index=False)
    for source in (tmp_path / "t.csv", pandas.DataFrame(rows)):
        data = ld.open_dataset(source)
        assert data.keys == (f"all/a/{server.url}/0.png", f"all/b/{server.url}/1.png")
        assert int(data.images[1][0, 0, 0]) == 10
    rows["path"][1] = f"{server.url}/9.png"
    said = f"the data frame: row 1: there is no file {server.url}/9.png"
    assert refusal(ld.open_dataset, pandas.DataFrame(rows)) == said


def test_a_folder_on_a_server(server: Server, tmp_path: Path) -> None:
    make_toy(server.root / "toy", images=2)
    (server.root / "toy" / "notes.txt").write_text("x")
    (server.root / "toy" / ".hidden.png").write_bytes(png(1))
    here = ld.open_dataset(server.root / "toy")
    there = ld.open_dataset(f"{server.url}/toy/")
    assert (there.name, there.keys, there.fingerprint) == ("toy", here.keys, here.fingerprint)
    assert "not fetched: 1 .txt" in there.notes
    first = next((server.root / "toy").glob("*/*/*.png"))
    first.unlink()
    assert len(ld.open_dataset(f"{server.url}/toy")) == len(here) - 1
    assert refusal(ld.open_dataset, f"{server.url}/none") == f"there are no images at {server.url}/none"


def test_archives_on_a_server(server: Server) -> None:
    for number in range(2):
        members: dict[str, Any] = {f"{number}{name}.png": png(number) for name in "ab"}
        archive(server.root / f"s-{number}.tar", members | {f"{number}{name}.cls": name for name in "ab"})
    data = ld.open_dataset(f"{server.url}/s-{{0..1}}.tar")
    assert (data.name, data.keys[:2]) == ("s-0", ("all/a/0a.png", "all/a/1a.png"))
    url = f"{server.url}/s-{{0..2}}.tar"
    assert refusal(ld.open_dataset, url) == f"{url}: 1 of 3 archives are not there"


def test_the_memory_file_system(memory: Any, tmp_path: Path) -> None:
    toy = make_toy(tmp_path / "toy", images=2)
    memory.put(str(toy), "/box/toy", recursive=True)
    here, there = ld.open_dataset(toy), ld.open_dataset("memory://box/toy")
    assert (there.name, there.fingerprint) == ("toy", here.fingerprint)
    key = there.keys[0]
    memory.pipe(f"/box/toy/{key}", b"no image")
    assert "not an image of a known format" in refusal(ld.open_dataset, "memory://box/toy")
    memory.rm(f"/box/toy/{key}")
    assert len(ld.open_dataset("memory://box/toy")) == len(here) - 1
    memory.pipe("/box/loose/a.png", png(1))
    assert refusal(ld.open_dataset, "memory://box/loose") == (
        "memory://box/loose: expects domain/class/image, found images directly in loose"
    )
    memory.pipe("/box/t.csv", b"path,label\n../a.png,x\n")
    assert refusal(ld.open_dataset, "memory://box/t.csv").startswith("memory://box/t.csv: ")
    memory.pipe("/box/t.csv", b"file,label\na.png,x\n")
    assert refusal(ld.open_dataset, "memory://box/t.csv").startswith("memory://box/t.csv has no column 'path', only ")
    assert refusal(ld.open_dataset, "memory://box/u.csv") == (
        "there is no table memory://box/u.csv, or it cannot be fetched"
    )


class Bucket(AbstractFileSystem):  # type: ignore[misc, unused-ignore]
    """Objects under keys, with entity tags and no folders, as S3 and its kind have them."""

    protocol = "bucket"
    cachable = False
    objects: ClassVar[dict[str, bytes]] = {}

    def info(self, path: str, **options: Any) -> dict[str, Any]:
        key = self._strip_protocol(path)
        if key in self.objects:
            tag = hashlib.md5(self.objects[key]).hexdigest()
            return {"name": key, "size": len(self.objects[key]), "type": "file", "ETag": f'"{tag}"'}
        if any(each.startswith(f"{key}/") for each in self.objects):
            return {"name": key, "size": 0, "type": "directory"}
        raise FileNotFoundError(path)

    def ls(self, path: str, detail: bool = True, **options: Any) -> list[Any]:
        start = self._strip_protocol(path).rstrip("/") + "/"
        names = {start + key.removeprefix(start).partition("/")[0] for key in self.objects if key.startswith(start)}
        if not names:
            return [self.info(path) if detail else self._strip_protocol(path)]
        return [self.info(name) if detail else name for name in sorted(names)]

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        return io.BytesIO(self.objects[self._strip_protocol(path)])


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    fsspec.register_implementation("bucket", Bucket, clobber=True)
    monkeypatch.setattr(Bucket, "objects", {})
    return Bucket.objects


def test_a_store_of_objects(bucket: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy = make_toy(tmp_path / "toy", images=2)
    here = ld.open_dataset(toy)
    for path in toy.rglob("*.png"):
        bucket[f"mine/sets/toy/{path.relative_to(toy).as_posix()}"] = path.read_bytes()
    assert ld.open_dataset("bucket://mine/sets/toy").fingerprint == here.fingerprint
    rows = [f"toy/{key},{key.split('/')[1]},{key.split('/')[0]}\n" for key in here.keys]
    bucket["mine/sets/toy.csv"] = f"path,label,domain\n{''.join(rows)}".encode()
    table = ld.open_dataset("bucket://mine/sets/toy.csv")
    assert (table.name, len(table), table.domains) == ("toy", 18, here.domains)
    shard = archive(tmp_path / "a.tar", {"a.png": png(1), "a.cls": "1", "b.png": png(2), "b.cls": "2"})
    bucket["mine/a.tar"] = shard.read_bytes()
    assert len(ld.open_dataset("bucket://mine/a.tar")) == 2
    key = here.keys[0]
    bucket[f"mine/sets/toy/{key}"] = png(200)  # of another tag
    again = ld.open_dataset("bucket://mine/sets/toy")
    assert (again.keys, int(again.images[0][0, 0, 0])) == (here.keys, 200)
    assert refusal(ld.open_dataset, "bucket://yours/toy") == "there are no images at bucket://yours/toy"

    def offline(self: Any, **options: Any) -> None:
        raise ConnectionRefusedError("refused\nby host")

    monkeypatch.setattr(Bucket, "__init__", offline)
    assert refusal(ld.open_dataset, "bucket://mine/sets/toy") == "bucket://mine/sets/toy cannot be read: refused"


@pytest.mark.parametrize(
    ("address", "package"), [("s3://b/toy", "s3fs"), ("gs://b/t.csv", "gcsfs"), ("az://b/t.tar", "adlfs")]
)
def test_a_protocol_without_its_package(monkeypatch: pytest.MonkeyPatch, address: str, package: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    said = refusal(ld.open_dataset, address)
    assert re.fullmatch(rf"{address[:4]}.+ cannot be read: .*[Ii]nstall {package} .+", said)


def test_a_download_that_breaks_off_is_said_and_gone_on_with(memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, name in enumerate("abcd"):
        memory.pipe(f"/box/d/{'xy'[number % 2]}/{name}.png", png(number))
    real, got = type(memory).get_file, []

    def broken(self: Any, remote: str, local: str, **options: Any) -> None:
        got.append(remote)
        Path(local).write_bytes(b"half")
        if remote.endswith("c.png"):
            raise ConnectionError("reset by peer")
        real(self, remote, local, **options)

    monkeypatch.setattr(type(memory), "get_file", broken)
    said = refusal(ld.open_dataset, "memory://box/d")
    assert said == "memory://box/d/x/c.png cannot be fetched: reset by peer"
    monkeypatch.setattr(type(memory), "get_file", real)
    data = ld.open_dataset("memory://box/d")
    assert [int(data.images[n][0, 0, 0]) for n in range(4)] == [0, 2, 1, 3]


def test_what_is_not_installed_or_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    assert refusal(ld.open_dataset, "nowhere://x/y").startswith("nowhere://x/y cannot be read: Protocol not known")
    real = builtins.__import__

    def without(name: str, *arguments: Any, **options: Any) -> Any:
        if name.split(".")[0] in ("fsspec", "s3fs"):
            raise ImportError(name)
        return real(name, *arguments, **options)

    for name in [each for each in sys.modules if each == "fsspec" or each.startswith("fsspec.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", without)
    said = "https://h/ is read by fsspec: pip install fsspec (or largedrop[remote])"
    assert refusal(ld.open_dataset, "https://h/t.csv") == said
