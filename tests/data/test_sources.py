"""Which kind of source a name is."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.data.archives import archive, png
from tests.helpers import make_toy, refusal

from largedrop.data.sources import find_source


def test_kinds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy = make_toy(tmp_path / "toy", images=2)
    (tmp_path / "t.csv").write_text("path,label\ntoy/photo/circle/0.png,x\n")
    archive(tmp_path / "s.tar", {"a.png": png(1), "a.cls": "1"})
    monkeypatch.chdir(tmp_path)
    assert find_source("toy", {}).root == toy
    assert find_source(Path("t.csv"), {}).name == "t"
    assert find_source("s.tar", {}).name == "s"
    (tmp_path / "x.tar").mkdir()
    assert refusal(find_source, "y.tar", {}) == "there is no file y.tar"
    assert "found no folders" in find_source("x.tar", {}).problems[0]
    assert refusal(find_source, "toy", {"label": "x"}).startswith("columns are named for tables (.csv, ")


def test_a_folder_with_archives_beside_folders_is_one_of_folders(tmp_path: Path) -> None:
    toy = make_toy(tmp_path / "toy", images=2)
    archive(toy / "all.tar", {"a.png": png(1), "a.cls": "1"})
    assert len(find_source(toy, {}).images) > 1


def test_images_beside_archives_are_told_of(tmp_path: Path) -> None:
    archive(tmp_path / "a.tar", {"a.png": png(1), "a.cls": "1"})
    before = find_source(tmp_path, {}).notes
    for name in ("one.png", "TWO.JPG", "readme.txt"):
        (tmp_path / name).write_bytes(png(1))
    told = f"images of {tmp_path} that lie beside its tar archives are not read: 2"
    assert find_source(tmp_path, {}).notes == (*before, told)


@pytest.mark.parametrize(("source", "kind"), [(["a.png", "b.png"], "list"), (None, "NoneType")])
def test_what_is_no_source_is_named(source: object, kind: str) -> None:
    expected = f"images are opened from a path, an address or a data frame, not from a {kind}"
    assert refusal(find_source, source, {}) == expected
