"""``largedrop compare``: leave one domain out in turn."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import (
    Batch,
    BlockDropout,
    Data,
    DecayAgainAt,
    DecayAt,
    Device,
    DryRun,
    EvalEvery,
    FeatureViews,
    Fit,
    Head,
    HeadLr,
    HeldOut,
    HeldOutView,
    Jobs,
    Lr,
    Model,
    Momentum,
    Objective,
    Optimizer,
    Penalty,
    PenaltyAfter,
    Precision,
    Recipe,
    Seeds,
    Size,
    SkipBad,
    Steps,
    Swad,
    WeightDecay,
    Weights,
)
from .running import given, listed, rates, run_and_publish

__all__ = ["compare"]


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
    recipe: Recipe = "short",
    model: Model = None,
    weights: Weights = None,
    steps: Steps = None,
    size: Size = None,
    batch: Batch = None,
    lr: Lr = None,
    optimizer: Optimizer = None,
    momentum: Momentum = None,
    weight_decay: WeightDecay = None,
    block_dropout: BlockDropout = None,
    objective: Objective = None,
    penalty: Penalty = None,
    penalty_after: PenaltyAfter = None,
    swad: Swad = None,
    fit: Fit = None,
    feature_views: FeatureViews = None,
    head: Head = None,
    head_lr_multiplier: HeadLr = None,
    decay_at: DecayAt = None,
    decay_again_at: DecayAgainAt = None,
    eval_every: EvalEvery = None,
    held_out: HeldOut = None,
    held_out_view: HeldOutView = None,
    precision: Precision = "auto",
    device: Device = "auto",
    jobs: Jobs = 1,
    skip_bad_images: SkipBad = False,
    dry_run: DryRun = False,
) -> None:
    """Leave one domain out in turn, and compare every method at equal budget."""
    settings = given(locals())
    run_and_publish(
        data,
        output,
        title="Methods on a domain never seen",
        device=device,
        jobs=jobs,
        skip_bad_images=skip_bad_images,
        dry_run=dry_run,
        recipe=recipe,
        test_domains=None if test_domains is None else tuple(listed("--test-domains", test_domains)),
        dropouts=tuple(rates(dropout)),
        seeds=tuple(range(seeds)),
        **settings,
    )
