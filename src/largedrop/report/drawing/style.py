"""Colours and files of all figures."""

from __future__ import annotations

import io
import threading
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure

from ...files import write_bytes
from ...runs.methods import PLAIN, Method
from .fonts import every_script

__all__ = ["GREY", "IID", "INK", "OOD", "edge_of", "face_of", "mixed", "rendered", "save_figure"]

IID, OOD = "i.i.d. accuracy (%)", "o.o.d. accuracy (%)"

GREY, INK = "#999999", "#333333"

_DPI = 150

_OWN = {"png": ("Software",), "svg": ("Date", "Creator"), "pdf": ("CreationDate", "Creator", "Producer")}
"""What matplotlib says of itself and of the time, by kind of file; it is left out."""

_saving = threading.Lock()


def rendered(figure: Figure, kind: str) -> bytes:
    """The figure as ``png`` (150 dots an inch), ``svg`` or ``pdf``; the same bytes for the same figure."""
    buffer = io.BytesIO()
    # matplotlib takes the salt of an SVG's identifiers from its global settings only, so one figure at a time.
    settings: Any = {"svg.hashsalt": "largedrop", "svg.fonttype": "path"}
    with _saving, mpl.rc_context(settings), every_script(figure):
        figure.savefig(buffer, format=kind, dpi=_DPI, metadata=dict.fromkeys(_OWN[kind]))
    return buffer.getvalue()


def save_figure(figure: Figure, path: Path) -> tuple[Path, Path]:
    """Write the figure as PNG and as SVG.

    Args:
        figure: the figure.
        path: path of the files, with or without suffix ``.png`` or ``.svg``.

    Returns:
        Paths of the PNG and of the SVG.

    Raises:
        UserError: a file cannot be written.
    """
    stem = path.stem if path.suffix.lower() in (".png", ".svg") else path.name
    png, svg = path.with_name(f"{stem}.png"), path.with_name(f"{stem}.svg")
    for target in (png, svg):
        write_bytes(target, rendered(figure, target.suffix[1:]))
    return png, svg


def face_of(method: Method, dropout: float) -> str:
    """The colour of a marker's face, fuller for larger rates; plain fine-tuning has the full colour."""
    return method.colour if method is PLAIN else mixed(method.colour, "white", 0.65 * (1 - dropout))


def edge_of(method: Method) -> str:
    """The colour of a marker's edge and of outlines."""
    return mixed(method.colour, "black", 0.35)


def mixed(colour: str, other: str, share: float) -> str:
    """``share`` of ``other`` mixed into ``colour``."""
    mixture = (1 - share) * np.array(to_rgb(colour)) + share * np.array(to_rgb(other))
    return to_hex((float(mixture[0]), float(mixture[1]), float(mixture[2])))
