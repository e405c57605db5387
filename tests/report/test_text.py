"""Tables as text."""

from __future__ import annotations

from largedrop.report.text import escape_latex


def test_latex_is_escaped() -> None:
    shown = escape_latex(r"50 % of a_b & c#1 {x} ~^ \ $ ± − – <> αλΦ")
    assert shown == (
        r"50 \% of a\_b \& c\#1 \{x\} \textasciitilde{}\textasciicircum{} \textbackslash{} \$ $\pm$ $-$ -- "
        r"\textless{}\textgreater{} $\alpha$$\lambda$$\Phi$"
    )
