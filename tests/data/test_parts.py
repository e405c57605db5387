"""Splits that are given: words for parts, and files."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.helpers import refusal

from largedrop.data.parts import part_named, parts_note, read_split, split_text


@pytest.mark.parametrize(
    ("text", "part"),
    [("train", "train"), (" Training ", "train"), ("VAL", "validation"), ("iid", "validation"), ("testing", "test")],
)
def test_words(text: str, part: str) -> None:
    assert part_named(text) == part


def test_a_word_that_is_none() -> None:
    with pytest.raises(ValueError, match=r"^has the split 'fold 3', which is none of train, training, validation, "):
        part_named("fold 3")


def test_what_is_said() -> None:
    told = (
        "split: as given, not by seed: 2 train, 1 test (left out in training domains), 1 not in it, which are left out"
    )
    assert parts_note(["train", "test", "train", ""], ["cat"] * 4, "aabb") == told


def test_classes_that_a_given_validation_part_lacks_are_said() -> None:
    """Domain b has no validation images, so some of its training images are held out."""
    parts = ["train", "train", "validation", "train"]
    told = "split: as given, not by seed: 3 train, 1 validation"
    assert parts_note(parts, ["cat", "dog", "cat", "dog"], "aaab") == told
    alone = f"{told}; no validation image is of 'dog', of which the i.i.d. score says nothing"
    assert parts_note(parts, ["cat", "dog", "cat", "dog"], "aaaa") == alone


def test_a_file_that_was_written_is_read(tmp_path: Path) -> None:
    keys = ['a/x/1, or "2".png', "a/x/ä.png", "b/y/\n.png"]
    text = split_text(keys, ["train", "validation", ""], ["iid", "ood", ""])
    (tmp_path / "split.csv").write_text(text, "utf-8")
    assert read_split(tmp_path / "split.csv") == dict(zip(keys, ["train", "validation", ""], strict=True))
    assert text.splitlines()[0] == "key,split,used"


def test_files_that_are_wrong(tmp_path: Path) -> None:
    file = tmp_path / "s.csv"
    assert refusal(read_split, file) == f"there is no table {file}"
    file.write_text("key,part\na,train\n")
    assert refusal(read_split, file) == f"{file} has no column 'split', only key, part"
    file.write_text("key,split\n")
    assert refusal(read_split, file).splitlines() == [f"{file} is no split:", "  lists no images"]
    file.write_text("key,split\na,train\na,test\nb,fold 3\n,test\n")
    said = refusal(read_split, file).splitlines()
    assert said[0] == f"{file} is no split:"
    assert said[1] == "  line 3 lists a again"
    assert said[2].startswith("  line 4 has the split 'fold 3', which is none of train")
    assert said[3] == "  line 5 has no key"
    file.write_text("key,split\n" + "a,1\n" * 15)
    assert refusal(read_split, file).splitlines()[-1] == "  … and 5 more"
