"""The check of a preset's TOML: one message for each error, beginning with the key."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from ..config import ABOUT, RECIPES, problems_of
from ..errors import brief, one_of

__all__ = ["AFTERWARDS", "problems", "varying"]

AFTERWARDS = ("across", "interpolation")

SCALE_KEYS = ("recipe", "settings", "grid", "variants", "test_domains", "leave_out", "afterwards")

KEYS = ("title", "figure", *SCALE_KEYS, "small")

FIELDS = tuple(name for name, about in ABOUT.items() if not about.elsewhere)
"""The fields of ``Config`` that a preset can set."""


def problems(content: Mapping[str, Any]) -> Iterator[str]:
    """One message for each error in a preset, beginning with the key."""
    yield from _unknown(content, KEYS, "")
    if "title" not in content:
        yield "title: a preset needs one, a line that says what is compared"
    for key in ("title", "figure"):
        if key in content and not isinstance(content[key], str):
            yield f"{key}: must be text, not {brief(content[key])}"
    yield from _scale_problems(content, "")
    if "small" not in content:
        return
    small = content["small"]
    if not isinstance(small, dict):
        yield f"small: must be a table [small], not {brief(small)}"
        return
    yield from _unknown(small, SCALE_KEYS, "small.")
    yield from _scale_problems(small, "small.")
    if "variants" not in small:
        for part in ("settings", "grid"):
            for name in _table(small, part):
                if name in varying(_tables(content.get("variants", []))):
                    yield f"small.{part}.{name}: the variants set it too; give [small] variants of its own"


def _unknown(table: Mapping[str, Any], valid: Iterable[str], prefix: str) -> Iterator[str]:
    valid = list(valid)
    for key in table:
        if key not in valid:
            yield f"{prefix}{key}: unknown key; {one_of(key, valid)}"


def _scale_problems(content: Mapping[str, Any], prefix: str) -> Iterator[str]:
    recipe = content.get("recipe", "short")
    if not isinstance(recipe, str) or recipe not in RECIPES:
        told = one_of(recipe if isinstance(recipe, str) else "", RECIPES)
        yield f"{prefix}recipe: unknown recipe {brief(recipe)}; {told}"
    for part in ("settings", "grid"):
        if part in content and not isinstance(content[part], dict):
            yield f"{prefix}{part}: must be a table [{prefix}{part}], not {brief(content[part])}"
    settings, grid = _table(content, "settings"), _table(content, "grid")
    for name, value in settings.items():
        yield from _field_problems(f"{prefix}settings.{name}", name, [value])
    for name, values in grid.items():
        key = f"{prefix}grid.{name}"
        if not isinstance(values, list):
            yield f"{key}: must be a list, not {brief(values)}; what every run has belongs in settings"
        elif not values:
            yield f"{key}: an empty list leaves nothing to run"
        else:
            yield from _field_problems(key, name, values)
        if name in settings:
            yield f"{key}: it is in settings too; keep one of them"
    yield from _variant_problems(content.get("variants"), settings, grid, prefix)
    if "test_domains" in content:
        yield from _domain_problems(content["test_domains"], f"{prefix}test_domains")
    if not isinstance(content.get("leave_out", False), bool):
        yield f"{prefix}leave_out: must be true or false, not {brief(content['leave_out'])}"
    afterwards = content.get("afterwards", [])
    if not isinstance(afterwards, list) or not all(isinstance(name, str) for name in afterwards):
        yield f"{prefix}afterwards: must be a list of names, not {brief(afterwards)}"
    else:
        for name in afterwards:
            if name not in AFTERWARDS:
                yield f"{prefix}afterwards: nothing is called '{name}'; {one_of(name, AFTERWARDS)}"


def _variant_problems(
    variants: Any, settings: Mapping[str, Any], grid: Mapping[str, Any], prefix: str
) -> Iterator[str]:
    if variants is None:
        return
    if not isinstance(variants, list) or not variants or not all(isinstance(entry, dict) for entry in variants):
        yield f"{prefix}variants: must be tables [[{prefix}variants]], one or more"
        return
    every = sorted(varying(variants))
    for name in every:
        for part, table in (("settings", settings), ("grid", grid)):
            if name in table:
                yield f"{prefix}variants.{name}: it is in {part} too; keep one of them"
    for number, variant in enumerate(variants, 1):
        key = f"{prefix}variants[{number}]"
        for name, value in variant.items():
            yield from _field_problems(f"{key}.{name}", name, [value])
        missing = [name for name in every if name not in variant]
        if missing:
            yield f"{key}: it lacks {', '.join(missing)}, which other variants set"
        if variant in variants[: number - 1]:
            yield f"{key}: the same as variants[{variants.index(variant) + 1}]"


def _field_problems(key: str, name: str, values: Sequence[Any]) -> Iterator[str]:
    if name in ABOUT and name not in FIELDS:
        yield f"{key}: no preset sets it; {ABOUT[name].elsewhere}"
        return
    if name not in FIELDS:
        yield f"{key}: unknown field; {one_of(name, FIELDS, most=40)}"
        return
    seen: set[Hashable] = set()
    for value in values:
        if isinstance(value, Hashable) and value in seen:
            yield f"{key}: {brief(value)} is named twice"
            continue
        yield from (f"{key}: {problem}" for problem in problems_of({name: value}))
        if isinstance(value, Hashable):
            seen.add(value)


def _domain_problems(domains: Any, key: str) -> Iterator[str]:
    if domains == "all":
        return
    if not isinstance(domains, list) or not all(isinstance(domain, str) for domain in domains):
        yield f"{key}: must be 'all' or a list of names, not {brief(domains)}"
        return
    if not domains:
        yield f"{key}: an empty list leaves nothing to run"
    twice = (domain for index, domain in enumerate(domains) if domain in domains[:index])
    yield from (f"{key}: {brief(domain)} is named twice" for domain in twice)


def _table(content: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    table = content.get(name, {})
    return table if isinstance(table, dict) else {}


def _tables(variants: Any) -> list[Mapping[str, Any]]:
    return [entry for entry in variants if isinstance(entry, dict)] if isinstance(variants, list) else []


def varying(variants: Sequence[Mapping[str, Any]]) -> set[str]:
    """Names of the fields that the variants set."""
    return {name for variant in variants for name in variant}
