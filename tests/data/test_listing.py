"""Lists of image files, from any source."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from tests.helpers import refusal

from largedrop.data.listing import Listed, Source, make_listing, open_listing

FOUND = {
    ("b", "y"): [Listed("b/y/2", Path("2")), Listed("b/y/1", Path("1"))],
    ("a", "x"): [Listed("a/x/1", Path("3")), Listed("a/x/2", Path("4"))],
    ("b", "x"): [Listed("b/x/1", Path("5")), Listed("b/x/2", Path("6"))],
    ("a", "y"): [Listed("a/y/1", Path("7")), Listed("a/y/2", Path("8"))],
}


def source(images: dict[tuple[str, str], list[Listed]], *problems: str) -> Source:
    return Source("list", images, "list", problems)


def test_images_are_put_in_order() -> None:
    listing = make_listing(source(FOUND))
    assert (listing.domains, listing.classes) == (("a", "b"), ("x", "y"))
    assert listing.keys == ("a/x/1", "a/x/2", "a/y/1", "a/y/2", "b/x/1", "b/x/2", "b/y/1", "b/y/2")
    assert [path.name for path in listing.paths] == list("34785612")
    assert listing.labels.tolist() == [0, 0, 1, 1, 0, 0, 1, 1]
    assert listing.domain_ids.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]


def test_all_that_is_wrong_is_told_with_what_was_wrong_before() -> None:
    found = {**FOUND, ("c", "y"): [], ("b", "z"): []}
    assert refusal(make_listing, source(found, "line 3 has no domain")).splitlines() == [
        "list has 3 problems:",
        "  line 3 has no domain",
        "  the domain 'c' has no images",
        "  the class 'z' has no images",
    ]


def test_classes_that_a_domain_lacks_are_kept_or_left_out() -> None:
    found = {**FOUND, ("b", "z"): [Listed("b/z/1", Path("9"))]}
    union = make_listing(source(found))
    assert (union.classes, union.labels.tolist(), union.notes) == (("x", "y", "z"), [0, 0, 1, 1, 0, 0, 1, 1, 2], ())
    common, plain = make_listing(source(found), classes="common"), make_listing(source(FOUND))
    assert (common.classes, common.keys, common.common) == (plain.classes, plain.keys, True)
    np.testing.assert_array_equal(common.labels, plain.labels)
    assert common.notes == ("classes: the 2 that every domain has; without 'z' (1 image)",)
    assert make_listing(source(FOUND), classes="common").notes == ()
    assert refusal(make_listing, source(FOUND), classes="all") == ("classes must be 'union' or 'common', not 'all'")


def test_domains_that_share_too_little() -> None:
    apart = {("dog", "pug"): FOUND["a", "x"], ("dog", "lab"): FOUND["a", "y"], ("cat", "siam"): FOUND["b", "x"]}
    assert refusal(make_listing, source(apart)) == (
        "list: no two domains share a class ('cat' has 'siam'; 'dog' has 'lab', 'pug'): are the domains the outer "
        "folders?"
    )
    few = {pair: images for pair, images in FOUND.items() if pair != ("a", "y")}
    assert make_listing(source(few)).classes == ("x", "y")
    said = "list: every domain has only the class 'x' in common; --classes common needs two"
    assert refusal(make_listing, source(few), classes="common") == said
    none = {**few, ("c", "y"): FOUND["a", "y"]}
    assert "every domain has no class in common" in refusal(make_listing, source(none), classes="common")


def grouped(*rows: tuple[str, str | None, str | None]) -> Source:
    """Images ``domain/class/name`` with a group and a part."""
    found: dict[tuple[str, str], list[Listed]] = {}
    for key, group, part in rows:
        domain, name, _ = key.split("/")
        found.setdefault((domain, name), []).append(Listed(key, Path(key), group, part))
    return Source("list", found, "list")


ROWS = [
    ("a/x/1", "p", "train"),
    ("a/x/2", "", "validation"),
    ("a/y/1", "p", "train"),
    ("a/y/2", "q", "test"),
]


def test_groups_are_numbered_in_the_order_of_the_images() -> None:
    listing = make_listing(grouped(*((key, group, None) for key, group, _ in reversed(ROWS))))
    assert listing.groups is not None
    assert (listing.groups.tolist(), listing.parts) == ([0, 1, 0, 2], None)
    assert listing.notes[0].startswith("groups: 3 images are 2, ")
    by_name = make_listing(grouped(*((key, None, None) for key, *_ in ROWS)), group_pattern="(1)")
    assert by_name.groups is not None
    assert by_name.groups.tolist() == [0, 1, 0, 2]
    assert refusal(make_listing, grouped(*ROWS), group_pattern="(1)") == (
        "list says what the groups are: leave the group pattern out, or its column (--column group=)"
    )


def test_a_split_that_is_given(tmp_path: Path) -> None:
    listing = make_listing(grouped(*ROWS))
    assert listing.parts is not None
    assert listing.parts.tolist() == [0, 1, 0, 2]
    assert listing.notes[1] == (
        "split: as given, not by seed: 2 train, 1 validation, 1 test (left out in training domains); no validation "
        "image is of 'y', of which the i.i.d. score says nothing"
    )
    astride = grouped(*ROWS[:3], ("a/y/2", "p", "test"))
    assert refusal(make_listing, astride) == (
        "list: the group 'p' is on several sides of the split: in train (a/x/1) and in test (a/y/2)"
    )
    file = tmp_path / "s.csv"
    file.write_text("key,split\na/x/1,val\na/y/1,test\n")
    assert refusal(make_listing, grouped(*ROWS), split=file) == (
        f"list says how it is split: leave {file} out, or its column (--column split=)"
    )
    plain = grouped(*((key, None, None) for key, *_ in ROWS))
    found = make_listing(plain, split=file)
    assert found.parts is not None
    assert found.parts.tolist() == [1, -1, 2, -1]
    file.write_text("key,split\na/x/9,val\n")
    assert refusal(make_listing, plain, split=file) == f"{file} lists images that list has not (1): 'a/x/9'"


def test_groups_and_splits_are_part_of_a_dataset_that_has_them(tmp_path: Path) -> None:
    def fingerprint(source: Source) -> str:
        return open_listing(make_listing(source), cache=tmp_path / "cache").fingerprint

    def rows(groups: str | None, part: str | None = None) -> Source:
        found: dict[tuple[str, str], list[Listed]] = {}
        for number, key in enumerate(key for key, *_ in ROWS):
            path = tmp_path / f"{number}.png"
            Image.new("RGB", (4, 4), (number, 0, 0)).save(path)
            domain, name, _ = key.split("/")
            image = Listed(key, path, None if groups is None else groups[number].strip(), part)
            found.setdefault((domain, name), []).append(image)
        return Source("list", found, "list")

    plain = fingerprint(rows(None))
    assert fingerprint(rows("abcd")) == fingerprint(rows("    ")) == plain  # every image by itself
    assert len({plain, fingerprint(rows("aabb")), fingerprint(rows("abab")), fingerprint(rows(None, "train"))}) == 4
    assert fingerprint(rows("xxyy")) == fingerprint(rows("aabb"))
