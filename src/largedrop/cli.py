"""The command line: ``largedrop demo``, ``train``, ``compare``, ``report`` and ``sweep``."""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from . import __version__
from .cli_options import (
    Batch,
    BlockDropout,
    Data,
    DecayAt,
    Device,
    DryRun,
    EvalEvery,
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
    WeightDecay,
    Weights,
    default_settings,
    stopping,
)
from .cli_report import report
from .cli_sweep import sweep
from .config import RECIPES, Config, help_of
from .errors import CollapseError, Interrupted, UserError

__all__ = ["app", "main"]

# Before torch is imported. A thread that waits for others should soon give its core back: with another process busy on
# one of two cores, a training step took 1.0 s with the default and 0.7 s with this, and with none 0.33 s with both.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

app = typer.Typer(
    name="largedrop",
    help="Fine-tune a pretrained vision network with very large dropout on its representation, and measure on a "
    "domain it has never seen what that does (Zhang & Bottou, 2024).",
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

# Typer carries a click of its own since 0.29 and used the package click before: what its errors have in common.
_UsageError: type[Exception] = next(base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException")

DEMO: dict[str, Any] = {
    "test_domains": ("noto", "openmoji"),
    "seeds": (0, 1, 2),
    "dropouts": (0.0, 0.5, 0.9),
    "steps": 160,
    "size": 96,
    "eval_every": 40,
}
"""How this was chosen stands in docs/recipe.md. The test styles are those of vendors whose other style is not trained
on."""
QUICK: dict[str, Any] = {**DEMO, "seeds": (0,), "steps": 60, "size": 64, "eval_every": 20}


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.", is_eager=True)] = False,
) -> None:
    if version:
        typer.echo(f"largedrop {__version__}")
        raise typer.Exit


@app.command(epilog="Example: largedrop demo --quick")
def demo(
    output: Annotated[
        Path | None, typer.Option(help="Folder for the results. [default: largedrop-demo or largedrop-demo-quick]")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A smaller one, of the same structure.")] = False,
    device: Device = "auto",
    precision: Precision = "auto",
    dry_run: DryRun = False,
) -> None:
    """The whole comparison on the embedded emoji, in minutes on two processor cores."""
    chosen = dict(QUICK if quick else DEMO)
    _compare(
        "emoji",
        output or Path("largedrop-demo-quick" if quick else "largedrop-demo"),
        title="Emoji in a style never seen: plain fine-tuning, dropout, ensembles and averages",
        device=device,
        skip_bad_images=False,
        dry_run=dry_run,
        precision=precision,
        recipe="short",
        **chosen,
    )


@app.command(epilog="Example: largedrop train path/to/PACS --test-domain sketch --dropout 0.9 --output runs/sketch")
def train(
    data: Data,
    test_domain: Annotated[str, typer.Option(help=help_of("test_domain"))],
    dropout: Annotated[float, typer.Option(help=help_of("dropout"))] = 0.9,
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
    head: Head = None,
    head_lr_multiplier: HeadLr = None,
    decay_at: DecayAt = None,
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
    settings = _given(locals())
    _compare(
        data,
        output,
        title=f"Fine-tuning with dropout {dropout:g}, tested on {test_domain}",
        device=device,
        jobs=jobs,
        skip_bad_images=skip_bad_images,
        dry_run=dry_run,
        recipe=recipe,
        test_domains=(test_domain,),
        dropouts=(dropout,),
        seeds=tuple(range(seeds)),
        checkpoints=True,
        **settings,
    )


@app.command(epilog="Example: largedrop compare path/to/PACS --steps 300 --seeds 3 --output pacs")
def compare(
    data: Data,
    test_domains: Annotated[
        str | None, typer.Option(help="Domains to test on in turn, separated by commas. [default: each domain]")
    ] = None,
    dropout: Annotated[
        str, typer.Option(help="Dropout rates, separated by commas; 0 is plain fine-tuning.")
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
    head: Head = None,
    head_lr_multiplier: HeadLr = None,
    decay_at: DecayAt = None,
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
    settings = _given(locals())
    _compare(
        data,
        output,
        title="Methods on a domain never seen",
        device=device,
        jobs=jobs,
        skip_bad_images=skip_bad_images,
        dry_run=dry_run,
        recipe=recipe,
        test_domains=None if test_domains is None else tuple(_listed("--test-domains", test_domains)),
        dropouts=tuple(_rates(dropout)),
        seeds=tuple(range(seeds)),
        **settings,
    )


app.command(epilog="Example: largedrop report largedrop-runs --output report")(report)
app.command(epilog="Example: largedrop sweep paper-figure-2 --scale small --data path/to/PACS --output sweeps/PACS")(
    sweep
)

SETTINGS = (
    *("model", "weights", "steps", "size", "batch", "lr", "optimizer", "momentum", "weight_decay", "head"),
    *("block_dropout", "objective", "penalty", "penalty_after"),
    *("head_lr_multiplier", "decay_at", "eval_every", "held_out", "held_out_view", "precision"),
)
"""The options that are fields of the config under the same name."""


def _given(options: dict[str, Any]) -> dict[str, Any]:
    return {name: options[name] for name in SETTINGS if options[name] is not None}


def _compare(
    source: str,
    output: Path | None,
    *,
    title: str,
    device: str,
    skip_bad_images: bool,
    dry_run: bool,
    recipe: str,
    checkpoints: bool = False,
    jobs: int = 1,
    **planning: Any,
) -> None:
    """Open the data, plan, run, and publish: what the three commands have in common."""
    # torch and timm take seconds to import, which --help and --version should not.
    from .api import run_name
    from .data import open_dataset
    from .progress import Bar, duration, interruptible
    from .study.compare import compare as run_comparison
    from .study.compare import plan
    from .study.output import publish
    from .training.device import choose_device
    from .training.features import VIEWS

    began = time.monotonic()
    console = Console(stderr=False)
    place = choose_device(device)
    size = planning.get("size") or RECIPES.get(recipe, {}).get("size") or default_settings()["size"]
    with Bar(console, 1, f"opening {source}") as bar:
        bound = max(320, size * 5 // 4)
        data = open_dataset(source, bound=bound, skip_bad_images=skip_bad_images, progress=bar.set)
    if data.skipped:
        console.print(f"left out {len(data.skipped)} images that cannot be decoded", highlight=False)
    planned = plan(data, place, recipe=recipe, **planning)
    first = planned.configs[0]
    count = len(planned.configs)
    console.print(
        f"{data.name}: {len(data)} images, {len(data.domains)} domains, {len(data.classes)} classes\n"
        f"{count} runs of {first.steps} steps ({first.model}, {first.size} px, {first.precision}, {place.type})",
        highlight=False,
    )
    folder = output or Path("largedrop-runs") / _default_name(planned)
    if dry_run:
        for config in planned.configs:
            console.print(f"  {folder / 'runs' / run_name(config)}", highlight=False, soft_wrap=True)
        return
    total = sum(planned.costs) + VIEWS * len(data)
    with Bar(console, total, "fine-tuning") as bar, interruptible(stopping) as stop:
        numbers = iter(range(1, count + 1))

        def begin(config: Config) -> None:
            bar.describe(f"{next(numbers)}/{count} {_named(config)}")

        def failed(config: Config, error: CollapseError) -> None:
            console.print(f"{_named(config)}: {error}", highlight=False)

        def note(text: str) -> None:
            console.print(text, highlight=False, soft_wrap=True)

        result = run_comparison(
            data,
            planned,
            folder,
            device=place,
            jobs=jobs,
            progress=bar.advance,
            begin=begin,
            failed=failed,
            note=note,
            stop=stop,
        )
    seconds = time.monotonic() - began
    files = publish(
        console, data, planned, result, folder, title=title, command=_command(), seconds=seconds, device=place
    )
    if checkpoints:
        files += [run.best for run in result.runs]
    console.print(f"{duration(seconds)}; written:", highlight=False)
    for path in files:
        console.print(f"  {path}", highlight=False, soft_wrap=True)
    if result.failed:
        raise UserError(f"{len(result.failed)} of {count} runs collapsed and are missing from the results")


def _named(config: Config) -> str:
    return f"{config.test_domain}, dropout {config.dropout:g}, seed {config.seed}"


def _default_name(planned: Any) -> str:
    """A folder's name for the comparison: the data, what is tested if that is one domain, and a digest of the
    settings.
    """
    from .config import with_settings

    first = planned.configs[0]
    domains = planned.test_domains
    digest = with_settings(first, dropout=0.0, test_domain="", seed=0).digest()
    return "-".join([first.data, *(domains if len(domains) == 1 else ()), digest])


def _listed(flag: str, text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise UserError(f"{flag} names nothing: {text!r}")
    return names


def _rates(text: str) -> list[float]:
    from .models.dropout import check_rate

    return [check_rate(rate) for rate in _listed("--dropout", text)]  # type: ignore[arg-type]


def _command() -> str:
    return shlex.join(["largedrop", *sys.argv[1:]])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; a mistake of the user gives one clear line on standard error, and 2.

    Returns:
        The exit code: 0, or 2 where something was wrong or Ctrl-C was pressed.
    """
    try:
        code = app(args=arguments, standalone_mode=False)
    except _UsageError as error:
        return _complain(error.format_message())  # type: ignore[attr-defined]
    except UserError as error:
        return _complain(str(error))
    except Interrupted as error:
        return _complain(f"{error}; all of it is kept, and the same command goes on from there")
    except (KeyboardInterrupt, typer.Abort):
        return _complain(
            "interrupted; finished runs and saved states are kept, and the same command goes on from there"
        )
    except BrokenPipeError:
        return 0
    return code if isinstance(code, int) else 0


def _complain(message: str) -> int:
    print(f"largedrop: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
