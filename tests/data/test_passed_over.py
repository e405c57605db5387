"""What is passed over among someone's files, and what is said of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image
from tests.helpers import list_images, make_toy, refusal

from largedrop.data import formats
from largedrop.data.folder import images_below
from largedrop.data.passed_over import PassedOver, is_output, is_system_file


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    return make_toy(tmp_path / "data", images=2)


def test_files_in_other_formats_are_counted_by_suffix(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "find_spec", lambda name: None)
    formats.suffixes.cache_clear()
    before = list_images(toy).keys
    for number in range(9):
        for suffix in ("HEIC", "jxl"):
            (toy / "ink" / "red" / f"IMG_{number}.{suffix}").write_bytes(b"....ftypheic....")
    for name in ("a.txt", "b.TXT", "c", "Thumbs.db", ".DS_Store"):
        (toy / "oil" / "blue" / name).touch()
    (toy / "README.md").touch()
    listing = list_images(toy)
    formats.suffixes.cache_clear()
    assert listing.keys == before
    assert listing.notes == (
        "passed over: 18 images in formats that are not opened: 9 .heic, 9 .jxl "
        '(pip install "largedrop[heic]" opens .heic)',
        "passed over: 3 other files: 2 .txt, 1 without an ending",
    )


def test_a_domain_of_which_no_image_is_opened_is_an_error(toy: Path) -> None:
    for path in toy.glob("ink/*/*.png"):
        path.rename(path.with_suffix(".cr3"))
    assert refusal(list_images, toy).splitlines() == [
        f"{toy} has 2 problems:",
        "  passed over: 6 images in formats that are not opened: 6 .cr3",
        "  the domain 'ink' has no images",
    ]


def test_system_folders_and_folders_without_images(toy: Path) -> None:
    before = list_images(toy).keys
    for name in ("$RECYCLE.BIN", "System Volume Information", "lost+found", "#recycle", "@eaDir"):
        (toy / name / "S-1-5" / "red").mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(toy / name / "S-1-5" / "red" / "a.png")
    (toy / "oil" / "red" / "@eaDir").mkdir()
    (toy / "notes").mkdir()
    (toy / "papers" / "2024").mkdir(parents=True)
    (toy / "papers" / "2024" / "a.pdf").touch()
    (toy / "oil" / "scripts").mkdir()
    listing = list_images(toy)
    assert listing.keys == before
    assert listing.notes == (
        "passed over: folders of the system: '#recycle', '$RECYCLE.BIN', '@eaDir', 'System Volume Information', "
        "'lost+found' and 1 more",
        "passed over: folders without images: 'notes', 'papers', 'oil/scripts'",
    )
    assert is_system_file("Thumbs.db")


def test_what_largedrop_has_written_is_no_domain(toy: Path) -> None:
    before = list_images(toy).keys
    for folder, name, content in (
        ("largedrop-runs/data-ink-0123", "comparison.json", {"protocol": 3}),
        ("out", "comparison.json", {"protocol": 3}),
        ("ink/sweeps", "sweep.json", {"protocol": 3}),
        ("oil/red/inspection", "inspection.json", {"largedrop": "0.1.0"}),
        ("advice", "advice.json", {"held_out_domains": []}),
    ):
        (toy / folder).mkdir(parents=True)
        (toy / folder / name).write_text(json.dumps(content))
        for below in ("", "red"):
            (toy / folder / below).mkdir(exist_ok=True)
            Image.new("RGB", (8, 8)).save(toy / folder / below / "figure.png")
    (toy / "oil" / "red" / "config.json").write_text('{"camera": "A"}')
    (toy / "oil" / "blue" / "report.json").write_text("mine")
    listing = list_images(toy)
    assert listing.keys == before
    assert listing.notes == (
        "passed over: 2 other files: 2 .json",
        "passed over: what largedrop has written: 'advice', 'largedrop-runs', 'out', 'ink/sweeps', "
        "'oil/red/inspection'",
    )
    assert not is_output(toy, ["comparison.json"])


def test_a_folder_of_images_to_predict_is_walked_the_same_way(toy: Path) -> None:
    passed = PassedOver()
    (toy / "ink" / "a.nef").touch()
    (toy / "$RECYCLE.BIN").mkdir()
    assert len(images_below(toy, passed)) == 18
    assert list(passed.notes()) == [
        "passed over: 1 image in formats that are not opened: 1 .nef",
        f"passed over: folders of the system: '{toy}/$RECYCLE.BIN'",
    ]


@pytest.mark.parametrize(
    ("suffix", "said"),
    [
        ("", "18 other files: 18 without an ending"),
        (".NEF", "18 images in formats that are not opened: 18 .nef"),
    ],
)
def test_a_folder_in_which_nothing_is_an_image_says_what_is_there(toy: Path, suffix: str, said: str) -> None:
    for path in toy.glob("*/*/*.png"):
        path.rename(path.with_suffix(suffix))
    assert refusal(list_images, toy) == f"{toy}: expects domain/class/image, found no image, only {said}"


def test_a_folder_of_classes_without_domains_passes_over_the_same(toy: Path) -> None:
    classes = toy / "ink"
    before = list_images(classes).keys
    for name in ("largedrop-runs/a", "notes", "$RECYCLE.BIN"):
        (classes / name).mkdir(parents=True)
    (classes / "largedrop-runs" / "a" / "figure.png").write_bytes((classes / "red" / "0.png").read_bytes())
    (classes / "red" / "a.heics").touch()
    (classes / "red" / "b.cr2").touch()
    listing = list_images(classes)
    assert listing.keys == before
    assert [note for note in listing.notes if note.startswith("passed over")] == [
        "passed over: 1 image in formats that are not opened: 1 .cr2",
        "passed over: 1 other file: 1 .heics",
        "passed over: folders of the system: '$RECYCLE.BIN'",
        "passed over: what largedrop has written: 'largedrop-runs'",
        "passed over: folders without images: 'notes'",
    ]
