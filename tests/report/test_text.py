"""Tables as text."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from largedrop.report.text import Table, escape_latex, escape_markdown, render

HEADS = ("domain", "accuracy", "confidence", "ECE", "NLL", "a head of more than twenty characters")
CELLS = ("forest-camera", "100.0", "69.3 → 87.9", "30.7 → 12.1", "0.38 → 0.14", "−19.4")


@pytest.mark.parametrize(("width", "parts"), [(120, 1), (72, 1), (50, 3), (30, 5)])
def test_a_narrow_terminal_cuts_no_number_and_breaks_no_name(width: int, parts: int) -> None:
    out = io.StringIO()
    render([Table("Title", HEADS, [CELLS], ("A note.",))], Console(file=out, width=width, color_system=None))
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    rows = [line.split("  ") for line in lines if line.startswith("forest-camera ")]
    cells = " ".join(cell for row in rows for cell in row)
    assert len(rows) == parts
    assert [cells.count(cell) for cell in CELLS] == [parts, 1, 1, 1, 1, 1]
    assert (lines[0].strip(), lines[-1]) == ("Title", "A note.")


def test_latex_is_escaped() -> None:
    shown = escape_latex(r"50 % of a_b & c#1 {x} ~^ \ $ ± − – <> αλΦ")
    assert shown == (
        r"50 \% of a\_b \& c\#1 \{x\} \textasciitilde{}\textasciicircum{} \textbackslash{} \$ $\pm$ $-$ -- "
        r"\textless{}\textgreater{} $\alpha$$\lambda$$\Phi$"
    )


def test_names_from_outside_are_no_commands() -> None:
    """A row that begins with a bracket would be an option of the line break before it."""
    assert escape_latex("[x]\x1b[0m") == r"{[}x{]}\textbackslash{}x1b{[}0m"
    assert escape_markdown("a|b\n# <b> &lt; $x$ ~y~ R&D") == r"a\|b\\n# \<b\> \&lt; \$x\$ \~y\~ R&D"
