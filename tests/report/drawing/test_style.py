"""Files of figures: the same bytes each time, and nothing global is touched."""

from __future__ import annotations

import io
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from largedrop.report.drawing.panels import label_axes, panels_of
from largedrop.report.drawing.style import rendered, save_figure


def make() -> Figure:
    figure, (axes,) = panels_of(["panel"], "title", width=3.2, height=3.2)
    axes.plot([0, 1], [0, 1], gid="a line")
    label_axes([axes], "across", "o.o.d. accuracy (%)")
    return figure


def test_files_decode_and_are_the_same_each_time(tmp_path: Path) -> None:
    png, svg = save_figure(make(), tmp_path / "one" / "figure-0.9")
    assert (png.name, svg.name) == ("figure-0.9.png", "figure-0.9.svg")
    again = save_figure(make(), tmp_path / "figure.png")
    assert [path.name for path in again] == ["figure.png", "figure.svg"]
    assert png.read_bytes() == again[0].read_bytes()
    assert svg.read_bytes() == again[1].read_bytes()
    image = Image.open(io.BytesIO(png.read_bytes()))
    image.load()
    assert image.size == (900, 645)  # 6 by 4.3 inches
    assert np.asarray(image.convert("L")).std() > 5
    text = svg.read_text("utf-8")
    assert "<dc:date>" not in text
    assert "a line" in text
    assert "<!-- o.o.d. accuracy (%) -->" in text
    pdf = rendered(make(), "pdf")
    assert pdf.startswith(b"%PDF")
    assert b"Date" not in pdf


def test_nothing_global_is_touched(tmp_path: Path) -> None:
    before = dict(mpl.rcParams)
    with ThreadPoolExecutor(4) as pool:
        pngs = list(pool.map(lambda _: rendered(make(), "png"), range(4)))
    save_figure(make(), tmp_path / "figure")
    assert dict(mpl.rcParams) == before
    assert len(set(pngs)) == 1
    if "matplotlib.pyplot" in sys.modules:  # other tests may have imported it; no figure of ours is registered there
        assert sys.modules["matplotlib.pyplot"].get_fignums() == []
