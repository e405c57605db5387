"""``largedrop export``: a model as ONNX, as an exported program, or in timm's layout with a model card."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from ..errors import UserError, one_of
from .destination import check_file, check_folder

__all__ = ["export"]

_FORMATS = ("onnx", "torch", "timm")

_ENDINGS = {".onnx": "onnx", ".pt2": "torch", "": "timm"}


def export(
    model: Annotated[
        Path, typer.Argument(help="A run's folder (of its model), or a checkpoint (.safetensors).", metavar="MODEL")
    ],
    output: Annotated[
        Path, typer.Option(help="A file .onnx or .pt2 (torch.export), or a folder in timm's layout with a model card.")
    ],
    format: Annotated[
        str | None, typer.Option(help="'onnx', 'torch' or 'timm', where the name of the output does not say.")
    ] = None,
    bare: Annotated[
        bool,
        typer.Option(
            "--bare", help="ONNX and torch: take normalised float32 (n, 3, size, size) instead of uint8 pixels."
        ),
    ] = False,
    images: Annotated[
        list[str] | None,
        typer.Option(help="Images on which what is written is compared with the model; emoji by default."),
    ] = None,
    evaluation: Annotated[
        Path | None, typer.Option(help="evaluation.json of `largedrop evaluate`, for the model card.")
    ] = None,
    licence: Annotated[str, typer.Option(help="Licence in the model card, as the hub names it.")] = "other",
    push: Annotated[
        str | None, typer.Option(help="Also upload the folder to this repository, OWNER/NAME, of the model hub.")
    ] = None,
    public: Annotated[bool, typer.Option("--public", help="Make the repository public, if it is new.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace what exists.")] = False,
) -> None:
    """Write a model for other programs, compared with it on images before it is written."""
    chosen = format or _ENDINGS.get(output.suffix.lower())
    if chosen is None:
        raise UserError(f"what format is {output}? its ending may be .onnx or .pt2; or name it with --format")
    if chosen not in _FORMATS:
        raise UserError(f"unknown format '{chosen}'; {one_of(chosen, _FORMATS)}")
    if chosen != "timm" and (push is not None or public or evaluation):
        raise UserError("--push, --public and --evaluation are for a folder in timm's layout: name one with --output")
    if chosen == "timm" and bare:
        raise UserError("--bare is for ONNX and torch; timm's layout has no preprocessing inside")
    _check_output(output, chosen, overwrite)
    (check_folder if chosen == "timm" else check_file)(output)

    from ..export.card import card_of
    from ..export.graphs import write_onnx, write_program
    from ..export.hub import check_push, write_timm
    from ..export.hub import push as upload
    from ..files import read_json
    from ..prediction.ensemble import not_calibrated, open_networks, test_images_of
    from .terminal import say

    if push is not None:
        check_push(push)
    console = Console(stderr=False)
    (network,) = networks = open_networks(model)
    if note := not_calibrated(networks):
        say(console, note)
    if chosen == "timm":
        card = card_of(
            network,
            name=push or output.name,
            test_images=test_images_of(model),
            evaluation=None if evaluation is None else read_json(evaluation),
            licence=licence,
            address=f"hf-hub:{push}" if push else f"local-dir:{output}",
        )
        apart = write_timm(network, output, card, images=images)
    else:
        apart = (write_onnx if chosen == "onnx" else write_program)(network, output, bare=bare, images=images)
    say(console, f"the same probabilities as the model to {apart:.1g}; written: {output}")
    if push is not None:
        say(console, f"pushed: {upload(output, push, public=public)}")


def _check_output(output: Path, chosen: str, overwrite: bool) -> None:
    """Raise UserError where ``output`` is of another kind, or exists and is not to be replaced."""
    if chosen == "timm":
        if output.exists() and not output.is_dir():
            raise UserError(f"{output} is a file; timm's layout is a folder")
        if not overwrite and output.is_dir() and any(output.iterdir()):
            raise UserError(f"{output} is not empty: name another --output, or say --overwrite")
        return
    if output.is_dir():
        raise UserError(f"{output} is a folder: name a file with --output")
    if output.exists() and not overwrite:
        raise UserError(f"{output} exists: name another --output, or say --overwrite")
