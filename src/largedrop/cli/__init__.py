"""The command line: ``largedrop demo``, ``train``, ``compare``, … each in a file of its name."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from .._version import __version__
from ..errors import Interrupted, UserError, out_of_memory, unanswered, visible
from . import (
    advise,
    check,
    compare,
    datasets,
    demo,
    doctor,
    download,
    evaluate,
    export,
    inspect,
    predict,
    report,
    sweep,
    train,
)
from .output import printing

__all__ = ["app", "main"]


# Set before torch is imported. A waiting thread then releases its core soon: with another process busy on one of two
# cores a training step took 0.56 s with this setting and more than 1 s without; with nothing beside it, it may take a
# third longer (docs/performance.md).
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

# The base class of Typer's errors, from its own copy of click since 0.29 and from the package click before.
_UsageError: type[Exception] = next(base for base in typer.BadParameter.__mro__ if base.__name__ == "ClickException")

_CTRL_C = 130
"""Typer's exit code for a KeyboardInterrupt; its first versions raise Abort instead."""


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.", is_eager=True)] = False,
) -> None:
    if version:
        typer.echo(f"largedrop {__version__}")
        raise typer.Exit


app.command(epilog="Example: largedrop demo --quick")(demo.demo)
app.command(epilog="Example: largedrop train path/to/PACS --test-domain sketch --dropout 0.9 --output runs/sketch")(
    train.train
)

app.command(epilog="Example: largedrop compare path/to/PACS --steps 300 --seeds 3 --output pacs")(compare.compare)

app.command(epilog="Example: largedrop advise path/to/PACS --test-domain sketch")(advise.advise)

app.command(epilog="Example: largedrop check path/to/PACS")(check.check)

app.command(epilog="Example: largedrop doctor --output doctor.json")(doctor.doctor)

app.command(epilog="Example: largedrop inspect comparison/runs --data path/to/PACS --output inspection")(
    inspect.inspect
)

app.command(epilog="Example: largedrop predict runs/sketch path/to/photos --output predictions.csv")(predict.predict)

app.command(epilog="Example: largedrop evaluate runs/sketch path/to/labelled --output evaluation")(evaluate.evaluate)

app.command(epilog="Example: largedrop export runs/sketch --output sketch.onnx")(export.export)

app.command(epilog="Example: largedrop report largedrop-runs --output report")(report.report)

app.command(epilog="Example: largedrop sweep paper-figure-2 --scale small --data path/to/PACS --output sweeps/PACS")(
    sweep.sweep
)

app.command(epilog="Example: largedrop datasets VLCS")(datasets.datasets)

app.command(epilog="Example: largedrop download PACS --output path/to/PACS")(download.download)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; a user's mistake prints one line on standard error.

    Returns:
        The exit code: 0, or 2 after an error, after Ctrl-C, or where not all could be printed.
    """
    with printing() as output:
        code = _run(arguments)
        output.flush()
        if output.error is None or output.closed_early or code:  # an error has been told
            return code
        reason = output.error.strerror or output.error
        return _complain(f"cannot write to standard output: {reason}; what is written to files is whole")


def _run(arguments: Sequence[str] | None) -> int:
    try:
        code = app(args=arguments, standalone_mode=False)
    except _UsageError as error:
        return _complain(error.format_message())  # type: ignore[attr-defined]
    except UserError as error:
        return _complain(str(error))
    except Interrupted as error:
        return _complain(f"{error}; the state is kept, and the same command resumes from there")
    except (MemoryError, RuntimeError) as error:
        if not out_of_memory(error):
            raise
        return _complain("this needs more memory than is free; what is finished is kept")
    except (KeyboardInterrupt, typer.Abort):
        code = _CTRL_C
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return _complain(f"{str(error.filename)[:60]}… is too long for the name of a file or folder")
        if not (told := unanswered(error)):
            raise
        return _complain(told)
    if code == _CTRL_C:
        return _complain(
            "interrupted; finished runs and saved states are kept, and the same command resumes from there"
        )
    return code if isinstance(code, int) else 0


def _complain(message: str) -> int:
    lines = (visible(line) for line in message.split("\n"))
    print("largedrop:", "\n".join(lines), file=sys.stderr)
    return 2
