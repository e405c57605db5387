"""Tar archives in WebDataset's layout."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.data.archives import archive, png
from tests.helpers import refusal

import largedrop as ld
from largedrop.data.listing import Listing, make_listing
from largedrop.data.shards import is_shards, shards_in
from largedrop.data.sources import find_source


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two shards of two images of two classes each, with json."""
    for shard in range(2):
        members: dict[str, Any] = {}
        for number in range(4):
            key, label = f"./part.1/im{shard}{number}", ("cat", "dog")[number % 2]
            about = {"label": label, "domain": ("day", "night")[shard], "group": number // 2, "split": "train"}
            members |= {f"{key}.png": png(40 * shard + 10 * number), f"{key}.json": about}
        archive(tmp_path / "shards" / f"s-{shard:02}.tar", members)
    return tmp_path / "shards"


def listed(source: str | Path, **columns: str) -> Listing:
    return make_listing(find_source(source, columns))


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("s.tar", ["s.tar"]),
        ("s-{9..11}.tar", ["s-9.tar", "s-10.tar", "s-11.tar"]),
        ("s-{008..010}.tar", ["s-008.tar", "s-009.tar", "s-010.tar"]),
        ("{a,b}/{0..1}.tar", ["a/0.tar", "a/1.tar", "b/0.tar", "b/1.tar"]),
    ],
)
def test_patterns(pattern: str, names: list[str]) -> None:
    assert shards_in(pattern) == names
    assert is_shards(pattern)


def test_every_field_and_every_pixel(root: Path, tmp_path: Path) -> None:
    pattern = f"{root}/s-{{00..01}}.tar"
    listing = listed(pattern)
    assert (listing.classes, listing.domains, listing.name) == (("cat", "dog"), ("day", "night"), "s-00")
    assert listing.keys[:3] == ("day/cat/part.1/im00.png", "day/cat/part.1/im02.png", "day/dog/part.1/im01.png")
    assert listing.groups is not None
    assert listing.parts is not None
    assert (listing.groups.tolist(), listing.parts.tolist()) == ([0, 1, 0, 1] * 2, [0] * 8)
    data = ld.open_dataset(pattern, cache=tmp_path / "cache")
    assert [int(data.images[n][0, 0, 0]) for n in range(8)] == [0, 20, 10, 30, 40, 60, 50, 70]
    again = ld.open_dataset(root, cache=tmp_path / "cache")
    assert (again.fingerprint, again.name) == (data.fingerprint, "shards")
    assert len(list((tmp_path / "cache" / "images").iterdir())) == 1
    # One archive that has been packed anew, with one image changed.
    archive(
        root / "s-01.tar", {"./part.1/im10.png": png(99), "./part.1/im10.json": {"label": "cat", "domain": "night"}}
    )
    changed = ld.open_dataset(root, columns={"split": "", "group": ""}, cache=tmp_path / "cache")
    assert (len(changed), int(changed.images[4][0, 0, 0])) == (5, 99)


def test_classes_alone(tmp_path: Path) -> None:
    members: dict[str, Any] = {f"{n}.jpeg.png": png(n) for n in range(4)} | {f"{n}.cls": f"{n % 2}\n" for n in range(4)}
    listing = listed(archive(tmp_path / "x.tar", members))
    assert (listing.classes, listing.keys[0], listing.name) == (("0", "1"), "all/0/0.jpeg.png", "x")
    assert listing.notes[0].startswith("domains: no column says")
    both = {**members, **{f"{n}.json": {"label": "cat", "species": "abcd"[n]} for n in range(4)}}
    assert listed(archive(tmp_path / "x.tar", both), label="cls").classes == ("0", "1")
    assert listed(archive(tmp_path / "x.tar", both), label="species").classes == tuple("abcd")
    assert refusal(listed, tmp_path / "x.tar", label="kind").startswith(
        f"{tmp_path}/x.tar has no column 'kind', only path, cls, label, species; "
    )


def test_all_that_is_wrong_is_told(root: Path, tmp_path: Path) -> None:
    members: dict[str, Any] = {
        "a.png": png(1), "a.cls": "1", "b.cls": "1", "c.png": png(2), "d.png": png(3), "d.json": "[1]",
        "e.png": png(4), "e.cls": b"\xff", "f.png": png(5), "f.jpg": png(6), "f.cls": "2", "README": "x",
        ".hidden.png": "",
    }  # fmt: skip
    lines = refusal(listed, archive(tmp_path / "x.tar", members)).splitlines()
    assert lines[0] == f"{tmp_path}/x.tar has 4 problems:"
    assert [line.strip() for line in lines[1:]] == [
        "x.tar: d: its json is no object",
        "x.tar: e: its cls cannot be read: 'utf-8' codec can't decode byte 0xff in position 0: invalid …",
        "x.tar: f has several images",
        "x.tar: b has no image",
    ]
    some: dict[str, Any] = {f"{name}.png": png(number) for number, name in enumerate("abc")} | {
        "a.cls": "1",
        "b.cls": "2",
    }
    assert listed(archive(tmp_path / "y.tar", some)).notes[1:] == (
        "no label: 1 of 3 images of 'all' (y.tar: c), left out",
    )
    same = archive(tmp_path / "twice" / "s-02.tar", {"a.png": png(1), "a.cls": "1"})
    archive(same.with_name("s-03.tar"), {"a.png": png(1), "a.cls": "1", "b.png": png(2), "b.cls": "2"})
    assert refusal(listed, same.parent).endswith("s-03.tar: a lists a.png, which s-02.tar: a lists already")


def test_archives_that_are_none(root: Path, tmp_path: Path) -> None:
    assert refusal(listed, root / "s-{01..03}.tar") == f"there is no file {root}/s-02.tar, nor 1 more"
    (tmp_path / "x.tar").write_bytes(b"no tar archive")
    assert refusal(listed, tmp_path / "x.tar") == f"{tmp_path}/x.tar cannot be read as a tar archive: truncated header"
    packed = archive(tmp_path / "x.tar.gz", {"a.png": png(1)}, "w:gz")
    assert refusal(listed, packed) == (
        f"{packed} is compressed, so no image in it can be found without reading all; unpack it to .tar"
    )
    packed.rename(tmp_path / "y.tar")
    assert "cannot be read as a tar archive" in refusal(listed, tmp_path / "y.tar")
    empty = archive(tmp_path / "z.tar", {"README": "x"})
    assert refusal(listed, empty) == f"{empty} holds no images (key.jpg with key.cls or key.json)"
    whole = (root / "s-01.tar").read_bytes()
    last = whole.rindex(b"\x89PNG")
    (root / "s-01.tar").write_bytes(whole[: last + 20])
    said = refusal(listed, root)
    assert said == f"{root}/s-01.tar cannot be read as a tar archive: unexpected end of data"


@pytest.mark.parametrize(
    ("cut", "said"),
    [
        (lambda whole, second: whole[:second], "cut"),
        (lambda whole, second: whole[: second + 100], "cut"),
        (lambda whole, second: whole[:second] + b"x" * 512 + whole[second + 512 :], "cut"),
        (lambda whole, second: whole + whole, "several"),
    ],
    ids=["between two files", "in a header", "a damaged header", "two archives in one"],
)
def test_what_tarfile_takes_for_the_end_is_one(root: Path, cut: Any, said: str) -> None:
    shard = root / "s-01.tar"
    with tarfile.open(shard) as file:
        second = file.getmembers()[2].offset
    shard.write_bytes(cut(shard.read_bytes(), second))
    assert (
        refusal(listed, shard)
        == {
            "cut": f"{shard} is cut or damaged after 2 files: make it or fetch it again",
            "several": f"{shard} is several archives in one, of which only the first would be read: split it",
        }[said]
    )


def test_ranges_that_are_none() -> None:
    assert refusal(shards_in, "s-{003..000}.tar") == "{003..000} must count upwards, through at most 1,000,000 archives"
    assert refusal(shards_in, "s-{0..99999999}.tar").startswith("{0..99999999} must count upwards")
    assert refusal(shards_in, "{0..9999}-{0..9999}.tar").endswith(" stands for more than 1,000,000 archives")


def test_an_image_in_an_archive_that_is_damaged_is_named(tmp_path: Path) -> None:
    members: dict[str, Any] = {
        "a.png": b"",
        "a.cls": "x",
        "b.png": b"PNG?",
        "b.cls": "y",
        "c.png": png(1),
        "c.cls": "x",
    }
    path = archive(tmp_path / "x.tar", {**members, "d.png": png(2), "d.cls": "y"})
    assert refusal(ld.open_dataset, path, cache=tmp_path / "cache").splitlines()[1:] == [
        f"  {path}: a.png: the image is empty",
        f"  {path}: b.png: not an image of a known format",
    ]
    data = ld.open_dataset(path, cache=tmp_path / "cache", skip_bad_images=True)
    assert data.keys == ("all/x/c.png", "all/y/d.png")
    np.testing.assert_array_equal(data.images[1][0, 0], [2, 0, 0])


def test_holes_fill_no_memory(tmp_path: Path) -> None:
    """GNU tar stores a file of many zeros without them: its size is no number of bytes that are there."""
    path = archive(tmp_path / "x.tar", {"a.png": png(1), "a.cls": "cat", "b.png": png(2), "b.cls": "dog"})
    content = bytearray(path.read_bytes())
    for name in (b"a.png", b"b.cls"):
        at = content.index(name)
        content[at + 156 : at + 157] = tarfile.GNUTYPE_SPARSE
        content[at + 483 : at + 495] = b"77777777777\0"  # the size with its holes: 8 GiB
        content[at + 148 : at + 156] = b" " * 8
        content[at + 148 : at + 156] = b"%06o\0 " % sum(content[at : at + 512])
    path.write_bytes(content)
    said = refusal(listed, path)
    assert "x.tar: a: its png is stored with holes, which are not filled" in said
    assert "x.tar: b: its cls is larger than 16 MiB" in said
