"""Opening a folder domain/class/image: what it gives, and everything that can be wrong with one."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.helpers import list_images, refusal

from largedrop.data.dataset import Dataset
from largedrop.data.folder import images_below
from largedrop.data.listing import open_listing
from largedrop.data.passed_over import PassedOver

Open = Callable[..., Dataset]
PACS = Path(__file__).parents[2].parent / "shared" / "data" / "PACS"


def write(path: Path, colour: str = "red") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), colour).save(path, "PNG")
    then = time.time() - 100
    os.utime(path, (then, then))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two domains, two classes, two images each."""
    path = tmp_path / "data"
    for domain in ("photo", "art"):
        for number, name in enumerate(("dog", "cat")):
            write(path / domain / name / "b.png", "red")
            write(path / domain / name / "a.png", "blue" if number else "lime")
    return path


@pytest.fixture
def opened(tmp_path: Path) -> Open:
    """Open a folder with a cache that belongs to the test."""
    return lambda path, **options: open_listing(list_images(path), cache=tmp_path / "cache", **options)


def error(path: str | Path) -> str:
    return refusal(list_images, path)


def test_what_a_folder_gives(root: Path, opened: Open) -> None:
    data = opened(root)
    assert data.name == "data"
    assert data.domains == ("art", "photo")
    assert data.classes == ("cat", "dog")
    assert data.keys == (
        "art/cat/a.png",
        "art/cat/b.png",
        "art/dog/a.png",
        "art/dog/b.png",
        "photo/cat/a.png",
        "photo/cat/b.png",
        "photo/dog/a.png",
        "photo/dog/b.png",
    )
    assert data.labels.tolist() == [0, 0, 1, 1, 0, 0, 1, 1]
    assert data.domain_ids.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert data.groups.tolist() == list(range(8))
    assert data.labels.dtype == data.domain_ids.dtype == data.groups.dtype == np.int64
    assert data.skipped == ()
    assert data.images.bound == 320
    assert data.images[0][0, 0].tolist() == [0, 0, 255]
    assert data.images[2][0, 0].tolist() == [0, 255, 0]
    assert opened(str(root), bound=4).images[0].shape == (4, 4, 3)


def test_nested_folders_belong_to_the_class_and_clutter_is_ignored(root: Path, opened: Open) -> None:
    write(root / "art" / "dog" / "more" / "deep" / "c.PNG")
    write(root / "art" / "dog" / ".hidden" / "d.png")
    write(root / "art" / "dog" / ".e.png")
    write(root / ".git" / "f" / "g.png")
    write(root / "__MACOSX" / "art" / "dog" / "h.png")
    write(root / "overview.png")
    write(root / "art" / "overview.png")
    (root / "art" / "dog" / "notes.txt").write_text("notes")
    (root / "README.md").write_text("read me")
    data = opened(root)
    assert data.notes == (
        "passed over: 1 other file: 1 .txt",
        "passed over: images in no class folder: 'overview.png', 'art/overview.png'",
        "passed over: folders of the system: '__MACOSX'",
    )
    assert len(data) == 9
    assert data.keys[2:5] == ("art/dog/a.png", "art/dog/b.png", "art/dog/more/deep/c.PNG")


def test_names_are_sorted_by_code_point_and_composed(root: Path) -> None:
    for name in ("Z.png", "é.png", "10.png", "9.png"):
        write(root / "art" / "cat" / name)
    names = [key.rpartition("/")[2] for key in list_images(root).keys if key.startswith("art/cat")]
    assert names == ["10.png", "9.png", "Z.png", "a.png", "b.png", "é.png"]
    before = list_images(root).keys
    (root / "art" / "cat" / "é.png").rename(root / "art" / "cat" / "e\u0301.png")  # as HFS+ spells it
    assert list_images(root).keys == before
    write(root / "art" / "cat" / "é.png")
    if len(list((root / "art" / "cat").iterdir())) == 7:
        assert error(root) == "the image 'art/cat/é.png' is named twice"


@pytest.mark.skipif(os.name != "posix", reason="names are text elsewhere")
def test_a_name_that_is_no_text(root: Path, opened: Open) -> None:
    path = os.fsencode(root / "art" / "cat") + b"/\xe9.png"
    try:
        os.link(root / "art" / "cat" / "a.png", path)
    except OSError:
        pytest.skip("the file system takes only text")
    data = opened(root)
    assert data.keys[0] == "art/cat/\\udce9.png"
    assert opened(root).fingerprint == data.fingerprint
    "".join(data.keys).encode("utf-8")


def test_fingerprint_is_of_contents_and_names(root: Path, opened: Open, tmp_path: Path) -> None:
    first = opened(root).fingerprint
    assert len(first) == 64
    os.utime(root / "art" / "cat" / "a.png")
    assert opened(root).fingerprint == first
    assert opened(root, bound=4).fingerprint == first
    root.rename(tmp_path / "moved")
    assert opened(tmp_path / "moved").fingerprint == first
    write(tmp_path / "moved" / "art" / "cat" / "a.png", "black")
    changed = opened(tmp_path / "moved").fingerprint
    assert changed != first
    (tmp_path / "moved" / "art" / "cat" / "a.png").rename(tmp_path / "moved" / "art" / "cat" / "c.png")
    assert opened(tmp_path / "moved").fingerprint not in (first, changed)


def test_bad_images_raise_or_are_skipped(root: Path, opened: Open) -> None:
    good = opened(root).fingerprint
    (root / "art" / "dog" / "c.jpg").write_bytes(b"rubbish")
    (root / "photo" / "cat" / "c.png").symlink_to("nowhere")
    assert refusal(opened, root) == (
        "2 of 10 images cannot be decoded; --skip-bad-images (skip_bad_images=True) skips them:\n"
        f"  {root}/art/dog/c.jpg: not an image of a known format\n"
        f"  {root}/photo/cat/c.png: cannot be read: No such file or directory"
    )
    data = opened(root, skip_bad_images=True)
    assert data.skipped == (
        "art/dog/c.jpg: not an image of a known format",
        "photo/cat/c.png: cannot be read: No such file or directory",
    )
    assert len(data) == len(data.images) == len(data.groups) == len(data.keys) == 8
    assert data.labels.tolist() == [0, 0, 1, 1, 0, 0, 1, 1]
    assert data.groups.tolist() == list(range(8))
    assert data.fingerprint == good


def test_what_is_left_after_skipping(root: Path, opened: Open) -> None:
    for path in (root / "art" / "dog").iterdir():
        path.write_bytes(b"")
    data = opened(root, skip_bad_images=True)
    assert data.lacking == {"art": ("dog",)}
    assert data.notes == (
        "classes: the 2 of all domains, each domain scored on those it has; 'art' lacks 'dog' "
        "(--classes common leaves these out)",
    )
    for path in (root / "photo" / "dog").iterdir():
        path.write_bytes(b"")
    said = f"{root}: the class 'dog' has no usable images after 4 bad images were skipped"
    assert refusal(opened, root, skip_bad_images=True) == said


def test_the_common_classes_are_those_of_the_images_that_can_be_used(root: Path, tmp_path: Path) -> None:
    for path in (root / "art" / "dog").iterdir():
        path.write_bytes(b"")
    listing = list_images(root, "common")
    said = f"{root}: art/dog has no usable images after 2 bad images were skipped"
    assert refusal(open_listing, listing, skip_bad_images=True, cache=tmp_path / "cache") == said


def test_no_such_folder(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    emoji = "the dataset that comes with largedrop"
    assert error(tmp_path / "dta") == f"there is no folder {tmp_path}/dta; did you mean 'data'?"
    assert error(tmp_path / "xyz") == f"there is no folder {tmp_path}/xyz; 'emoji' is the name of {emoji}"
    assert error(tmp_path / "dat" / "photo") == f"there is no folder {tmp_path}/dat; did you mean 'data'?"
    monkeypatch.chdir(tmp_path)
    assert error("emojis") == f"there is no folder emojis; did you mean 'emoji', {emoji}?"
    monkeypatch.chdir(root)
    assert list_images(".").name == "data"
    assert list_images("../data/photo/..").name == "data"


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "data.csv").touch()
    expected = (
        f"{tmp_path}/data.csv is a file; expects domain/class/image: name the folder that holds the domains, or a "
        ".csv, .jsonl or .parquet"
    )
    assert error(tmp_path / "data.csv") == expected
    assert error(tmp_path / "data.csv" / "photo").startswith(f"{tmp_path}/data.csv/photo cannot be read: Not a dir")


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("data.zip", "unpack it, and name the folder"),
        ("data.xlsx", "save it as .csv"),
        ("data.json", "write it as .jsonl, an object in each line"),
    ],
)
def test_a_file_of_another_kind_says_what_to_do(name: str, advice: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("{}")
    assert error(tmp_path / name) == f"{tmp_path / name} is a file; expects domain/class/image: {advice}"


def test_no_domains(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    assert error(tmp_path / "data") == f"{tmp_path}/data: expects domain/class/image, found no folders"
    write(tmp_path / "data" / "a.png")
    assert error(tmp_path / "data") == f"{tmp_path}/data: expects domain/class/image, found images directly in data"


def test_a_folder_of_classes_without_domains(root: Path) -> None:
    write(root / "photo" / "c.png")
    write(root / "photo" / "cat" / "more" / "d.png")
    (root / "photo" / "cat" / "more" / "e.txt").touch()
    (root / "photo" / "@eaDir").mkdir()
    (root / "photo" / "dog" / "@eaDir").mkdir()
    (root / "photo" / "emu").mkdir()
    listing = list_images(root / "photo")
    assert listing.keys == (
        *(f"all/cat/{name}" for name in ("a.png", "b.png", "more/d.png")),
        "all/dog/a.png",
        "all/dog/b.png",
    )
    assert (listing.domains, listing.classes, listing.name) == (("all",), ("cat", "dog"), "photo")
    assert listing.notes == (
        "domains: the folders hold images themselves, so they are classes, all of one domain, 'all'",
        "passed over: 1 other file: 1 .txt",
        "passed over: images in no class folder: 'c.png'",
        "passed over: folders of the system: '@eaDir', 'all/dog/@eaDir'",
        "passed over: folders without images: 'emu'",
    )
    moved = (root / "photo").rename(root / "other")
    assert list_images(moved).keys == listing.keys
    assert list_images(root / "other" / "cat").classes == ("more",)
    write(root / "splits" / "train" / "a.png")
    write(root / "splits" / "test" / "a.png")
    assert "the folders 'test', 'train' in 'all' are splits, not classes" in error(root / "splits")


def test_all_problems_at_once(root: Path) -> None:
    (root / "empty").mkdir()
    for name in ("loose", "many", "more", "too"):
        write(root / name / "a.png")
    (root / "art" / "emu").mkdir()
    (root / "bare" / "dog").mkdir(parents=True)
    listed = [
        f"  the domain '{name}' has no class folders, but images directly in it"
        for name in ("loose", "many", "more", "too")
    ]
    assert error(root).splitlines()[:5] == [f"{root} has 5 problems:", *listed]
    assert error(root).endswith("\n  the domain 'bare' has no images")
    for name in ("loose", "many", "more", "too"):
        shutil.rmtree(root / name)
    shutil.rmtree(root / "bare")
    assert list_images(root).notes == ("passed over: folders without images: 'empty', 'art/emu'",)


def test_a_folder_of_images_beside_domains_has_no_labels(root: Path) -> None:
    for name in ("a.png", "b.png"):
        write(root / "new" / name)
    listing = list_images(root)
    assert (listing.domains, listing.unlabelled) == (("art", "photo"), ("new",))
    assert listing.notes == (
        "no labels: all 2 images of 'new', not trained on and not scored; `largedrop predict` takes such images",
    )


def test_only_the_first_twenty_problems_are_listed(root: Path) -> None:
    for number in range(30):
        write(root / f"x{number:02}" / "a.png")
    lines = error(root).splitlines()
    assert lines[0] == f"{root} has 30 problems:"
    assert len(lines) == 22
    assert lines[-1] == "  … and 10 more"


def test_one_class_is_too_few_to_train_on_and_one_domain_is_not(tmp_path: Path, opened: Open) -> None:
    for name in ("a.png", "b.png"):
        write(tmp_path / "data" / "photo" / "dog" / name)
    assert (
        refusal(opened(tmp_path / "data").split, (), 0) == "data has only the class 'dog' to train on; two are needed"
    )
    for name in ("a.png", "b.png"):
        write(tmp_path / "data" / "photo" / "cat" / name)
    data = opened(tmp_path / "data")
    assert data.domains == ("photo",)
    assert refusal(data.split, "photo", 0) == "data has only the domain 'photo': testing on it leaves none to train on"


def test_folders_that_cannot_be_read(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(root / "photo" / "dog" / "deep" / "c.png")
    real = os.scandir

    def scandir(path: Path) -> Any:
        if Path(path).name in ("deep", "art"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert error(root) == (
        f"{root} has 2 problems:\n"
        "  cannot read the folder art: Permission denied\n"
        "  cannot read the folder photo/dog/deep: Permission denied"
    )
    monkeypatch.setattr(os, "scandir", lambda path: scandir(root / "art"))
    assert error(root) == f"{root}: cannot read the folder data: Permission denied"


@pytest.mark.skipif(os.name != "posix", reason="needs symbolic links")
def test_symbolic_links(root: Path, tmp_path: Path) -> None:
    dog = root / "art" / "dog"
    (dog / "up").symlink_to(root)
    (dog / "here").symlink_to(".")
    (dog / "itself").symlink_to("itself")
    for name in "xyz":
        (dog / name).mkdir()
    for name in "xyz":
        for other in "xyz":
            (dog / name / other).symlink_to(dog / other)
    write(dog / "x" / "1.png")
    keys = [key for key in list_images(root).keys if key.startswith("art/dog/")]
    assert keys == ["art/dog/a.png", "art/dog/b.png", "art/dog/x/1.png"]
    root.rename(tmp_path / "elsewhere")
    (tmp_path / "linked").symlink_to(tmp_path / "elsewhere")
    assert list_images(tmp_path / "linked").name == "linked"


def test_a_folder_that_is_there_twice_is_named(root: Path) -> None:
    (root / "again").symlink_to(root / "photo", target_is_directory=True)
    (root / "whole").symlink_to(root, target_is_directory=True)
    (root / "art" / "hound").symlink_to(root / "art" / "dog", target_is_directory=True)
    (root / "art" / "here").symlink_to(root / "art", target_is_directory=True)
    said = error(root)
    for twice, first in (
        ("photo", "again"),
        ("whole", "data"),
        ("art/hound", "art/dog"),
        ("art/here", "art"),
    ):
        assert f"{twice} is the same folder as {first}, so its images would be there twice: remove one of them" in said
    assert said.count("is the same folder") == 4  # what is in a domain that is there twice is not named as well
    for name in ("again", "whole", "art/hound", "art/here"):
        (root / name).unlink()
    (root / "photo" / "none").mkdir()
    (root / "art" / "none").symlink_to(root / "photo" / "none", target_is_directory=True)
    assert len(list_images(root).keys) == 8


def test_pacs() -> None:
    if not PACS.is_dir():
        pytest.skip(f"the PACS dataset is not in {PACS}")
    listing = list_images(PACS)
    assert len(listing.keys) == 9991
    assert listing.domains == ("art_painting", "cartoon", "photo", "sketch")
    assert listing.classes == ("dog", "elephant", "giraffe", "guitar", "horse", "house", "person")
    assert np.bincount(listing.domain_ids).tolist() == [2048, 2344, 1670, 3929]


def test_images_below_a_folder_need_no_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("b.png", "a/z.JPG", "a/deep/c.png", ".hidden.png", "a/.cache/d.png", "a/notes.txt"):
        write(tmp_path / name)
    (tmp_path / "a" / "again").symlink_to(tmp_path, target_is_directory=True)
    found = images_below(tmp_path, PassedOver())
    assert [path.relative_to(tmp_path).as_posix() for path in found] == ["b.png", "a/z.JPG", "a/deep/c.png"]
    monkeypatch.chdir(tmp_path)
    assert images_below(Path("a"), PassedOver())[0] == Path("a/z.JPG")
    real = os.scandir

    def scandir(path: Path) -> Any:
        if path.name == "deep":
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert refusal(images_below, Path("a"), PassedOver()) == "cannot read the folder a/deep: Permission denied"
