"""Lists of image files, from any source."""

from __future__ import annotations

from pathlib import Path

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
    found = {**FOUND, ("b", "x"): [("b/x/1", Path("5"))], ("c", "y"): FOUND["b", "y"]}
    assert refusal(make_listing, Path("list"), found, ["line 3 has no domain"]).splitlines() == [
        "list has 3 problems:",
        "  line 3 has no domain",
        "  the domain 'c' lacks the class 'x' that other domains have",
        "  b/x has 1 image; at least two are needed",
    ]
