"""Presets: what a figure of the paper is made of, as a small TOML file that is read, checked as a whole, and expanded.

title, figure    what it is, and what it reproduces
recipe           where the settings come from that it does not name: 'short' or 'paper'
[settings]       fields of ``Config`` that every run has
[grid]           fields of ``Config`` with a list each; every combination is a run
[[variants]]     fields of ``Config`` that change together: each table is combined with the whole grid
test_domains     'all', or a list
leave_out        true for what leave-one-domain-out selection needs as well: every run once more for each domain that
                 is left out of its training besides the test domain
afterwards       what is computed from the finished runs: 'across' (ensembles, averages and soups of all trajectories),
                 'interpolation' (between the pretrained and the fine-tuned network)
[small]          ``recipe``, ``settings``, ``grid``, ``variants``, ``test_domains``, ``leave_out`` and ``afterwards``
                 of ``--scale small``. A field that is named there replaces the preset's own, wherever that stands.
"""

from __future__ import annotations

import dataclasses
import itertools
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..config import TUNED, defaults_of, make_config
from ..errors import UserError, one_of
from .preset_problems import problems, varying

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["SCALES", "Preset", "Scale", "preset_names", "read_preset", "with_weights"]

FOLDER = Path(__file__).parent / "presets"
"""Where the presets lie that come with the package."""

SCALES = ("full", "small")


@dataclass(frozen=True)
class Scale:
    """What is trained at one scale.

    Attributes:
        recipe: a name in ``RECIPES``.
        settings: fields of ``Config`` that every run has.
        grid: fields of ``Config`` with their values.
        variants: fields that change together; at least one entry, which may be empty.
        test_domains: None for each domain of the dataset in turn.
        leave_out: whether there are runs that leave out another domain besides.
        afterwards: some of ``AFTERWARDS``.
    """

    recipe: str
    settings: Mapping[str, Any]
    grid: Mapping[str, tuple[Any, ...]]
    variants: tuple[Mapping[str, Any], ...]
    test_domains: tuple[str, ...] | None
    leave_out: bool = False
    afterwards: tuple[str, ...] = ()

    def runs(self, domains: Sequence[str]) -> list[dict[str, Any]]:
        """The settings of every run, its test domain included, in an order in which early results say something.

        Seed by seed; within a seed by what is tuned (learning rate, weight decay), then by test domain, and what is
        compared changes fastest: the first few runs already compare every method on every test domain. Those that
        leave a domain out come last: they test on each domain while each other one, in turn, is the one that the
        choice is for.
        """
        first = [name for name in ("seed", *TUNED) if name in self.grid]
        axes: list[list[Mapping[str, Any]]] = [_axis(name, self.grid[name]) for name in first]
        tested = self.test_domains if self.test_domains is not None else domains
        axes.append(_axis("test_domain", tested))
        axes += [_axis(name, values) for name, values in self.grid.items() if name not in first]
        axes.append(list(self.variants))
        made = list(itertools.product(*axes))
        if self.leave_out:
            axes[len(first)] = [
                {"test_domain": other, "left_out": target} for target in tested for other in domains if other != target
            ]
            made += itertools.product(*axes)
        return [{name: value for part in (self.settings, *parts) for name, value in part.items()} for parts in made]

    @property
    def varied(self) -> tuple[str, ...]:
        """The fields in which the runs differ, the test domain included."""
        names = [*self.grid, *dict.fromkeys(name for variant in self.variants for name in variant)]
        first = [name for name in ("seed", *TUNED) if name in names]
        left_out = ["left_out"] if self.leave_out else []
        return (*first, "test_domain", *left_out, *(name for name in names if name not in first))

    def values(self, name: str) -> list[Any]:
        """Every value that the runs have of a field, that of the recipe where the preset has none."""
        found = [variant[name] for variant in self.variants if name in variant] or self.grid.get(name)
        if not found:
            found = [{**defaults_of(self.recipe, self.settings.get("fit", "all")), **self.settings}[name]]
        return list(dict.fromkeys(found))


@dataclass(frozen=True)
class Preset:
    """A preset.

    Attributes:
        name: the file's, without its ending; names the report.
        path: of the file.
        title: a line that says what is compared.
        figure: what it reproduces; empty where it does not say.
        full: what is trained as the paper has it.
        small: what is trained at ``--scale small``; None where the file has no ``[small]``.
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
    """The presets that come with the package, by number."""
    return sorted((path.stem for path in FOLDER.glob("*.toml")), key=_by_number)


def read_preset(source: str | Path) -> Preset:
    """Read a preset and check all of it, both scales.

    Args:
        source: a name that ``preset_names`` has, or the path of a TOML file.

    Raises:
        UserError: there is none, or something is wrong with it: all that is, at once.
    """
    text = str(source)
    names = preset_names()
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
    """The runs with the initial weights that the user names.

    Raises:
        UserError: a model that the preset does not have, one named twice, a file for several models, or runs that have
            weights of their own.
    """
    files: dict[str, str] = {}
    for text in weights:
        name, separator, file = text.partition("=")
        if not separator and len(models) > 1:
            raise UserError(f"--weights {text}: this preset has {len(models)} models; say --weights MODEL={text}")
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
    """The preset as ``[small]`` changes it."""
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
    """Fields of one run, each right by itself, that cannot be had together; each once."""
    scales = [("", content)]
    if "small" in content:
        scales.append(("small: ", _merged(content, content["small"])))
    for prefix, table in scales:
        scale = _scale(table)
        told: dict[str, None] = {}
        for run in dataclasses.replace(scale, leave_out=False, test_domains=None).runs([""]):
            try:
                make_config(scale.recipe, **{"data": "", "fingerprint": "", **run})
            except UserError as error:
                told[str(error)] = None
        yield from (f"{prefix}{text}" for text in told)
