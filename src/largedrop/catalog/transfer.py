"""One file over HTTP: goes on where it was cut, and believes a server only what it can check."""

from __future__ import annotations

import hashlib
import http.client
import re
import shutil
import socket
import ssl
import time
from collections.abc import Mapping
from contextlib import closing
from html.parser import HTMLParser
from http.cookiejar import CookieJar
from pathlib import Path
from typing import Any, BinaryIO
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode, urljoin, urlsplit
from urllib.request import HTTPCookieProcessor, HTTPRedirectHandler, OpenerDirector, Request, build_opener

from .._version import __version__
from ..errors import UserError
from ..files import read_json, write_json
from .facts import Source

__all__ = ["PART", "Watcher", "check", "fetch"]

PART = ".part"
"""Suffix of a file that is not complete; beside it a JSON file says what it is a part of."""

TIMEOUT = 30.0
"""Seconds without a byte after which a connection counts as cut."""

WAITS = (0.5, 2.0, 5.0, 15.0)
"""Seconds before each further try; after as many tries without a new byte the source is given up."""

_CHUNK = 1 << 20

_PAGE = 1 << 20
"""The most bytes that are read of a web page."""


class Watcher:
    """Is told what a download does; this one ignores it."""

    def begin(self, name: str, had: int, total: int | None) -> None:
        """The file ``name`` of ``total`` bytes (None where that is not known) is received, but the first ``had``."""

    def received(self, count: int) -> None:
        """``count`` more bytes are on disk."""

    def unpack(self, images: int | None) -> None:
        """About so many images are now unpacked (None where it is not known)."""

    def unpacked(self) -> None:
        """One more image is unpacked."""

    def note(self, text: str) -> None:
        """``text`` is a line for the user."""


class _Cut(Exception):  # noqa: N818  # said to nobody
    """A connection broke; what was received is kept, and another try may go on."""


class _Redirects(HTTPRedirectHandler):
    """Follows redirects, but none from an encrypted connection to one that is not."""

    def redirect_request(self, req: Request, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Request | None:
        if req.type == "https" and urlsplit(newurl).scheme != "https":
            raise UserError(f"redirects from https to {newurl}")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def fetch(source: Source, path: Path, watch: Watcher | None = None) -> None:
    """Download ``source`` to ``path``, which then has its size and checksum, where they are known.

    What an earlier call received is not received again, where the server can send the rest and the result can be
    checked. Google Drive's page that asks to confirm a large file is confirmed.

    Args:
        source: what to download.
        path: file to write; while it is not complete, its name has ``PART`` appended.
        watch: is told what is received.

    Raises:
        UserError: the source cannot be had, or is another file than it should be; the message is its reason. What was
            received is kept where it can be gone on with.
    """
    watch = watch or Watcher()
    part = path.with_name(path.name + PART)
    opener = build_opener(_Redirects, HTTPCookieProcessor(CookieJar()))
    most = failures = 0
    while True:
        try:
            _receive(opener, source, part, path.name, watch)
            break
        except _Cut as error:
            size = _size(part)
            failures = 0 if size > most else failures + 1
            most = max(most, size)
            if failures > len(WAITS):
                raise UserError(f"{error}; {failures} tries in a row brought nothing new") from error
            time.sleep(WAITS[max(failures - 1, 0)])
    try:
        check(source, part)
    except UserError:
        _forget(part)
        raise
    part.replace(path)
    _forget(part)


def check(source: Source, path: Path) -> None:
    """Raise UserError unless ``path`` has the size and the checksums of ``source`` that are known."""
    size = path.stat().st_size
    if source.size is not None and size != source.size:
        raise UserError(f"it has {size:,} bytes and should have {source.size:,}")
    for kind, expected in (("sha256", source.sha256), ("md5", source.md5)):
        if expected:
            with open(path, "rb") as file:
                found = _digest(file, kind)
            if found != expected:
                raise UserError(
                    f"its {kind.upper()} is {found} and should be {expected}: it is damaged, or another file"
                )
            return


def _digest(file: BinaryIO, kind: str) -> str:
    digest = hashlib.new(kind, usedforsecurity=False)
    while block := file.read(_CHUNK):
        digest.update(block)
    return digest.hexdigest()


def _receive(opener: OpenerDirector, source: Source, part: Path, name: str, watch: Watcher) -> None:
    """Receive the rest of ``part``; raises ``_Cut`` where another try may bring more."""
    known = _known(source, part)
    had = _size(part) if known is not None else 0
    headers = {"Range": f"bytes={had}-"} if had else {}
    if had and known:
        headers["If-Range"] = known
    try:
        response = _open(opener, source.url, headers)
        with closing(response):
            first, total = _announced(response)
            if first not in (0, had):
                _forget(part)
                raise _Cut(f"the server was asked for the bytes from {had:,} and sends others")
            had = first
            if source.size is not None and total not in (None, source.size):
                raise UserError(f"it has {total:,} bytes and should have {source.size:,}")
            _check_room(part, (total or 0) - had)
            _remember(part, source, response)
            watch.begin(name, had, total)
            _append(response, part, had, total, watch)
    except HTTPError as error:
        with closing(error):
            if error.code == 416 and had:  # nothing is left to send, or the file has changed
                if error.headers.get("Content-Range", "").rpartition("/")[2] == str(had):
                    return
                _forget(part)
                raise _Cut("the file on the server has changed") from error
            if error.code in (408, 429) or error.code >= 500:
                raise _Cut(f"the server answers {error.code} {error.reason}") from error
            if 300 <= error.code < 400:
                raise UserError("the server redirects in a circle, or where one may not go") from error
            raise UserError(f"the server answers {error.code} {error.reason}") from error
    except (URLError, OSError, http.client.HTTPException) as error:
        reason = error.reason if isinstance(error, URLError) else error
        if isinstance(reason, (socket.gaierror, ssl.SSLCertVerificationError)):
            raise UserError(f"the server cannot be reached: {reason}") from error
        raise _Cut(f"the connection broke: {reason or type(error).__name__}") from error


def _append(response: http.client.HTTPResponse, part: Path, had: int, total: int | None, watch: Watcher) -> None:
    try:
        file = open(part, "r+b" if had else "wb")  # noqa: SIM115  # closed just below
    except OSError as error:
        raise UserError(f"cannot write {part}: {error.strerror or error}") from error
    with file:
        file.seek(had)
        file.truncate()
        size = had
        while block := response.read(_CHUNK):
            if not size and _is_page(block):
                raise UserError(_reason(block))
            try:
                file.write(block)
            except OSError as error:
                raise UserError(f"cannot write {part}: {error.strerror or error}") from error
            size += len(block)
            watch.received(len(block))
            if total is not None and size > total:
                raise UserError(f"more than the {total:,} bytes came that the server announced")
    if total is not None and size < total:
        raise _Cut(f"{size:,} of {total:,} bytes came, then the server closed the connection")


def _open(opener: OpenerDirector, url: str, headers: Mapping[str, str]) -> http.client.HTTPResponse:
    """The answer with the file; a page that asks to confirm the download is confirmed once."""
    every = {"User-Agent": f"largedrop/{__version__}", "Accept-Encoding": "identity", **headers}
    response: http.client.HTTPResponse = opener.open(Request(url, headers=every), timeout=TIMEOUT)
    if response.headers.get_content_type() != "text/html":
        return response
    with closing(response):
        page = response.read(_PAGE)
    confirmed = _confirmed(page, response.url)
    if confirmed is None:
        raise UserError(_reason(page))
    again: http.client.HTTPResponse = opener.open(Request(confirmed, headers=every), timeout=TIMEOUT)
    if again.headers.get_content_type() == "text/html":
        with closing(again):
            raise UserError(_reason(again.read(_PAGE)))
    return again


class _Form(HTMLParser):
    """The form of a page with the id ``download-form``, as Google Drive has it."""

    def __init__(self) -> None:
        super().__init__()
        self.action: str | None = None
        self.fields: dict[str, str] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if tag == "form" and found.get("id") == "download-form":
            self.action = found.get("action") or ""
        elif tag == "input" and self.action is not None and found.get("name"):
            self.fields[found["name"] or ""] = found.get("value") or ""


def _confirmed(page: bytes, url: str) -> str | None:
    """The address behind a page's form, if it is on the same host or Google's."""
    form = _Form()
    form.feed(page.decode("utf-8", "replace"))
    if form.action is None:
        return None
    target = urlsplit(urljoin(url, form.action))
    host = target.hostname or ""
    if host != urlsplit(url).hostname and not re.search(r"(^|\.)google(usercontent)?\.com$", host):
        return None
    if target.scheme != urlsplit(url).scheme:
        return None
    joined = "&".join(filter(None, (target.query, urlencode(form.fields))))
    return target._replace(query=joined).geturl()


def _is_page(start: bytes) -> bool:
    return start.lstrip()[:14].lower().startswith((b"<!doctype html", b"<html"))


def _reason(page: bytes) -> str:
    """What to say of a web page that came instead of a file."""
    text = page.decode("utf-8", "replace")
    if re.search("quota exceeded|too many users", text, re.I):
        return "its host allows no more downloads of this file today"
    title = re.search(r"<title[^>]*>([^<]{1,80})", text, re.I)
    shown = "".join(each if each.isprintable() else " " for each in title[1]).strip() if title else ""
    return "a web page came instead of the file" + (f" ('{shown}')" if shown else "")


def _announced(response: http.client.HTTPResponse) -> tuple[int, int | None]:
    """The index of an answer's first byte (−1 where it is not said), and the whole file's size where that is said."""
    if response.status != 206:
        length = response.headers.get("Content-Length", "")
        return 0, int(length) if length.isdigit() else None
    found = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", response.headers.get("Content-Range", "").strip())
    if not found:
        return -1, None
    return int(found[1]), int(found[2]) + 1 if found[3] == "*" else int(found[3])


def _check_room(part: Path, needed: int) -> None:
    free = shutil.disk_usage(part.parent).free
    if needed > free:
        raise UserError(f"{needed / 1e9:.1f} GB are needed in {part.parent}, and {free / 1e9:.1f} GB are free")


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _note(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _remember(part: Path, source: Source, response: http.client.HTTPResponse) -> None:
    """Note what ``part`` is a part of: its address, and the name that the server has for its contents."""
    tag = response.headers.get("ETag", "")
    name = tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified", "")
    write_json(_note(part), {"url": source.url, "contents": name})


def _known(source: Source, part: Path) -> str | None:
    """The server's name for the contents of ``part``; None where it cannot be gone on with.

    Without such a name the rest may be another file's, which only a checksum would find.
    """
    if not _size(part) or not _note(part).is_file():
        return None
    note = read_json(_note(part))
    name = str(note.get("contents", ""))
    return name if note.get("url") == source.url and (name or source.md5 or source.sha256) else None


def _forget(part: Path) -> None:
    part.unlink(missing_ok=True)
    _note(part).unlink(missing_ok=True)
