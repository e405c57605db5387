"""``largedrop compare``: leave one domain out in turn."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from .options import IN_QUOTES, Data, Seeds, numbers, option, rates, run_options
from .running import run_and_publish

__all__ = ["compare"]


@run_options
def compare(
    data: Data,
    test_domains: Annotated[
        list[str] | None,
        typer.Option(
            help=f"Domains to test on in turn: again for each, or separated by commas ({IN_QUOTES}). "
            "[default: each domain]",
            show_default=False,
        ),
    ] = None,
    dropout: Annotated[
        str,
        typer.Option(
            help="Dropout rates, separated by commas; 0 is plain fine-tuning, and 'auto' for each test domain what "
            "`largedrop advise` would say."
        ),
    ] = "0,0.5,0.9",
    lr: Annotated[
        str | None,
        option(
            "lr",
            " Of several, separated by commas, each dropout rate takes on each test domain the one of best i.i.d. "
            "accuracy with seed 0, and the other seeds are trained with that.",
        ),
    ] = None,
    seeds: Seeds = 1,
    output: Annotated[
        Path | None, typer.Option(help="Folder for the results. [default: largedrop-runs/DATA-…]")
    ] = None,
    **settings: Any,
) -> None:
    """Leave one domain out in turn, and compare every method at equal budget."""
    run_and_publish(
        data,
        output,
        title="Methods on a domain never seen",
        test_domains=test_domains or None,
        dropouts=tuple(rates("--dropout", dropout, auto=True)),
        learning_rates=() if lr is None else tuple(numbers("--lr", lr, "lr")),
        seeds=tuple(range(seeds)),
        command="compare",
        options={"test-domains": test_domains, "seeds": seeds},
        **settings,
    )
