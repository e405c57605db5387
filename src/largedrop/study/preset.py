"""Presets: what a figure of the paper is made of, as a small TOML file that is read, checked as a whole, and expanded.

title, figure    what it is, and what it reproduces
recipe           where the settings come from that it does not name: 'short' or 'paper'
[settings]       fields of ``Config`` that every run has
[grid]           fields of ``Config`` with a list each; every combination is a run
[[variants]]     fields of ``Config`` that change together: each table is combined with the whole grid
test_domains     'all', or a list
[small]          ``recipe``, ``settings``, ``grid``, ``variants`` and ``test_domains`` of ``--scale small``. A field
                 that is named there replaces the preset's own, wherever that stands.
"""

from __future__ import annotations

import itertools
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ..config import RECIPES, Config, make_config
from ..errors import UserError, one_of
from .selection import TUNED

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["SCALES", "Preset", "Scale", "preset_names", "read_preset"]

FOLDER = Path(__file__).parent / "presets"
"""Where the presets lie that come with the package."""

SCALES = ("full", "small")

NOT_YET = {
    "paper-figure-1": "interpolation between the pretrained and the fine-tuned network",
    "paper-figure-8": "linear fine-tuning",
}
"""Figures whose methods the training loop does not have."""

SCALE_KEYS = ("recipe", "settings", "grid", "variants", "test_domains")
KEYS = ("title", "figure", *SCALE_KEYS, "small")

ELSEWHERE = {
    "data": "it is given with --data",
    "fingerprint": "it follows from the data",
    "weights_digest": "it follows from the weights",
    "test_domain": "name the domains in test_domains",
    "precision": "it is given with --precision",
}
"""Fields of ``Config`` that no preset sets, and why."""

FIELDS = tuple(entry.name for entry in fields(Config) if entry.name not in ELSEWHERE)


@dataclass(frozen=True)
class Scale:
    """What is trained at one scale.

    Attributes:
        recipe: a name in ``RECIPES``.
        settings: fields of ``Config`` that every run has.
        grid: fields of ``Config`` with their values.
        variants: fields that change together; at least one entry, which may be empty.
        test_domains: None for each domain of the dataset in turn.
    """

    recipe: str
    settings: Mapping[str, Any]
    grid: Mapping[str, tuple[Any, ...]]
    variants: tuple[Mapping[str, Any], ...]
    test_domains: tuple[str, ...] | None

    def runs(self, domains: Sequence[str]) -> list[dict[str, Any]]:
        """The settings of every run, its test domain included, in an order in which early results say something.

        Seed by seed; within a seed by what is tuned (learning rate, weight decay), then by test domain, and what is
        compared changes fastest: the first few runs already compare every method on every test domain.

        Args:
            domains: of the dataset; used where the preset names none.
        """
        first = [name for name in ("seed", *TUNED) if name in self.grid]
        axes: list[list[Mapping[str, Any]]] = [_axis(name, self.grid[name]) for name in first]
        axes.append(_axis("test_domain", self.test_domains if self.test_domains is not None else domains))
        axes += [_axis(name, values) for name, values in self.grid.items() if name not in first]
        axes.append(list(self.variants))
        made = []
        for parts in itertools.product(*axes):
            run = dict(self.settings)
            for part in parts:
                run.update(part)
            made.append(run)
        return made

    @property
    def varied(self) -> tuple[str, ...]:
        """The fields in which the runs differ, the test domain included."""
        names = [*self.grid, *dict.fromkeys(name for variant in self.variants for name in variant)]
        first = [name for name in ("seed", *TUNED) if name in names]
        return (*first, "test_domain", *(name for name in names if name not in first))

    @property
    def seeds(self) -> tuple[int, ...]:
        """Of the runs."""
        return tuple(self.values("seed"))

    def values(self, name: str) -> list[Any]:
        """Every value that the runs have of a field, that of the recipe where the preset has none."""
        found = [variant[name] for variant in self.variants if name in variant]
        if not found:
            found = list(self.grid.get(name, ()))
        if not found:
            config = make_config(self.recipe, **{**_NOTHING, **self.settings})
            found = [getattr(config, name)]
        return list(dict.fromkeys(found))


@dataclass(frozen=True)
class Preset:
    """A preset.

    Attributes:
        name: the file's, without its ending; names the report.
        path: of the file.
        title: a line that says what is compared.
        figure: what it reproduces; empty where it does not say.
        header: the comment at the top of the file, without its marks.
        full: what is trained as the paper has it.
        small: what is trained at ``--scale small``; None where the file has no ``[small]``.
    """

    name: str
    path: Path
    title: str
    figure: str
    header: str
    full: Scale
    small: Scale | None

    def scale(self, name: str) -> Scale:
        """``full`` or ``small``.

        Raises:
            UserError: there is no such scale, or the preset lacks it.
        """
        if name not in SCALES:
            raise UserError(f"unknown scale '{name}'; {one_of(name, SCALES)}")
        if name == "full":
            return self.full
        if self.small is None:
            raise UserError(f"{self.path} has no scale 'small': add a table [small] to it, or leave --scale out")
        return self.small


def preset_names() -> list[str]:
    """The presets that come with the package, by number."""
    return sorted((path.stem for path in FOLDER.glob("*.toml")), key=_by_number)


def read_preset(source: str | Path) -> Preset:
    """Read a preset and check all of it, both scales.

    Args:
        source: a name that ``preset_names`` has, or the path of a TOML file.

    Raises:
        UserError: there is none, its method is not there yet, or something is wrong with it: all that is, at once.
    """
    text = str(source)
    names = preset_names()
    if text in NOT_YET:
        raise UserError(f"{text} needs {NOT_YET[text]}, which is not there yet; there are: {', '.join(names)}")
    path = FOLDER / f"{text}.toml" if text in names else Path(source)
    if not path.is_file():
        raise UserError(f"no preset '{text}' and no such file; {one_of(text, names)}")
    try:
        written = path.read_text(encoding="utf-8")
        content = tomllib.loads(written)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:  # not TOML, or not UTF-8
        raise UserError(f"{path} is no TOML file: {error}") from error
    problems = list(_problems(content))
    if len(problems) == 1:
        raise UserError(f"{path}: {problems[0]}")
    if problems:
        raise UserError("\n".join([f"{path}: {len(problems)} mistakes", *(f"  {problem}" for problem in problems)]))
    return Preset(
        name=path.stem,
        path=path,
        title=content["title"],
        figure=content.get("figure", ""),
        header=_header(written),
        full=_scale(content),
        small=_scale(_merged(content, content["small"])) if "small" in content else None,
    )


def _axis(name: str, values: Iterable[Any]) -> list[Mapping[str, Any]]:
    return [{name: value} for value in values]


def _scale(content: Mapping[str, Any]) -> Scale:
    domains = content.get("test_domains", "all")
    return Scale(
        recipe=content.get("recipe", "short"),
        settings=dict(content.get("settings", {})),
        grid={name: tuple(values) for name, values in content.get("grid", {}).items()},
        variants=tuple(dict(variant) for variant in content.get("variants", [{}])),
        test_domains=None if domains == "all" else tuple(domains),
    )


def _merged(content: Mapping[str, Any], small: Mapping[str, Any]) -> dict[str, Any]:
    """The preset as ``[small]`` changes it."""
    variants = small.get("variants", content.get("variants", [{}]))
    named = {*small.get("settings", {}), *small.get("grid", {}), *_varying(small.get("variants", []))}
    merged = {**content, **small, "variants": variants}
    for part in ("settings", "grid"):
        kept = {name: value for name, value in content.get(part, {}).items() if name not in named}
        merged[part] = {**kept, **small.get(part, {})}
    return merged


def _varying(variants: Sequence[Mapping[str, Any]]) -> set[str]:
    return {name for variant in variants for name in variant}


def _header(written: str) -> str:
    lines = itertools.takewhile(lambda line: line.startswith("#"), written.splitlines())
    return "\n".join(line.removeprefix("#").removeprefix(" ") for line in lines)


def _by_number(name: str) -> tuple[str, int]:
    number = re.search(r"\d+$", name)
    return (name[: number.start()], int(number[0])) if number else (name, 0)


def _problems(content: Mapping[str, Any]) -> Iterator[str]:
    """All that is wrong with a preset, one message each, beginning with the key."""
    yield from _unknown(content, KEYS, "")
    if "title" not in content:
        yield "title: a preset needs one, a line that says what is compared"
    for key in ("title", "figure"):
        if key in content and not isinstance(content[key], str):
            yield f"{key}: must be text, not {content[key]!r}"
    yield from _scale_problems(content, "")
    if "small" not in content:
        return
    small = content["small"]
    if not isinstance(small, dict):
        yield f"small: must be a table [small], not {small!r}"
        return
    yield from _unknown(small, SCALE_KEYS, "small.")
    yield from _scale_problems(small, "small.")
    if "variants" not in small:
        for part in ("settings", "grid"):
            for name in _table(small, part):
                if name in _varying(_tables(content.get("variants", []))):
                    yield f"small.{part}.{name}: the variants set it too; give [small] variants of its own"


def _unknown(table: Mapping[str, Any], valid: Iterable[str], prefix: str) -> Iterator[str]:
    valid = list(valid)
    for key in table:
        if key not in valid:
            yield f"{prefix}{key}: unknown key; {one_of(key, valid)}"


def _scale_problems(content: Mapping[str, Any], prefix: str) -> Iterator[str]:
    recipe = content.get("recipe", "short")
    if not isinstance(recipe, str) or recipe not in RECIPES:
        yield f"{prefix}recipe: unknown recipe {recipe!r}; {one_of(str(recipe), RECIPES)}"
    for part in ("settings", "grid"):
        if part in content and not isinstance(content[part], dict):
            yield f"{prefix}{part}: must be a table [{prefix}{part}], not {content[part]!r}"
    settings, grid = _table(content, "settings"), _table(content, "grid")
    for name, value in settings.items():
        yield from _field_problems(f"{prefix}settings.{name}", name, [value])
    for name, values in grid.items():
        key = f"{prefix}grid.{name}"
        if not isinstance(values, list):
            yield f"{key}: must be a list, not {values!r}; what every run has belongs in settings"
        elif not values:
            yield f"{key}: an empty list leaves nothing to run"
        else:
            yield from _field_problems(key, name, values)
        if name in settings:
            yield f"{key}: it is in settings too; keep one of them"
    yield from _variant_problems(content.get("variants"), settings, grid, prefix)
    if "test_domains" in content:
        yield from _domain_problems(content["test_domains"], f"{prefix}test_domains")


def _variant_problems(
    variants: Any, settings: Mapping[str, Any], grid: Mapping[str, Any], prefix: str
) -> Iterator[str]:
    if variants is None:
        return
    if not isinstance(variants, list) or not variants or not all(isinstance(entry, dict) for entry in variants):
        yield f"{prefix}variants: must be tables [[{prefix}variants]], one or more"
        return
    every = sorted(_varying(variants))
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
    if name in ELSEWHERE:
        yield f"{key}: no preset sets it; {ELSEWHERE[name]}"
        return
    if name not in FIELDS:
        yield f"{key}: unknown field; {one_of(name, FIELDS, most=30)}"
        return
    for place, value in enumerate(values):
        if value in values[:place]:
            yield f"{key}: {value!r} is named twice"
            continue
        if name in ("model", "weights") and not (isinstance(value, str) and value):
            yield f"{key}: must be a name, not {value!r}"
            continue
        try:
            make_config(**{**_NOTHING, name: value})
        except UserError as error:
            yield f"{key}: {error}"


def _domain_problems(domains: Any, key: str) -> Iterator[str]:
    if domains == "all":
        return
    if not isinstance(domains, list) or not all(isinstance(domain, str) for domain in domains):
        yield f"{key}: must be 'all' or a list of names, not {domains!r}"
        return
    if not domains:
        yield f"{key}: an empty list leaves nothing to run"
    for place, domain in enumerate(domains):
        if domain in domains[:place]:
            yield f"{key}: {domain!r} is named twice"


_NOTHING: dict[str, Any] = {"data": "", "fingerprint": "", "test_domain": ""}
"""What a config must be given, for one that is only checked."""


def _table(content: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    table = content.get(name, {})
    return table if isinstance(table, dict) else {}


def _tables(variants: Any) -> list[Mapping[str, Any]]:
    return [entry for entry in variants if isinstance(entry, dict)] if isinstance(variants, list) else []
