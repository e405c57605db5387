"""``largedrop sweep --status``: how far the sweeps in a folder are."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from ..errors import UserError

__all__ = ["AsJson", "Status", "show_status"]

Status = Annotated[
    bool,
    typer.Option(
        "--status", help="Show how far the sweeps in --output are, who works on what, and what failed; train nothing."
    ),
]

AsJson = Annotated[bool, typer.Option("--json", help="Print the --status as JSON.")]


def show_status(output: Path | None, preset: str | None, as_json: bool) -> None:
    """Print how far the sweeps in a folder are, as tables or as JSON; nothing is opened but what is in it.

    Raises:
        UserError: no folder is named, or there is no such sweep in it.
    """
    from ..experiments.status import status_of
    from ..files import json_text
    from ..report.status import status_tables
    from ..report.text import render

    if output is None:
        raise UserError("--status is of the runs in a folder: name it with --output")
    found = status_of(output, preset or "")
    if as_json:
        print(json_text(found.to_json()), end="")
    else:
        render(status_tables(found), Console(stderr=False))
