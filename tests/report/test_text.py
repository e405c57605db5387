"""Tables as text."""

from __future__ import annotations

from largedrop.report.text import escape_latex, escape_markdown


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
