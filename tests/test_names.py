"""Tests of largedrop.names."""

from __future__ import annotations

import pytest

from largedrop.errors import UserError
from largedrop.names import names_in, text_of

LISTS = [
    [],
    ["photo"],
    ["photo", "ink"],
    ["San Jose, CA", "d2"],
    [" a", "b ", "\ta\n", ","],
    ['6" pipe', '"', '""', '",'],
    ["art_painting", "素描", "[bold]", "line\nbreak", "a/b", "it's"],
]


@pytest.mark.parametrize("names", LISTS)
def test_names_survive_being_one_text(names: list[str]) -> None:
    assert names_in(text_of(names)) == names


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("photo,ink", ["photo", "ink"]),
        (" photo , , ink,", ["photo", "ink"]),
        ('"San Jose, CA" ,d2', ["San Jose, CA", "d2"]),
        ('San Jose, "CA"', ["San Jose", "CA"]),
        ('6" pipe,x', ['6" pipe', "x"]),
        ('"a ""b"""', ['a "b"']),
        ("", []),
        (" , ", []),
        ('""', []),
    ],
)
def test_names_are_separated_by_commas(text: str, names: list[str]) -> None:
    assert names_in(text) == names


@pytest.mark.parametrize("text", ['"photo', '"photo" ink', 'ink,"photo""', '"'])
def test_quotes_that_do_not_match_are_refused(text: str) -> None:
    with pytest.raises(UserError, match="goes in double quotes"):
        names_in(text)
