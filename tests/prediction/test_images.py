"""Which images are predicted: files, folders and patterns, and which of them once."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest
from tests.helpers import refusal

from largedrop.data.inside import Inside
from largedrop.data.passed_over import PassedOver
from largedrop.prediction.images import find_images, place_of


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of which only the names count."""
    monkeypatch.chdir(tmp_path)
    for name in ("photos/b.jpg", "photos/in/a.PNG", "photos/in/notes.txt", "[x].jpg", "more/c.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "void").mkdir()


@pytest.mark.parametrize(
    ("sources", "found"),
    [
        (["photos"], ["photos/b.jpg", "photos/in/a.PNG"]),
        (["photos/in/notes.txt", "more"], ["photos/in/notes.txt", "more/c.png"]),
        (["photos/in", "photos"], ["photos/in/a.PNG", "photos/b.jpg"]),
        (["*/*.??g"], ["more/c.png", "photos/b.jpg"]),
        (["**/*.png"], ["more/c.png"]),
        (["*o*"], ["more/c.png", "photos/b.jpg", "photos/in/a.PNG"]),
        (["[x].jpg"], ["[x].jpg"]),
        ([Path("more"), "./more/c.png"], ["more/c.png", "./more/c.png"]),
    ],
)
def test_sources_become_one_list(sources: list[str | Path], found: list[str]) -> None:
    assert find_images(sources) == found


def test_a_pattern_may_match_an_empty_folder_beside_images() -> None:
    assert find_images(["[mv]*"]) == ["more/c.png"]


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("void", "there is no image in void: no file with an image's suffix, such as .jpg or .png"),
        ("v*d", "there is no image in v*d: no file with an image's suffix, such as .jpg or .png"),
        ("none.jpg", "there is no file or folder none.jpg"),
        ("none/*.jpg", "nothing matches none/*.jpg"),
        ("x" * 300, f"{'x' * 300} cannot be read: File name too long"),
    ],
)
def test_a_source_that_gives_nothing_is_refused(source: str, said: str) -> None:
    assert refusal(find_images, ["photos", source]) == said


def test_no_sources() -> None:
    assert refusal(find_images, []) == "no images are named"
    assert refusal(find_images, [""]) == "the name of a file or folder is empty"


def test_a_link_that_leads_nowhere_is_an_image_like_others() -> None:
    Path("dead.png").symlink_to("nowhere.png")
    assert find_images(["photos/b.jpg", "dead.png"]) == ["photos/b.jpg", "dead.png"]


def test_a_table_gives_its_column_of_paths(tmp_path: Path) -> None:
    Path("lists").mkdir()
    Path("lists/some.csv").write_text("label,path\ncat,../photos/b.jpg\n,gone.jpg\ndog,../photos/b.jpg\n")
    assert find_images(["lists/some.csv", "more"]) == [
        *("lists/../photos/b.jpg", "lists/gone.jpg", "lists/../photos/b.jpg"),
        "more/c.png",
    ]
    Path("lists/some.jsonl").write_text(f'{{"file_name": "{tmp_path}/[x].jpg"}}\n{{"file_name": "y.png"}}\n')
    assert find_images(["lists/some.jsonl"]) == [f"{tmp_path}/[x].jpg", "lists/y.png"]
    Path("lists/other.tsv").write_text("where\tsize\na.png\t3\n")
    assert find_images(["lists/other.tsv"], columns={"path": "where"}) == ["lists/a.png"]
    said = refusal(find_images, ["lists/other.tsv"])
    assert said == (
        "lists/other.tsv has no column 'path', only where, size; --column WHAT=NAME says which it is".replace(
            "WHAT", "path"
        )
    )
    said = refusal(find_images, ["lists/other.tsv"], columns={"label": "size"})
    assert said == "of a table only the paths are read, so no column can be named for the label"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("path\n", "rows.csv has no rows"),
        ("path,n\n,1\na.png,2\n ,3\n", "rows.csv: line 2 has no path\n  line 4 has no path"),
        ("path\na.png,b\n", "rows.csv: line 2 has 2 values in 1 columns; a value with ',' in it needs quotes"),
        ("", "rows.csv is empty"),
    ],
)
def test_rows_without_a_path_are_told(content: str, said: str) -> None:
    Path("rows.csv").write_text(content)
    assert refusal(find_images, ["rows.csv"]) == said


@pytest.mark.parametrize("labels", [2, 1, 0])
def test_archives_give_the_images_in_them(tmp_path: Path, labels: int) -> None:
    Path("shards").mkdir()
    with tarfile.open("shards/0.tar", "w") as archive:
        members = (("a.png", b"pixels"), ("b.png", b"more"), *(("a.cls", b"1"), ("b.cls", b"0"))[:labels])
        for name, content in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    for source in ("shards/0.tar", "shards"):
        passed = PassedOver()
        found = find_images([source], passed)
        assert list(passed.notes()) == []
        assert sorted(each.read() for each in found if isinstance(each, Inside)) == [b"more", b"pixels"]
        assert str(found[0]).endswith("0.tar: a.png")
    assert "there is no file" in refusal(find_images, ["none.tar"])


def test_a_table_written_on_windows(tmp_path: Path) -> None:
    Path("rows.csv").write_text("path\nphotos\\in\\a.PNG\nno\\where.png\n")
    assert find_images(["rows.csv"]) == ["photos/in/a.PNG", "no\\where.png"]


def test_what_is_elsewhere_is_fetched_and_keeps_its_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fsspec = pytest.importorskip("fsspec")
    monkeypatch.setenv("LARGEDROP_CACHE", str(tmp_path / "cache"))
    system = fsspec.filesystem("memory")
    for name, content in (("p/a.png", b"a"), ("p/b/c.png", b"c"), ("p/t.csv", b"path\nb/c.png\nphotos/none.png\n")):
        system.pipe_file(f"/{name}", content)
    try:
        for source, names in (
            ("memory://p/a.png", ["a.png"]),
            ("memory://p/t.csv", ["b/c.png", "photos/none.png"]),
            ("memory://p", ["a.png", "b/c.png"]),
        ):
            found = find_images([source])
            assert list(map(str, found)) == [f"memory://p/{name}" for name in names]
            first = place_of(found[0])
            assert isinstance(first, Path)
            assert first.read_bytes() == (b"c" if source.endswith("csv") else b"a")
        Path("here.csv").write_text("path\nmemory://p/a.png\nphotos/b.jpg\nmemory://p/no.png\n")
        here = find_images(["here.csv"])
        assert list(map(str, here)) == ["memory://p/a.png", "photos/b.jpg", "memory://p/no.png"]
        assert [Path(str(place_of(each))).is_file() for each in here] == [True, True, False]
        assert refusal(find_images, ["memory://p/no.csv"]).startswith("there is no table memory://p/no.csv")
    finally:
        system.store.clear()
