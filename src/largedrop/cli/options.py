"""The options that several commands share; those that are fields of the config take their help from it."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from ..config import ABOUT, RECIPES, defaults_of


def _option(name: str, *flags: str) -> Any:
    """An option whose help is the config's line, with its default in each recipe."""
    values = {recipe: defaults_of(recipe)[name] for recipe in RECIPES}
    same = len(set(values.values())) == 1
    shown = f"{values['short']}" if same else ", ".join(f"{recipe}: {value}" for recipe, value in values.items())
    tail = "" if shown == "None" else f" [default: {shown}]"
    return typer.Option(*flags, help=f"{ABOUT[name].help}{tail}", show_default=False)


def stopping() -> None:
    """What is said at the first Ctrl-C."""
    print("\nlargedrop: stopping after this step, to save it (Ctrl-C again stops at once)", file=sys.stderr)


Data = Annotated[str, typer.Argument(help="A folder domain/class/image, or 'emoji'.", metavar="DATA")]

Recipe = Annotated[
    str, typer.Option(help="Where the defaults come from: 'short' (minutes) or 'paper' (10,000 steps at 224 pixels).")
]

Model = Annotated[str | None, _option("model")]

Weights = Annotated[str | None, _option("weights")]

Steps = Annotated[int | None, _option("steps")]

Size = Annotated[int | None, _option("size")]

Batch = Annotated[int | None, _option("batch")]

Lr = Annotated[float | None, _option("lr")]

Optimizer = Annotated[str | None, _option("optimizer")]

Momentum = Annotated[float | None, _option("momentum")]

WeightDecay = Annotated[float | None, _option("weight_decay")]

BlockDropout = Annotated[float | None, _option("block_dropout")]

Objective = Annotated[str | None, _option("objective")]

Penalty = Annotated[float | None, _option("penalty")]

PenaltyAfter = Annotated[int | None, _option("penalty_after")]

Head = Annotated[str | None, _option("head")]

HeadLr = Annotated[float | None, _option("head_lr_multiplier", "--head-lr-multiplier")]

DecayAt = Annotated[float | None, _option("decay_at")]

DecayAgainAt = Annotated[float | None, _option("decay_again_at")]

Swad = Annotated[bool | None, typer.Option("--swad", help=ABOUT["swad"].help, show_default=False)]

Fit = Annotated[str | None, _option("fit")]

FeatureViews = Annotated[int | None, _option("feature_views")]

LeftOut = Annotated[str | None, typer.Option(help=ABOUT["left_out"].help, show_default=False)]

EvalEvery = Annotated[int | None, _option("eval_every")]

HeldOut = Annotated[float | None, _option("held_out")]

HeldOutView = Annotated[str | None, _option("held_out_view")]

Precision = Annotated[str, typer.Option(help="'float32', 'bfloat16', or 'auto': bfloat16 where the device has it.")]

Device = Annotated[str, typer.Option(help="'auto', 'cpu', 'cuda' or 'cuda:1'.")]

Jobs = Annotated[
    int, typer.Option(help="Runs side by side, in a process each: worth it on a GPU that one run leaves idle.", min=1)
]

Seeds = Annotated[int, typer.Option(help="How many seeds: 0, 1, …", min=1)]

SkipBad = Annotated[
    bool, typer.Option("--skip-bad-images", help="Leave images out that cannot be decoded, and count them.")
]

DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")]
