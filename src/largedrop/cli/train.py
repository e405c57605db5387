"""``largedrop train``: fine-tune on every domain but the test domains."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..config import ABOUT
from ..errors import UserError
from .options import AUTO, IN_QUOTES, Data, Seeds, option, rates, run_options
from .running import run_and_publish

__all__ = ["train"]


@run_options
def train(
    data: Data,
    test_domain: Annotated[
        list[str] | None,
        typer.Option(
            help=f"Domain for the o.o.d. score: never trained on, never selected on. Again for each of several, or "
            f"separated by commas ({IN_QUOTES}). [default: none; every domain is trained on]",
            show_default=False,
        ),
    ] = None,
    left_out: Annotated[str, option("left_out")] = "",
    dropout: Annotated[
        str, typer.Option(help=f"{ABOUT['dropout'].help} 'auto' takes what `largedrop advise` would.")
    ] = "0.9",
    seeds: Seeds = 1,
    output: Annotated[
        Path | None, typer.Option(help="Folder for the runs. [default: largedrop-runs/DATA-DOMAIN-…]")
    ] = None,
    **settings: Any,
) -> None:
    """Fine-tune on every domain but the test domains, and score on these. Leaves checkpoints to predict with."""
    rate, *others = rates("--dropout", dropout, auto=True)
    if others:
        raise UserError(
            f"--dropout takes one rate here, not {1 + len(others)} ({dropout}); `largedrop compare` takes several"
        )
    run_and_publish(
        data,
        output,
        title=f"Fine-tuning with dropout {rate if rate == AUTO else f'{rate:g}'}",
        test_domains=test_domain or (),
        at_once=True,
        left_out=left_out,
        dropouts=(rate,),
        seeds=tuple(range(seeds)),
        command="train",
        options={"test-domain": test_domain, "left-out": left_out or None, "seeds": seeds},
        checkpoints=True,
        **settings,
    )
