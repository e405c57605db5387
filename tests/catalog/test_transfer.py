"""One file from a server that cuts, lies, redirects, asks to confirm and damages."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.request import Request

import pytest

from largedrop.catalog import transfer
from largedrop.catalog.facts import Source
from largedrop.catalog.transfer import Watcher, fetch
from largedrop.errors import UserError

CONTENT = bytes(range(256)) * 40
MD5, SHA256 = hashlib.md5(CONTENT).hexdigest(), hashlib.sha256(CONTENT).hexdigest()

Answer = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    """Answers each request by the function that the test gave for it, the last one for all further requests."""

    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:  # the library's name
        asked = self.server.requests
        asked.append((self.path, self.headers.get("Range", "")))
        self.close_connection = True
        self.server.answers[min(len(asked), len(self.server.answers)) - 1](self)

    def log_message(self, format: str, *args: object) -> None:
        pass

    def head(self, code: int = 200, **headers: object) -> None:
        self.send_response(code)
        for name, value in {"Connection": "close", **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()

    @property
    def start(self) -> int:
        """The first byte that was asked for."""
        found = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        return int(found[1]) if found else 0


class Server(ThreadingHTTPServer):
    """A server on this machine; ``answers`` are the test's, ``requests`` the paths and ranges that were asked for."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: list[Answer] = []
        self.requests: list[tuple[str, str]] = []

    def url(self, path: str = "/images.zip") -> str:
        return f"http://127.0.0.1:{self.server_address[1]}{path}"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(transfer, "WAITS", (0.0, 0.0, 0.0))
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def whole(handler: Handler) -> None:
    handler.head(Content_Length=len(CONTENT), ETag='"1"')
    handler.wfile.write(CONTENT)


def ranged(handler: Handler) -> None:
    """The rest of what was asked for."""
    rest = CONTENT[handler.start :]
    if not handler.start:
        return whole(handler)
    handler.head(
        206,
        Content_Length=len(rest),
        ETag='"1"',
        Content_Range=f"bytes {handler.start}-{len(CONTENT) - 1}/{len(CONTENT)}",
    )
    handler.wfile.write(rest)
    return None


def cut(count: int, announced: int = len(CONTENT), **headers: Any) -> Answer:
    """Announces the file, and sends its first ``count`` bytes."""

    def answer(handler: Handler) -> None:
        handler.head(Content_Length=announced, **({"ETag": '"1"'} | headers))
        handler.wfile.write(CONTENT[:count])

    return answer


def page(text: str, **headers: Any) -> Answer:
    def answer(handler: Handler) -> None:
        sent: dict[str, Any] = {"Content_Type": "text/html; charset=utf-8", "Content_Length": len(text), **headers}
        handler.head(**sent)
        handler.wfile.write(text.encode())

    return answer


def status(code: int, **headers: Any) -> Answer:
    return lambda handler: handler.head(code, Content_Length=0, **headers)


class Seen(Watcher):
    def __init__(self) -> None:
        self.begun: list[tuple[str, int, int | None]] = []
        self.bytes = 0

    def begin(self, name: str, had: int, total: int | None) -> None:
        self.begun.append((name, had, total))

    def received(self, count: int) -> None:
        self.bytes += count


def had(server: Server, path: Path, *answers: Answer, source: Source | None = None) -> Seen:
    """Fetch the file, and check that it is whole and nothing is left beside it."""
    server.answers, seen = list(answers), Seen()
    fetch(source or Source(server.url(), len(CONTENT), MD5, SHA256), path, seen)
    assert path.read_bytes() == CONTENT
    assert [each.name for each in path.parent.iterdir()] == [path.name]
    return seen


def refused(server: Server, path: Path, *answers: Answer, source: Source | None = None) -> str:
    """Why the file cannot be had."""
    server.answers = list(answers)
    with pytest.raises(UserError) as caught:
        fetch(source or Source(server.url(), len(CONTENT), MD5, SHA256), path)
    assert not path.exists()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_file_is_received_and_told_of(server: Server, tmp_path: Path) -> None:
    seen = had(server, tmp_path / "images.zip", whole)
    assert (seen.begun, seen.bytes) == ([("images.zip", 0, len(CONTENT))], len(CONTENT))


def test_a_cut_connection_is_gone_on_with(server: Server, tmp_path: Path) -> None:
    seen = had(server, tmp_path / "images.zip", cut(3000), ranged)
    assert [asked for _, asked in server.requests] == ["", "bytes=3000-"]
    assert seen.begun[1] == ("images.zip", 3000, len(CONTENT))
    assert seen.bytes == len(CONTENT)


def test_a_later_call_goes_on(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "images.zip"
    assert "503 Service Unavailable; 4 tries" in refused(server, path, cut(3000), status(503))
    assert sorted(each.name for each in tmp_path.iterdir()) == ["images.zip.part", "images.zip.part.json"]
    server.requests.clear()
    had(server, path, ranged)
    assert [asked for _, asked in server.requests] == ["bytes=3000-"]


def test_nothing_is_gone_on_with_that_cannot_be_checked(server: Server, tmp_path: Path) -> None:
    path, source = tmp_path / "images.zip", Source(server.url())
    refused(server, path, cut(3000, ETag=""), status(503), source=source)
    server.requests.clear()
    had(server, path, whole, source=source)
    assert [asked for _, asked in server.requests] == [""]


def test_a_part_of_another_source_is_not_gone_on_with(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "images.zip"
    refused(server, path, cut(3000), status(503))
    server.requests.clear()
    had(server, path, whole, source=Source(server.url("/other.zip"), None, MD5))
    assert [asked for _, asked in server.requests] == [""]


def test_a_server_that_knows_no_ranges_starts_again(server: Server, tmp_path: Path) -> None:
    seen = had(server, tmp_path / "images.zip", cut(3000), whole)
    assert [each[1] for each in seen.begun] == [0, 0]


def test_a_server_that_knows_no_ranges_and_always_cuts_is_given_up(server: Server, tmp_path: Path) -> None:
    reason = refused(server, tmp_path / "images.zip", cut(3000))
    assert reason == (
        "3,000 of 10,240 bytes came, then the server closed the connection; 4 tries in a row brought nothing new"
    )
    assert len(server.requests) == 5


def test_a_server_that_sends_another_range_is_asked_for_the_whole(server: Server, tmp_path: Path) -> None:
    def another(handler: Handler) -> None:
        handler.head(206, Content_Length=10, Content_Range="bytes 0-9/10240")
        handler.wfile.write(CONTENT[:10])

    def unsaid(handler: Handler) -> None:
        handler.head(206, Content_Length=10)
        handler.wfile.write(CONTENT[:10])

    had(server, tmp_path / "images.zip", cut(3000), unsaid, whole)
    assert [asked for _, asked in server.requests] == ["", "bytes=3000-", ""]
    server.requests.clear()
    (tmp_path / "images.zip").unlink()
    # What starts at the first byte is taken, and is too short.
    had(server, tmp_path / "images.zip", cut(3000), another, whole, source=Source(server.url(), None, MD5))
    assert [asked for _, asked in server.requests] == ["", "bytes=3000-", "bytes=10-"]


def test_a_file_that_changed_on_the_server_is_received_anew(server: Server, tmp_path: Path) -> None:
    had(server, tmp_path / "images.zip", cut(3000), status(416, Content_Range="bytes */2000"), whole)


def test_a_complete_part_is_enough(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "images.zip"
    refused(server, path, cut(len(CONTENT), len(CONTENT) + 1), status(503), source=Source(server.url(), None, MD5))
    had(server, path, status(416, Content_Range=f"bytes */{len(CONTENT)}"))


@pytest.mark.parametrize("announced", [len(CONTENT) - 1, len(CONTENT) + 1, 1 << 60])
def test_a_wrong_length_is_seen_before_anything_is_received(server: Server, tmp_path: Path, announced: int) -> None:
    reason = refused(server, tmp_path / "images.zip", cut(len(CONTENT), announced))
    assert reason == f"it has {announced:,} bytes and should have 10,240"
    assert list(tmp_path.iterdir()) == []


def test_a_length_that_is_a_lie_is_seen_by_the_checksum(server: Server, tmp_path: Path) -> None:
    reason = refused(server, tmp_path / "images.zip", cut(5000, 5000), source=Source(server.url(), None, MD5))
    assert reason.startswith("its MD5 is ")


def test_more_than_the_disk_holds_is_refused(server: Server, tmp_path: Path) -> None:
    reason = refused(server, tmp_path / "images.zip", cut(10, 1 << 60), source=Source(server.url()))
    assert reason.startswith(f"1152921504.6 GB are needed in {tmp_path}, and ")


@pytest.mark.parametrize("known", [{"sha256": SHA256}, {"md5": MD5}])
def test_damaged_bytes_are_seen_and_thrown_away(server: Server, tmp_path: Path, known: dict[str, str]) -> None:
    def damaged(handler: Handler) -> None:
        handler.head(Content_Length=len(CONTENT))
        handler.wfile.write(CONTENT[:-1] + b"?")

    source = Source(server.url(), len(CONTENT), **known)
    reason = refused(server, tmp_path / "images.zip", damaged, source=source)
    kind = next(iter(known)).upper()
    assert re.fullmatch(f"its {kind} is [0-9a-f]+ and should be {known[kind.lower()]}: .*another file", reason)
    assert list(tmp_path.iterdir()) == []


def test_redirects_are_followed_but_not_in_a_circle(server: Server, tmp_path: Path) -> None:
    had(server, tmp_path / "images.zip", status(302, Location="/a"), status(307, Location="/b"), whole)
    assert [path for path, _ in server.requests] == ["/images.zip", "/a", "/b"]
    other = tmp_path / "other.zip"
    circle = refused(server, other, status(302, Location="/images.zip"))
    assert circle == "the server redirects in a circle, or where one may not go"
    assert refused(server, other, status(302, Location="file:///etc/passwd")) == circle


def test_no_redirect_leaves_encryption() -> None:
    with pytest.raises(UserError, match="redirects from https to http://host/b"):
        transfer._Redirects().redirect_request(Request("https://host/a"), None, 302, "", {}, "http://host/b")


@pytest.mark.parametrize(("code", "reason"), [(404, "404 Not Found"), (403, "403 Forbidden")])
def test_what_is_gone_is_not_asked_for_again(server: Server, tmp_path: Path, code: int, reason: str) -> None:
    assert refused(server, tmp_path / "images.zip", status(code)) == f"the server answers {reason}"
    assert len(server.requests) == 1


def test_a_busy_server_is_asked_again(server: Server, tmp_path: Path) -> None:
    had(server, tmp_path / "images.zip", status(503), status(429), whole)
    reason = refused(server, tmp_path / "other.zip", status(500))
    assert reason == "the server answers 500 Internal Server Error; 4 tries in a row brought nothing new"


CONFIRM = """<!DOCTYPE html><html><head><title>Google Drive - Virus scan warning</title></head><body>
<form id="download-form" action="{action}" method="get"><input type="submit" value="Download anyway"/>
<input type="hidden" name="id" value="1&amp;2"><input type="hidden" name="confirm" value="t"></form></body></html>"""


def test_google_drives_question_is_answered(server: Server, tmp_path: Path) -> None:
    asks = page(CONFIRM.format(action="/download"))
    had(server, tmp_path / "images.zip", asks, cut(100), asks, ranged)
    assert [path for path, _ in server.requests[:2]] == ["/images.zip", "/download?id=1%262&confirm=t"]


def test_a_form_elsewhere_is_not_followed(server: Server, tmp_path: Path) -> None:
    asks = page(CONFIRM.format(action="http://example.org/download"))
    assert refused(server, tmp_path / "images.zip", asks) == (
        "a web page came instead of the file ('Google Drive - Virus scan warning')"
    )
    again = page(CONFIRM.format(action="/again"))
    assert "a web page came" in refused(server, tmp_path / "images.zip", again)
    assert len(server.requests) == 3


@pytest.mark.parametrize("kind", ["text/html", "application/zip"])
def test_a_page_is_no_file_whatever_it_is_called(server: Server, tmp_path: Path, kind: str) -> None:
    text = "<html><title>Sign\x1b in</title>Please sign in</html>"
    source = Source(server.url())
    reason = refused(server, tmp_path / "images.zip", page(text, Content_Type=kind), source=source)
    assert reason == "a web page came instead of the file ('Sign  in')"
    full = page("<html>Sorry: Quota exceeded</html>", Content_Type=kind)
    assert refused(server, tmp_path / "images.zip", full, source=source) == (
        "its host allows no more downloads of this file today"
    )


def test_a_server_that_is_not_there_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "WAITS", (0.0,))
    monkeypatch.setenv("no_proxy", "127.0.0.1,nowhere.invalid")
    with pytest.raises(UserError, match=r"the connection broke: .*Connection refused.*; 2 tries in a row"):
        fetch(Source("http://127.0.0.1:9/images.zip"), tmp_path / "images.zip")
    with pytest.raises(UserError, match="the server cannot be reached: "):
        fetch(Source("http://nowhere.invalid/images.zip"), tmp_path / "images.zip")


def test_a_silent_server_is_given_up(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "TIMEOUT", 0.1)
    monkeypatch.setattr(transfer, "WAITS", ())
    done = threading.Event()

    def silent(handler: Handler) -> None:
        handler.head(Content_Length=len(CONTENT))
        done.wait(10)

    reason = refused(server, tmp_path / "images.zip", silent)
    done.set()
    assert "timed out" in reason
