"""``largedrop train``: fine-tune for one test domain."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..config import ABOUT
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
    LeftOut,
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
from .running import AUTO, given, rates, run_and_publish

__all__ = ["train"]


def train(
    data: Data,
    test_domain: Annotated[str, typer.Option(help=ABOUT["test_domain"].help)],
    left_out: LeftOut = None,
    dropout: Annotated[
        str, typer.Option(help=f"{ABOUT['dropout'].help} 'auto' takes what `largedrop advise` would.")
    ] = "0.9",
    seeds: Seeds = 1,
    output: Annotated[
        Path | None, typer.Option(help="Folder for the runs. [default: largedrop-runs/DATA-DOMAIN-…]")
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
    """Fine-tune on every domain but one, and score on that one. Leaves checkpoints to predict with."""
    settings = given(locals())
    (rate,) = rates(dropout, most=1)
    run_and_publish(
        data,
        output,
        title=f"Fine-tuning with dropout {rate if rate == AUTO else f'{rate:g}'}, tested on {test_domain}",
        device=device,
        jobs=jobs,
        skip_bad_images=skip_bad_images,
        dry_run=dry_run,
        recipe=recipe,
        test_domains=(test_domain,),
        dropouts=(rate,),
        seeds=tuple(range(seeds)),
        checkpoints=True,
        **settings,
    )
