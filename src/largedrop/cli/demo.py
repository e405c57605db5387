"""``largedrop demo``: the whole comparison on the embedded emoji."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..config import DEFAULT_RECIPE
from .options import Device, DryRun, Plain, Precision, plainly
from .running import run_and_publish

__all__ = ["DEMO", "QUICK", "demo"]

DEMO: dict[str, Any] = {
    "test_domains": ("noto", "openmoji"),
    "seeds": (0, 1),
    "dropouts": (0.0, 0.9),
    "steps": 300,
    "size": 96,
    "eval_every": 100,
}
"""docs/recipe.md says how this was chosen. The vendors of the test styles have no style among the training domains."""

QUICK: dict[str, Any] = {**DEMO, "seeds": (0,), "steps": 120, "size": 64, "eval_every": 60}


def demo(
    output: Annotated[
        Path | None, typer.Option(help="Folder for the results. [default: largedrop-demo or largedrop-demo-quick]")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A smaller comparison of the same structure.")] = False,
    device: Device = "auto",
    precision: Precision = "auto",
    plain: Plain = False,
    dry_run: DryRun = False,
) -> None:
    """The whole comparison on the embedded emoji, in minutes on two processor cores."""
    chosen = dict(QUICK if quick else DEMO)
    with plainly(plain):
        run_and_publish(
            "emoji",
            output or Path("largedrop-demo-quick" if quick else "largedrop-demo"),
            title="Emoji in a style never seen: plain fine-tuning, dropout, ensembles and averages",
            device=device,
            skip_bad_images=False,
            dry_run=dry_run,
            precision=precision,
            recipe=DEFAULT_RECIPE,
            **chosen,
        )
