"""``largedrop compare``: leave one domain out in turn."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from .options import Data, Seeds, listed, rates, run_options
from .running import run_and_publish

__all__ = ["compare"]


@run_options
def compare(
    data: Data,
    test_domains: Annotated[
        str | None, typer.Option(help="Domains to test on in turn, separated by commas. [default: each domain]")
    ] = None,
    dropout: Annotated[
        str,
        typer.Option(
            help="Dropout rates, separated by commas; 0 is plain fine-tuning, and 'auto' for each test domain what "
            "`largedrop advise` would say."
        ),
    ] = "0,0.5,0.9",
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
        test_domains=None if test_domains is None else tuple(listed("--test-domains", test_domains)),
        dropouts=tuple(rates("--dropout", dropout, auto=True)),
        seeds=tuple(range(seeds)),
        command="compare",
        options={"test-domains": test_domains, "seeds": seeds},
        **settings,
    )
