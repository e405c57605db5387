"""Parquet files that hold the images themselves."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tests.helpers import refusal

import largedrop as ld
from largedrop.data import parquet
from largedrop.data.parquet import as_arrow, holds_images, parquets_in
from largedrop.files import file_crc
from largedrop.prediction.images import find_images

pyarrow = pytest.importorskip("pyarrow")
datasets = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LARGEDROP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def png(red: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (8, 8), (red, 0, 0)).save(out, "PNG")
    return out.getvalue()


def rows(count: int = 8, start: int = 0) -> dict[str, list[Any]]:
    return {
        "image": [{"bytes": png(10 * (start + n)), "path": None} for n in range(count)],
        "label": [n % 2 for n in range(count)],
        "domain": ["ab"[n // 2 % 2] for n in range(count)],
    }


def write(path: Path, content: dict[str, list[Any]], features: bool = True) -> Path:
    """As ``datasets`` writes it, or as any other writer would: no words on what the columns are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if features:
        kinds = {"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])}
        own = {"domain": datasets.Value("string")} if "domain" in content else {}
        datasets.Dataset.from_dict(content, features=datasets.Features({**kinds, **own})).to_parquet(str(path))
    else:
        pyarrow.parquet.write_table(pyarrow.table(content), path, row_group_size=3)
    return path


def reds(data: ld.Dataset) -> list[int]:
    return [int(data.images[n][0, 0, 0]) for n in range(len(data))]


def test_an_image_is_named_by_the_file_that_was_given(tmp_path: Path) -> None:
    content = rows()
    content["image"][3]["bytes"] = b"no image"
    file = write(tmp_path / "pets.parquet", content)
    assert str(find_images([file])[1]) == f"{file}: 0000001"
    assert f"{file}: 0000003: not an image" in refusal(ld.open_dataset, file)


@pytest.mark.parametrize("features", [True, False])
def test_images_in_parquet(tmp_path: Path, cache: Path, features: bool) -> None:
    file = write(tmp_path / "pets.parquet", rows(), features)
    data = ld.open_dataset(file)
    assert (data.name, data.domains) == ("pets", ("a", "b"))
    assert data.classes == (("cat", "dog") if features else ("0", "1"))
    assert data.keys[:3] == tuple(f"a/{data.classes[n % 2]}/{at:07d}" for n, at in ((0, 0), (0, 4), (1, 1)))
    assert reds(data) == [0, 40, 10, 50, 20, 60, 30, 70]
    (copy,) = (cache / "arrow").glob("*.arrow")
    stamp = copy.stat().st_mtime_ns
    assert ld.open_dataset(file).fingerprint == data.fingerprint
    assert copy.stat().st_mtime_ns == stamp
    write(file, rows(start=8), features)
    assert reds(ld.open_dataset(file))[0] == 80
    assert [each.name for each in (cache / "arrow").glob("*.arrow")] != [copy.name]
    assert len(list((cache / "arrow").iterdir())) == 2
    assert len(find_images([file])) == 8


def test_columns_of_bytes_and_paths(tmp_path: Path) -> None:
    content = {"photo": [png(n) for n in range(4)], "kind": list("xyxy"), "path": list("abcd")}
    file = tmp_path / "t.parquet"
    for kind in ("binary", "large_binary", "binary_view"):
        columns = {**content, "photo": pyarrow.array(content["photo"], getattr(pyarrow, kind)())}
        try:
            pyarrow.parquet.write_table(pyarrow.table(columns), file)
        except pyarrow.ArrowNotImplementedError:  # pyarrow reads views before it writes them
            assert kind == "binary_view"
            continue
        named = {"path": "photo", "label": "kind"}
        assert reds(ld.open_dataset(file, columns=named)) == [0, 2, 1, 3]
        assert not holds_images(file, {})
        assert len(find_images([file], columns={"path": "photo"})) == 4
    lost: dict[str, list[Any]] = {
        "image": [{"bytes": png(1), "path": None}, {"bytes": None, "path": None}],
        "label": ["p", "q"],
    }
    assert refusal(ld.open_dataset, write(tmp_path / "lost.parquet", lost, features=False)).endswith(
        ": row 1 has no path"
    )
    (tmp_path / "there.png").write_bytes(png(9))
    mixed: dict[str, list[Any]] = {
        "image": [{"bytes": png(1), "path": "x/a.png"}, {"bytes": None, "path": "there.png"}],
        "label": ["p", "q"],
    }
    data = ld.open_dataset(write(tmp_path / "mixed.parquet", mixed, features=False))
    assert (data.keys, reds(data)) == (("all/p/0000000/a.png", "all/q/there.png"), [1, 9])


def test_files_of_a_dataset_as_the_hub_has_them(tmp_path: Path) -> None:
    without = rows()
    del without["domain"]
    root = tmp_path / "pets"
    write(root / "data" / "train-00000-of-00002.parquet", without)
    write(root / "data" / "train-00001-of-00002.parquet", {**without, "image": rows(start=8)["image"]})
    hidden = {**without, "label": [-1] * 8, "image": rows(start=16)["image"]}
    write(root / "data" / "test-00000-of-00001.parquet", hidden)
    (root / "README.md").write_text("pets")
    data = ld.open_dataset(root)
    assert (data.name, data.domains, len(data)) == ("pets", ("all",), 16)
    assert data.notes[1].startswith("no label: 8 of 24 images of 'all' (row 0 (test), ")
    assert len(find_images([root])) == 24
    assert len(parquets_in(root)) == 3
    (root / "other").mkdir()
    assert parquets_in(root) == []


def test_parquet_that_is_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path / "t.parquet", rows(40), features=False)
    whole = file.read_bytes()
    file.write_bytes(whole[:200] + bytes(400) + whole[600:])
    assert refusal(as_arrow, file, None).startswith(f"{file} cannot be read as Parquet: ")
    file.write_bytes(whole[:-9])
    assert refusal(ld.open_dataset, file).startswith(f"{file} cannot be read as Parquet: ")
    file.write_bytes(whole)
    (tmp_path / "file").write_text("")
    said = refusal(as_arrow, file, tmp_path / "file")
    assert said.startswith(f"cannot write a copy of Parquet's images in {tmp_path}/file/arrow: Not a directory; set ")


def test_a_copy_that_was_changed_is_made_again(tmp_path: Path, cache: Path) -> None:
    file = write(tmp_path / "pets.parquet", rows())
    data = ld.open_dataset(file)
    (copy,) = (cache / "arrow").glob("*.arrow")
    content = copy.read_bytes()
    assert content.count(png(40)) == 1
    places = [*range(0, len(content), 97), content.index(png(40)) + 60]
    for place in places:
        copy.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        assert as_arrow(file, cache).read_bytes() == content
    for change in (lambda path: path.unlink(), lambda path: path.write_text("{"), lambda path: path.write_text("{}")):
        change(copy.with_suffix(".json"))
        assert as_arrow(file, cache) == copy
    found = ld.open_dataset(file)
    assert (found.fingerprint, list(found.labels), reds(found)) == (data.fingerprint, list(data.labels), reds(data))


def test_a_copy_whose_stamp_alone_has_changed_is_compared_once(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path / "pets.parquet", rows())
    copy = as_arrow(file, cache)
    compared: list[Path] = []
    monkeypatch.setattr(parquet, "file_crc", lambda path: [compared.append(path), file_crc(path)][1])
    before = copy.stat().st_ino
    os.utime(copy, (1, 1))
    for _ in range(2):
        assert as_arrow(file, cache).stat().st_ino == before
    assert compared == [copy]
