"""Datasets as Hugging Face stores them."""

from __future__ import annotations

import builtins
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tests.helpers import refusal

import largedrop as ld
from largedrop.data.huggingface import tables_of
from largedrop.data.listing import Listing, make_listing
from largedrop.data.sources import find_source

datasets = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    datasets.utils.disable_progress_bar()
    monkeypatch.setenv("LARGEDROP_CACHE", str(tmp_path / "cache"))


def listed(source: str | Path, **columns: str) -> Listing:
    return make_listing(find_source(source, columns))


def features(**more: Any) -> Any:
    return datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"]), **more})


def made(count: int = 6, start: int = 0, **columns: list[Any]) -> Any:
    """Images whose red is 10 times their number, of two classes in turn."""
    kinds = {name: datasets.Value("string") for name in columns}
    images = [Image.new("RGB", (8, 8), (10 * (start + number), 0, 0)) for number in range(count)]
    content = {"image": images, "label": [number % 2 for number in range(count)], **columns}
    return datasets.Dataset.from_dict(content, features=features(**kinds))


def test_a_dataset_that_was_saved(tmp_path: Path) -> None:
    made(domain=list("aabbab"), group=list("xxyzyz")).save_to_disk(str(tmp_path / "pets"), num_shards=2)
    listing = listed(tmp_path / "pets")
    assert (listing.domains, listing.classes, listing.name) == (("a", "b"), ("cat", "dog"), "pets")
    assert listing.keys[:3] == ("a/cat/0000000", "a/cat/0000004", "a/dog/0000001")
    data = ld.open_dataset(tmp_path / "pets")
    assert [int(image[0, 0, 0]) for image in (data.images[n] for n in range(6))] == [0, 40, 10, 20, 30, 50]
    assert data.groups.tolist() == [0, 1, 0, 1, 2, 2]
    assert listed(tmp_path / "pets", domain="group", group="").domains == ("x", "y", "z")
    assert refusal(listed, tmp_path / "pets", label="kind") == (
        f"{tmp_path}/pets has no column 'kind', only image, label, domain, group; --column label=NAME says which it is"
    )
    assert refusal(listed, tmp_path / "pets", path="domain") == (
        f"{tmp_path}/pets: the column 'domain' has no images but string; --column path=NAME names another"
    )


def test_splits_are_parts_or_domains(tmp_path: Path) -> None:
    datasets.DatasetDict({"train": made(4), "test": made(2, 7)}).save_to_disk(str(tmp_path / "parts"))
    listing = listed(tmp_path / "parts")
    assert listing.parts is not None
    assert (listing.domains, listing.parts.tolist()) == (("all",), [0, 0, 2, 0, 0, 2])
    datasets.DatasetDict({"photo": made(4), "sketch": made(4, 7)}).save_to_disk(str(tmp_path / "domains"))
    listing = listed(tmp_path / "domains")
    assert (listing.domains, listing.parts) == (("photo", "sketch"), None)
    assert listing.notes == ("the splits 'photo', 'sketch' are taken for domains",)
    datasets.DatasetDict({"photo": made(4), "train": made(4)}).save_to_disk(str(tmp_path / "both"))
    assert refusal(listed, tmp_path / "both") == (
        f"{tmp_path}/both has splits that are parts (train) and others (photo)"
    )
    two = {"f0": made(4, domain=list("aabb")), "f1": made(4, domain=list("aabb"))}
    datasets.DatasetDict(two).save_to_disk(str(tmp_path / "folds"))
    listing = listed(tmp_path / "folds")
    assert listing.domains == ("a", "b")
    assert listing.notes == ("the splits 'f0', 'f1' are not used, as there is a column of domains",)


def test_each_file_numbers_its_classes_by_itself(tmp_path: Path) -> None:
    kinds = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["dog", "cat"])})
    turned = made(4, 7).cast(kinds)  # 0 is a dog here
    datasets.DatasetDict({"train": made(4), "test": turned}).save_to_disk(str(tmp_path / "pets"))
    assert [listed(tmp_path / "pets").classes[label] for label in listed(tmp_path / "pets").labels] == ["cat"] * 4 + [
        "dog"
    ] * 4
    keys = sorted(key for key in listed(tmp_path / "pets").keys if key.startswith("all/dog/"))
    assert keys == ["all/dog/0000001", "all/dog/0000003", "all/dog/0000004", "all/dog/0000006"]
    datasets.DatasetDict({"a": made(4), "b": made(4).rename_column("label", "kind")}).save_to_disk(
        str(tmp_path / "two")
    )
    assert refusal(listed, tmp_path / "two").endswith(
        "has no column 'label', only image, kind; all files of a dataset need the same columns"
    )


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("dataset_dict.json", {"splits": 3}, "dataset_dict.json is not as datasets writes it: its 'splits' is no list"),
        ("train/state.json", {"_data_files": 3}, "is not as datasets writes it: its '_data_files' is no list"),
        ("train/state.json", {"_data_files": ["x"]}, "is not as datasets writes it: a file has no name"),
        (
            "train/state.json",
            {"_indices_data_files": [{"filename": "i.arrow"}]},
            "train holds a selection of its rows: save what flatten_indices() gives",
        ),
    ],
)
def test_what_datasets_does_not_write(tmp_path: Path, file: str, content: dict[str, Any], said: str) -> None:
    datasets.DatasetDict({"train": made(4), "test": made(2, 7)}).save_to_disk(str(tmp_path / "parts"))
    (tmp_path / "parts" / file).write_text(json.dumps(content))
    assert refusal(listed, tmp_path / "parts").endswith(said)


def test_names_paths_and_images_that_are_missing(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8), (7, 0, 0)).save(tmp_path / "p1_a.png")
    content = (tmp_path / "p1_a.png").read_bytes()
    images = [{"bytes": content, "path": f"/x/p{number}_a.png"} for number in range(4)]
    rows = {"image": images, "label": [0, 1, 0, 1]}
    datasets.Dataset.from_dict(rows, features=features()).save_to_disk(str(tmp_path / "pets"))
    assert listed(tmp_path / "pets").keys[:2] == ("all/cat/p0_a.png", "all/cat/p2_a.png")
    rows["image"] = [*images[:3], {"bytes": None, "path": str(tmp_path / "p1_a.png")}]  # one name twice
    datasets.Dataset.from_dict(rows, features=features()).save_to_disk(str(tmp_path / "pets"))
    (arrow,) = (tmp_path / "pets").glob("*.arrow")
    listing = make_listing(find_source(tmp_path / "pets", {}), group_pattern="^(p.)_")
    assert listing.keys[2:] == ("all/dog/0000001/p1_a.png", "all/dog/0000003/p1_a.png")
    assert listing.groups is not None
    assert listing.groups.tolist() == [0, 1, 2, 2]
    lost = {"image": [None, images[0], images[1]], "label": [0, 1, None]}
    datasets.Dataset.from_dict(lost, features=features()).save_to_disk(str(tmp_path / "lost"))
    assert refusal(listed, tmp_path / "lost") == f"{tmp_path / 'lost'}: row 0 has no path"
    rows = {"image": images, "label": [0, -1, 1, None]}  # as the hub's hidden labels are
    datasets.Dataset.from_dict(rows, features=features()).save_to_disk(str(tmp_path / "hidden"))
    listing = listed(tmp_path / "hidden")
    assert listing.classes == ("cat", "dog")
    assert "no label: 2 of 4 images of 'all' (row 1, row 3), left out" in listing.notes
    arrow.write_bytes(arrow.read_bytes()[:300])
    assert refusal(listed, tmp_path / "pets").startswith(f"{arrow} cannot be read as Arrow: ")


def test_a_dataset_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str, config: str = "default") -> Any:
        if name != "owner/pets":
            raise FileNotFoundError(f"Dataset '{name}' doesn't exist on the Hub\nsecond line")
        assert config == "small"
        return datasets.DatasetDict({"train": datasets.Dataset.from_generator(rows, cache_dir=str(tmp_path / "hub"))})

    def rows() -> Any:
        for number in range(4):
            yield {"picture": Image.new("RGB", (8, 8), (number, 0, 0)), "labels": "ab"[number % 2]}

    monkeypatch.setattr(datasets, "load_dataset", load)
    data = ld.open_dataset("hf:owner/pets/small")
    assert (data.name, data.classes, len(data), data.parts) == ("pets", ("a", "b"), 4, None)
    assert int(data.images[1][0, 0, 0]) == 2
    assert refusal(ld.open_dataset, "hf:owner/dogs") == (
        "hf:owner/dogs cannot be loaded: Dataset 'owner/dogs' doesn't exist on the Hub"
    )


def test_without_datasets(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *arguments: Any, **options: Any) -> Any:
        if name == "datasets":
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.delitem(sys.modules, "datasets")
    monkeypatch.setattr(builtins, "__import__", without)
    said = "hf:owner/pets is read by datasets: pip install datasets (or largedrop[huggingface])"
    assert refusal(ld.open_dataset, "hf:owner/pets") == said


def test_folders_with_metadata(tmp_path: Path) -> None:
    for part, count in (("train", 4), ("test", 2)):
        folder = tmp_path / "pets" / part
        folder.mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", (8, 8), (number, 0, 0)).save(folder / f"{number}.png")
        lines = [f"{number}.png,{'ab'[number % 2]}" for number in range(count)]
        (folder / "metadata.csv").write_text("\n".join(["file_name,label", *lines]))
    listing = listed(tmp_path / "pets")
    assert (listing.name, listing.keys[:2]) == ("pets", ("all/a/test/0.png", "all/a/train/0.png"))
    assert listing.parts is not None
    assert listing.parts.tolist() == [2, 0, 0, 2, 0, 0]
    one = listed(tmp_path / "pets" / "train")
    assert (one.name, one.parts, one.keys[0]) == ("train", None, "all/a/0.png")
    assert listed(tmp_path / "pets" / "train" / "metadata.csv").keys == one.keys
    (tmp_path / "pets" / "train" / "metadata.csv").write_text("file_name,label\n0.png,a\n9.png,b\n")
    assert refusal(listed, tmp_path / "pets") == f"{tmp_path}/pets: train line 3: there is no file train/9.png"


def test_someone_elses_metadata(tmp_path: Path) -> None:
    (tmp_path / "metadata.csv").write_text("site,year\na,2020\n")
    assert tables_of(tmp_path) == {}
    (tmp_path / "metadata.csv").write_bytes(b"\xff\xfe")
    assert tables_of(tmp_path) == {}
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png"}\n')
    assert tables_of(tmp_path) == {"": tmp_path / "metadata.jsonl"}
