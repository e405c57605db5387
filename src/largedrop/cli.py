"""The command line: ``largedrop demo``, ``train``, ``compare``, ``advise``, ``inspect``, ``report`` and ``sweep``."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from . import __version__
from .cli_advise import advise
from .cli_compare import compare, run_and_publish, train
from .cli_inspect import inspect
from .cli_options import Device, DryRun, Precision
from .cli_report import report
from .cli_sweep import sweep
from .errors import Interrupted, UserError

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
    run_and_publish(
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


app.command(epilog="Example: largedrop train path/to/PACS --test-domain sketch --dropout 0.9 --output runs/sketch")(
    train
)
app.command(epilog="Example: largedrop compare path/to/PACS --steps 300 --seeds 3 --output pacs")(compare)
app.command(epilog="Example: largedrop advise path/to/PACS --test-domain sketch")(advise)
app.command(epilog="Example: largedrop inspect comparison/runs --data path/to/PACS --output inspection")(inspect)
app.command(epilog="Example: largedrop report largedrop-runs --output report")(report)
app.command(epilog="Example: largedrop sweep paper-figure-2 --scale small --data path/to/PACS --output sweeps/PACS")(
    sweep
)


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
