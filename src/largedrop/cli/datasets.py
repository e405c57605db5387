"""``largedrop datasets``: the published datasets that are known."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from ..catalog.facts import known, published
from ..files import json_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..catalog.facts import Published

__all__ = ["datasets"]


def datasets(
    name: Annotated[
        str | None, typer.Argument(help="One of them, for all that is known of it.", metavar="NAME")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print every fact as JSON.")] = False,
) -> None:
    """The published datasets that are known by name: their domains, classes, images, licence and paper."""
    from ..report.text import Table, render
    from .terminal import say

    chosen = [published(name)] if name else [published(each) for each in known()]
    console = Console(stderr=False)
    if as_json:
        typer.echo(json_text({each.name: each.to_json() for each in chosen}), nl=False)
    elif name:
        say(console, *(f"{head + ':':<10} {text}" for head, text in _lines(chosen[0])))
    else:
        heads = ("dataset", "domains", "licence", "classes", "images")
        rows = [
            (each.name, _domains(each), each.licence, f"{each.class_count}", f"{each.images:,}" if each.images else "–")
            for each in chosen
        ]
        render(
            [Table("", heads, rows, ("`largedrop datasets NAME` shows all that is known of one.",), left=3)], console
        )


def _domains(facts: Published) -> str:
    """The names of the domains; a shifted ImageNet is one."""
    return ", ".join(facts.domains) if facts.kind == "domains" else facts.kind


def _lines(facts: Published) -> Iterator[tuple[str, str]]:
    """A head and a text for each thing that is known."""
    yield "dataset", facts.name
    if facts.kind != "domains":
        yield "kind", f"{facts.kind}: images to test on, of {facts.class_count} classes of ImageNet"
    yield "domains", ", ".join(f"{name} {count:,}" if count else name for name, count in facts.domains.items())
    if facts.images:
        yield "images", f"{facts.images:,}"
    yield "classes", f"{facts.class_count}" + (f": {', '.join(facts.classes)}" if facts.classes else "")
    yield "licence", facts.licence
    yield "paper", facts.citation
    yield "page", facts.home
    if facts.remark:
        yield "note", facts.remark
    if facts.by_hand:
        yield "by hand", facts.by_hand
