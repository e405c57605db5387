"""What belongs together (a burst, a video, a patient): groups by a pattern on the names of the files."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from ..errors import UserError
from .rows import shown

__all__ = ["by_pattern", "groups_note"]


def by_pattern(pattern: str, keys: Sequence[str]) -> list[str]:
    """The group of each image: what the pattern's parentheses find in its file's name, else empty.

    A pattern with a ``/`` is searched in the path below the class instead.

    Args:
        pattern: regular expression with one group in parentheses.
        keys: ``domain/class/path`` of each image, (n,).

    Raises:
        UserError: it is no such expression, or is found in no name.

    >>> by_pattern(r"^(seq\\d+)_", ["day/cat/seq1_01.jpg", "day/cat/seq1_02.jpg", "day/cat/x.jpg"])
    ['seq1', 'seq1', '']
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise UserError(f"the group pattern {shown(repr(pattern))} is no regular expression: {error}") from error
    if compiled.groups != 1:
        raise UserError(
            f"the group pattern {shown(repr(pattern))} needs one part in parentheses, the name of the group, "
            f"and has {compiled.groups}; (?:…) are parentheses that are not counted"
        )
    paths = [key.split("/", 2)[2] for key in keys]
    names = paths if "/" in pattern else [path.rpartition("/")[2] for path in paths]
    found = [match[1] or "" if (match := compiled.search(name)) else "" for name in names]
    if not any(found):
        raise UserError(f"the group pattern {shown(repr(pattern))} is found in no file's name, such as '{names[0]}'")
    return found


def groups_note(groups: Sequence[str], domain_ids: Sequence[int]) -> str:
    """A line for people about the groups of all images, empty for an image that is in none."""
    named = {group for group in groups if group}
    if not named:
        return "groups: no image has one, so each is by itself"
    where = Counter(group for group, _ in {*zip(groups, domain_ids, strict=True)} if group)
    alone = sum(not group for group in groups)
    note = f"groups: {len(groups) - alone} images are {len(named)}, each on one side of every i.i.d. split"
    if alone:
        note += f"; {alone} image{'s' * (alone > 1)} without a group, each by itself"
    if several := sum(domains > 1 for domains in where.values()):
        note += f"; {several} of them occur in more than one domain, so a test domain may show what was trained on"
    return note
