"""Presets: the runs of a figure of the paper as a TOML file, which is read, checked as a whole, and expanded.

title, figure    title, and the figure that it reproduces
recipe           recipe for the settings that are not named: 'robust', 'short' or 'paper'
[settings]       fields of ``Config`` that every run has
[grid]           fields of ``Config`` with a list each; every combination is a run
[[variants]]     fields of ``Config`` that change together: each table is combined with the whole grid
test_domains     'all', or a list
leave_out        true to add the runs for leave-one-domain-out selection: every run once more for each domain that is
                 left out besides the test domain
afterwards       results computed from the finished runs: 'across' (ensembles, averages and soups of all trajectories),
                 'interpolation' (between the pretrained and the fine-tuned network)
[small]          ``recipe``, ``settings``, ``grid``, ``variants``, ``test_domains``, ``leave_out`` and ``afterwards``
                 of ``--scale small``. A field in it replaces the preset's, in any of its tables.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config import TUNED, defaults_of, make_config
from ..errors import UserError, one_of
from ..files import read_bytes
from .preset_problems import problems, varying

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["SCALES", "Preset", "Scale", "preset_names", "read_preset", "with_weights"]

FOLDER = Path(__file__).parent / "presets"
"""Folder of the presets that come with the package."""

SCALES = ("full", "small")

MOST_RUNS = 1_000_000
"""Largest number of runs of a preset; the paper's whole protocol has some thousand."""


@dataclass(frozen=True)
class Scale:
    """The runs of a preset at one scale.

    Attributes:
        recipe: name of the recipe, in ``RECIPES``.
        settings: fields of ``Config`` for every run.
        grid: values of fields of ``Config``, which are combined.
        variants: fields that change together; at least one entry, which may be empty.
        test_domains: names of the test domains; None for each domain of the dataset in turn.
        leave_out: whether to add runs with a left-out domain.
        afterwards: names in ``AFTERWARDS``.
    """

    recipe: str
    settings: Mapping[str, Any]
    grid: Mapping[str, tuple[Any, ...]]
    variants: tuple[Mapping[str, Any], ...]
    test_domains: tuple[str, ...] | None
    leave_out: bool = False
    afterwards: tuple[str, ...] = ()

    def runs(self, domains: Sequence[str]) -> list[dict[str, Any]]:
        """The settings of every run, with its test domain, in an order in which early results are already a comparison.

        Sorted by seed, tuned settings (learning rate, weight decay), test domain, and compared settings, so that the
        first few runs compare every method on every test domain. Runs with a left-out domain are last.

        Raises:
            UserError: there are more than ``MOST_RUNS``.
        """
        first = [name for name in ("seed", *TUNED) if name in self.grid]
        axes: list[list[Mapping[str, Any]]] = [_axis(name, self.grid[name]) for name in first]
        tested = self.test_domains if self.test_domains is not None else domains
        axes.append(_axis("test_domain", tested))
        axes += [_axis(name, values) for name, values in self.grid.items() if name not in first]
        axes.append(list(self.variants))
        both = [axes]
        if self.leave_out:
            both.append(list(axes))
            both[1][len(first)] = [
                {"test_domain": other, "left_out": target} for target in tested for other in domains if other != target
            ]
        if (count := sum(math.prod(map(len, each)) for each in both)) > MOST_RUNS:
            raise UserError(f"the preset has {count:,} runs, and a sweep at most {MOST_RUNS:,}: shorten its lists")
        made = [parts for each in both for parts in itertools.product(*each)]
        return [{name: value for part in (self.settings, *parts) for name, value in part.items()} for parts in made]

    @property
    def varied(self) -> tuple[str, ...]:
        """Names of the fields in which the runs differ, with the test domain."""
        names = [*self.grid, *dict.fromkeys(name for variant in self.variants for name in variant)]
        first = [name for name in ("seed", *TUNED) if name in names]
        left_out = ["left_out"] if self.leave_out else []
        return (*first, "test_domain", *left_out, *(name for name in names if name not in first))

    def values(self, name: str) -> list[Any]:
        """The values of a field over the runs; the recipe's where the preset has none."""
        found = [variant[name] for variant in self.variants if name in variant] or self.grid.get(name)
        if not found:
            found = [{**defaults_of(self.recipe, **self.settings), **self.settings}[name]]
        return list(dict.fromkeys(found))


@dataclass(frozen=True)
class Preset:
    """A preset.

    Attributes:
        name: name of the file without suffix, and part of the report's.
        path: path of the file.
        title: one line about the comparison.
        figure: the figure that it reproduces; may be empty.
        full: runs at the paper's scale.
        small: runs at ``--scale small``; None where the file has no ``[small]``.
    """

    name: str
    path: Path
    title: str
    figure: str
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
    """Names of the presets that come with the package, sorted by number."""
    return sorted((path.stem for path in FOLDER.glob("*.toml")), key=_by_number)


def read_preset(source: str | Path) -> Preset:
    """Read a preset and check both scales.

    Args:
        source: name in ``preset_names``, or path of a TOML file.

    Raises:
        UserError: there is no such preset, or it is invalid; the message lists all errors.
    """
    text = str(source)
    names = preset_names()
    path = FOLDER / f"{text}.toml" if text in names else Path(source)
    if not path.is_file():
        raise UserError(f"no preset '{text}' and no such file; {one_of(text, names)}")
    try:
        written = read_bytes(path).decode("utf-8")
        content = tomllib.loads(written)
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:  # not TOML, not UTF-8, or nested too deeply
        raise UserError(f"{path} is not a TOML file: {error}") from error
    mistakes = list(problems(content)) or list(_contradictions(content))
    if len(mistakes) == 1:
        raise UserError(f"{path}: {mistakes[0]}")
    if mistakes:
        raise UserError("\n".join([f"{path}: {len(mistakes)} mistakes", *(f"  {problem}" for problem in mistakes)]))
    return Preset(
        name=path.stem,
        path=path,
        title=content["title"],
        figure=content.get("figure", ""),
        full=_scale(content),
        small=_scale(_merged(content, content["small"])) if "small" in content else None,
    )


def with_weights(runs: list[dict[str, Any]], models: Sequence[str], weights: Sequence[str]) -> list[dict[str, Any]]:
    """``runs`` with the user's initial weights.

    Raises:
        UserError: a model is not in the preset or named twice, a file is for several models, or the preset itself sets
            weights.
    """
    files: dict[str, str] = {}
    for text in weights:
        name, separator, file = text.partition("=")
        if not separator and len(models) > 1:
            raise UserError(f"--weights {text}: this preset has {len(models)} models; write --weights MODEL={text}")
        model, file = (name, file) if separator else (models[0], text)
        if model not in models:
            raise UserError(f"--weights {text}: this preset has no such model; {one_of(model, models)}")
        if model in files:
            raise UserError(f"--weights names {model} twice")
        files[model] = file
    changed = []
    for run in runs:
        model = run.get("model", models[0])
        if model in files and "weights" in run:
            raise UserError(f"--weights {files[model]}: the preset itself sets weights, '{run['weights']}'")
        changed.append({**run, "weights": files[model]} if model in files else run)
    return changed


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
        leave_out=content.get("leave_out", False),
        afterwards=tuple(content.get("afterwards", ())),
    )


def _merged(content: Mapping[str, Any], small: Mapping[str, Any]) -> dict[str, Any]:
    """The content of the preset as changed by ``[small]``."""
    variants = small.get("variants", content.get("variants", [{}]))
    named = {*small.get("settings", {}), *small.get("grid", {}), *varying(small.get("variants", []))}
    merged = {**content, **small, "variants": variants}
    for part in ("settings", "grid"):
        kept = {name: value for name, value in content.get(part, {}).items() if name not in named}
        merged[part] = {**kept, **small.get(part, {})}
    return merged


def _by_number(name: str) -> tuple[str, int]:
    number = re.search(r"\d+$", name)
    return (name[: number.start()], int(number[0])) if number else (name, 0)


def _contradictions(content: Mapping[str, Any]) -> Iterator[str]:
    """One message for each contradiction between valid fields of a run."""
    scales = [("", content)]
    if "small" in content:
        scales.append(("small: ", _merged(content, content["small"])))
    for prefix, table in scales:
        scale = _scale(table)
        told: dict[str, None] = {}
        grid = {name: values for name, values in scale.grid.items() if name != "seed"}  # goes with everything
        for run in dataclasses.replace(scale, grid=grid, leave_out=False, test_domains=None).runs([""]):
            try:
                make_config(scale.recipe, **{"data": "", "fingerprint": "", **run})
            except UserError as error:
                told[str(error)] = None
        yield from (f"{prefix}{text}" for text in told)
