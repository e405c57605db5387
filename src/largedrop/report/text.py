"""A table as Markdown and as LaTeX."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Table", "escape_latex", "latex", "markdown"]


_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "±": r"$\pm$",
    "−": r"$-$",
    "×": r"$\times$",
    "–": "--",
    "…": r"\ldots{}",
    "α": r"$\alpha$",
    "λ": r"$\lambda$",
    "Φ": r"$\Phi$",
}


@dataclass(frozen=True)
class Table:
    """A table as text: plain cells, to be escaped by whoever writes them.

    Attributes:
        title: what it is, in a sentence.
        heads: of the columns; the first ``left`` ones are aligned to the left.
        rows: cells, as many in each as there are heads.
        notes: what a reader must know: units, n, selection rule, missing runs.
        left: number of columns of text.
    """

    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str]
    left: int = 1


def markdown(table: Table) -> str:
    """The table as Markdown, with its notes below."""
    rule = ["---" if place < table.left else "---:" for place in range(len(table.heads))]
    lines = [[escape_markdown(head) for head in table.heads], rule]
    lines += [[escape_markdown(cell) for cell in row] for row in table.rows]
    body = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    return body + "\n\n" + "  \n".join(escape_markdown(note) for note in table.notes) + "\n"


def latex(table: Table, label: str) -> str:
    """The table as a LaTeX float for ``\\input``, with booktabs' rules and the notes in its caption."""
    columns = "l" * table.left + "r" * (len(table.heads) - table.left)
    caption = " ".join(escape_latex(text) for text in (f"{table.title}.", *table.notes))
    rows = [" & ".join(escape_latex(cell) for cell in row) + r" \\" for row in (table.heads, *table.rows)]
    return "\n".join(
        [
            r"\begin{table}",
            r"  \centering",
            rf"  \caption{{{caption}}}",
            rf"  \label{{{label}}}",
            rf"  \begin{{tabular}}{{{columns}}}",
            r"    \toprule",
            f"    {rows[0]}",
            r"    \midrule",
            *(f"    {row}" for row in rows[1:]),
            r"    \bottomrule",
            r"  \end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def escape_latex(text: str) -> str:
    r"""``text`` as LaTeX that shows it as it is.

    >>> print(escape_latex("art_painting & 5 % ± 1"))
    art\_painting \& 5 \% $\pm$ 1
    """
    return "".join(_LATEX.get(character, character) for character in text)


def escape_markdown(text: str) -> str:
    """``text`` as Markdown that shows it as it is."""
    for character in "\\|*_<>`[]":
        text = text.replace(character, f"\\{character}")
    return text
