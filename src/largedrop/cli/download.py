"""``largedrop download``: a published dataset as a folder ``domain/class/image``."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from ..catalog.facts import published
from ..catalog.transfer import Watcher

if TYPE_CHECKING:
    from .terminal import ProgressBar

__all__ = ["download"]


def download(
    name: Annotated[str, typer.Argument(help="A dataset that `largedrop datasets` lists.", metavar="NAME")],
    output: Annotated[Path | None, typer.Option(help="Folder to make. [default: ./NAME]")] = None,
    have: Annotated[
        Path | None, typer.Option("--from", help="Folder with its files, if you have downloaded some by other means.")
    ] = None,
) -> None:
    """Download a published dataset, check it, and lay it out as domain/class/image."""
    from ..catalog.download import download as run
    from .terminal import say

    console = Console(stderr=True)
    facts = published(name)
    say(console, f"{facts.name}: {facts.citation}", f"licence: {facts.licence} ({facts.home})")
    with closing(_Shown(console)) as shown:
        found = run(facts, output or Path(facts.name), have, shown)
    listed = ", ".join(f"{domain} {count:,}" for domain, count in found.images.items())
    say(console, *found.notes, f"{sum(found.images.values()):,} images in {found.folder}: {listed}")


class _Shown(Watcher):
    """A bar for each file that is received, and one for unpacking."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.bar: ProgressBar | None = None

    def begin(self, name: str, had: int, total: int | None) -> None:
        if total is None:
            self.note(f"downloading {name}, whose size its server does not say")
        self._start(f"downloading {name}" + (f" ({total / 1e9:.2f} GB)" if total else ""), total)
        if self.bar is not None:
            self.bar.skip(had)

    def received(self, count: int) -> None:
        if self.bar is not None:
            self.bar.advance(count)

    def unpack(self, images: int | None) -> None:
        self._start("unpacking", images)

    def unpacked(self) -> None:
        self.received(1)

    def note(self, text: str) -> None:
        from .terminal import say

        say(self.console, text)

    def close(self) -> None:
        """End the bar."""
        if self.bar is not None:
            self.bar.__exit__()
        self.bar = None

    def _start(self, what: str, total: int | None) -> None:
        from .terminal import ProgressBar

        self.close()
        if total:
            self.bar = ProgressBar(self.console, total, what).__enter__()
