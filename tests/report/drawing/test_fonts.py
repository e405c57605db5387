"""Names in scripts that matplotlib's own font lacks; warnings are errors here."""

from __future__ import annotations

import pytest
from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.text import Text

from largedrop.report.drawing import fonts
from largedrop.report.drawing.panels import label_axes, panels_of
from largedrop.report.drawing.style import rendered


def make(name: str) -> Figure:
    figure, (axes,) = panels_of(["plain"], name, width=3.2, height=3.2)
    axes.plot([0, 1], [0, 1])
    axes.set_yticks([0, 1], [name, "plain"])
    label_axes([axes], name, "plain")
    return figure


def families(figure: Figure) -> dict[str, list[str]]:
    return {text.get_text(): text.get_fontfamily() for text in figure.findobj(Text) if isinstance(text, Text)}


@pytest.mark.parametrize("kind", ["png", "svg", "pdf"])
def test_an_installed_font_that_has_the_characters_is_found(kind: str) -> None:
    """Circled letters are not in DejaVu Sans, and in a font that comes with matplotlib."""
    figure = make("ⒶⒷ")
    assert rendered(figure, kind) == rendered(make("ⒶⒷ"), kind)
    found = families(figure)
    assert found["ⒶⒷ"] == ["sans-serif", "STIXGeneral"]
    assert found["plain"] == ["sans-serif"]


@pytest.mark.parametrize("name", ["北京", "ภาษาไทย", "a\nb", "$x^", "\ue123"])
def test_what_no_font_has_is_drawn_without_a_warning(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = [entry for entry in font_manager.fontManager.ttflist if "DejaVu" in entry.name]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", ours)
    fonts._families.cache_clear()
    try:
        figure = make(name)
        assert rendered(figure, "png") == rendered(make(name), "png")
        assert families(figure)[name] == ["sans-serif"]
    finally:
        fonts._families.cache_clear()


def test_the_font_of_last_resort_has_boxes_only() -> None:
    assert not any("Last Resort" in name for name in fonts._families(frozenset({0xE123, 0x10FFFD})))
