"""Groups by a pattern on the names of files."""

from __future__ import annotations

import pytest
from tests.helpers import refusal

from largedrop.data.groups import by_pattern, groups_note

KEYS = ["day/cat/p1/seq1_01.jpg", "day/cat/p1/seq1_02.jpg", "night/cat/p2/seq1_03.jpg", "night/dog/p2/x.jpg"]


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        (r"^(seq\d+)_", ["seq1", "seq1", "seq1", ""]),
        (r"_(\d+)(?:\.jpg)$", ["01", "02", "03", ""]),
        (r"([^/]+)/", ["p1", "p1", "p2", "p2"]),
        (r"^(cat)?x|seq", ["", "", "", ""]),
    ],
)
def test_names_and_paths(pattern: str, found: list[str]) -> None:
    if any(found):
        assert by_pattern(pattern, KEYS) == found
    else:
        assert "is found in no file's name, such as 'seq1_01.jpg'" in refusal(by_pattern, pattern, KEYS)


def test_patterns_that_are_wrong() -> None:
    assert refusal(by_pattern, "(", KEYS).startswith("the group pattern '(' is no regular expression: ")
    for pattern, count in (("seq", 0), ("(s)(e)", 2)):
        assert refusal(by_pattern, pattern, KEYS) == (
            f"the group pattern '{pattern}' needs one part in parentheses, the name of the group, and has {count}; "
            "(?:…) are parentheses that are not counted"
        )


def test_what_is_said() -> None:
    assert groups_note(["", ""], [0, 1]) == "groups: no image has one, so each is by itself"
    assert groups_note(["a", "a", "b"], [0, 0, 0]) == ("groups: 3 images are 2, each on one side of every i.i.d. split")
    assert "; 1 of them occur" in groups_note(["a", "a", "a", "b"], [0, 1, 2, 0])
    assert groups_note(["a", "a", "b", ""], [0, 1, 0, 0]) == (
        "groups: 3 images are 2, each on one side of every i.i.d. split; 1 image without a group, each by itself; "
        "1 of them occur in more than one domain, so a test domain may show what was trained on"
    )
