"""Fonts for names in scripts that matplotlib's own font lacks, such as Chinese, from those that are installed."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, fontManager, get_font
from matplotlib.text import Text

__all__ = ["every_script"]


@contextmanager
def every_script(figure: Figure) -> Iterator[None]:
    """Give each text of the figure the fonts for its characters; what no font has is drawn as boxes, without a warning.

    Within the block the figure can be drawn.
    """
    for axes in figure.axes:
        axes.get_xticklabels(), axes.get_yticklabels()  # makes them
    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        lacking = frozenset(map(ord, text.get_text())) - _characters(findfont(text.get_fontproperties())) - {10}
        if lacking:
            text.set_fontfamily([*text.get_fontfamily(), *_families(lacking)])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)
        yield


@cache
def _families(lacking: frozenset[int]) -> tuple[str, ...]:
    """Names of installed fonts that have these characters between them, as far as any has: few fonts, upright first."""
    found: list[str] = []
    real = [font for font in fontManager.ttflist if not font.name.startswith("Last Resort")]  # which has boxes
    entries = sorted(real, key=lambda font: (font.style != "normal", abs(_weight(font.weight) - 400)))
    while lacking and entries:
        best = max(entries, key=lambda font: len(lacking & _characters(font.fname)))
        having = lacking & _characters(best.fname)
        if not having:
            break
        found.append(best.name)
        lacking -= having
    return tuple(found)


def _weight(weight: int | str) -> int:
    return weight if isinstance(weight, int) else 400


@cache
def _characters(path: str) -> frozenset[int]:
    """Code points of the characters that a font file has; none where matplotlib cannot read it."""
    try:
        return frozenset(get_font(path).get_charmap())
    except (OSError, RuntimeError):
        return frozenset()
