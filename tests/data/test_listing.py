"""Lists of image files, from any source."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from tests.helpers import refusal

from largedrop.data.listing import make_listing

FOUND = {
    ("b", "y"): [("b/y/2", Path("2")), ("b/y/1", Path("1"))],
    ("a", "x"): [("a/x/1", Path("3")), ("a/x/2", Path("4"))],
    ("b", "x"): [("b/x/1", Path("5")), ("b/x/2", Path("6"))],
    ("a", "y"): [("a/y/1", Path("7")), ("a/y/2", Path("8"))],
}


def test_images_are_put_in_order() -> None:
    listing = make_listing(Path("list"), FOUND)
    assert (listing.domains, listing.classes) == (("a", "b"), ("x", "y"))
    assert listing.keys == ("a/x/1", "a/x/2", "a/y/1", "a/y/2", "b/x/1", "b/x/2", "b/y/1", "b/y/2")
    assert [path.name for path in listing.paths] == list("34785612")
    assert listing.labels.tolist() == [0, 0, 1, 1, 0, 0, 1, 1]
    assert listing.domain_ids.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]


def test_all_that_is_wrong_is_told_with_what_was_wrong_before() -> None:
    found = {**FOUND, ("c", "y"): [], ("b", "z"): []}
    assert refusal(make_listing, Path("list"), found, ["line 3 has no domain"]).splitlines() == [
        "list has 3 problems:",
        "  line 3 has no domain",
        "  the domain 'c' has no images",
        "  the class 'z' has no images",
    ]


def test_classes_that_a_domain_lacks_are_kept_or_left_out() -> None:
    found = {**FOUND, ("b", "z"): [("b/z/1", Path("9"))]}
    union = make_listing(Path("list"), found)
    assert (union.classes, union.labels.tolist(), union.notes) == (("x", "y", "z"), [0, 0, 1, 1, 0, 0, 1, 1, 2], ())
    common, plain = make_listing(Path("list"), found, classes="common"), make_listing(Path("list"), FOUND)
    assert (common.classes, common.keys, common.common) == (plain.classes, plain.keys, True)
    np.testing.assert_array_equal(common.labels, plain.labels)
    assert common.notes == ("classes: the 2 that every domain has; without 'z' (1 image)",)
    assert make_listing(Path("list"), FOUND, classes="common").notes == ()
    assert refusal(make_listing, Path("list"), FOUND, classes="all") == (
        "classes must be 'union' or 'common', not 'all'"
    )


def test_domains_that_share_too_little() -> None:
    apart = {("dog", "pug"): FOUND["a", "x"], ("dog", "lab"): FOUND["a", "y"], ("cat", "siam"): FOUND["b", "x"]}
    assert refusal(make_listing, Path("list"), apart) == (
        "list: no two domains share a class ('cat' has 'siam'; 'dog' has 'lab', 'pug'): are the domains the outer "
        "folders?"
    )
    few = {pair: images for pair, images in FOUND.items() if pair != ("a", "y")}
    assert make_listing(Path("list"), few).classes == ("x", "y")
    said = "list: every domain has only the class 'x' in common; --classes common needs two"
    assert refusal(make_listing, Path("list"), few, classes="common") == said
    none = {**few, ("c", "y"): FOUND["a", "y"]}
    assert "every domain has no class in common" in refusal(make_listing, Path("list"), none, classes="common")
