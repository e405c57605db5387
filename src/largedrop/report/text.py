"""Tables as text: in Markdown, LaTeX and the terminal; and the one-line description of a dataset."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich import table as rich
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from ..errors import visible

__all__ = ["Table", "counts", "escape_latex", "escape_markdown", "latex", "markdown", "render"]

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
    "[": "{[}",
    "]": "{]}",
    "±": r"$\pm$",
    "−": r"$-$",
    "×": r"$\times$",
    "–": "--",
    "…": r"\ldots{}",
    "α": r"$\alpha$",
    "λ": r"$\lambda$",
    "Φ": r"$\Phi$",
}

_LONG = 20
"""Longest head of a column of numbers, in characters, that is not wrapped."""


_NAMED = 16
"""Characters of a column of text that it has at least before a table is printed in parts."""


@dataclass(frozen=True)
class Table:
    """A table of plain text, which writers escape.

    Attributes:
        title: title of the table.
        heads: heads of the columns.
        rows: cells of each row, one for each head.
        notes: sentences below the table: units, n, selection rule, missing runs.
        left: number of first columns, of text, that are aligned to the left.
        strong: (row, column) of the cells that are bold in the terminal.
    """

    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str]
    left: int = 1
    strong: frozenset[tuple[int, int]] = frozenset()


def markdown(table: Table) -> str:
    """The table as Markdown, with its notes below."""
    rule = ["---" if index < table.left else "---:" for index in range(len(table.heads))]
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


def render(tables: Iterable[Table], console: Console) -> None:
    """Print tables to the terminal, each with its title above and its notes below.

    One that is too wide is printed in parts, each with the first columns, so that no number is cut.
    """
    for number, table in enumerate(tables):
        if number > 0:
            console.print()
        if table.title:
            console.print(Text(visible(table.title)))
        for part, (columns, gap) in enumerate(_parts(table, console.width)):
            if part > 0:
                console.print()
            console.print(_drawn(table, columns, gap))
        for note in table.notes:
            console.print(Text(visible(note), style="dim"))


def _drawn(table: Table, columns: Sequence[int], gap: int) -> rich.Table:
    """Some columns of a table, ``gap`` characters apart (1 or 3)."""
    drawn = rich.Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=(0, gap // 2))
    for index in columns:
        number, head = index >= table.left, table.heads[index]
        named = Text(visible(head), overflow="fold")
        whole = number and len(head) <= _LONG
        drawn.add_column(named, justify="right" if number else "left", no_wrap=whole, overflow="fold")
    for row, cells in enumerate(table.rows):
        strong = ["bold" if (row, index) in table.strong else "" for index in columns]
        drawn.add_row(*(Text(visible(cells[index]), style) for index, style in zip(columns, strong, strict=True)))
    return drawn


def _parts(table: Table, width: int) -> list[tuple[list[int], int]]:
    """The columns of each part of a table that is printed within ``width``, and the gap between them."""
    needed = [_needed(table, index) for index in range(len(table.heads))]
    everything, first = list(range(len(needed))), list(range(table.left))

    def fits(columns: Sequence[int], gap: int) -> bool:
        return sum(needed[index] + gap for index in columns) - gap <= width

    for gap in (3, 1):
        if fits(everything, gap) or table.left == len(needed):
            return [(everything, gap)]
    parts = [first]
    for index in everything[table.left :]:
        if len(parts[-1]) > len(first) and not fits([*parts[-1], index], 3):
            parts.append(first)
        parts[-1] = [*parts[-1], index]
    return [(columns, 3) for columns in parts]


def _needed(table: Table, index: int) -> int:
    """The characters that a column needs: all of a number, and of text what it may be folded to."""
    head = visible(table.heads[index])
    cells = [cell_len(visible(row[index])) for row in table.rows]
    if index < table.left:
        return min(_NAMED, max([cell_len(head), *cells]))
    words = [head] if len(head) <= _LONG else head.split()
    return max([*map(cell_len, words), *cells])


def escape_latex(text: str) -> str:
    r"""``text`` escaped for LaTeX.

    >>> print(escape_latex("art_painting & 5 % ± 1"))
    art\_painting \& 5 \% $\pm$ 1
    """
    return "".join(_LATEX.get(character, character) for character in visible(text))


def escape_markdown(text: str) -> str:
    """``text`` escaped for Markdown."""
    return re.sub(r"[\\|*_<>`[\]$~]|&(?=#?\w+;)", r"\\\g<0>", visible(text))


def counts(facts: Mapping[str, Any]) -> str:
    """The dataset in one line.

    >>> counts({"name": "toy", "domains": {"a": 1200, "b": 3}, "classes": ["x"]})
    'toy: 2 domains (a 1,200, b 3), 1 class'
    """
    text = str(facts["name"])
    if facts.get("domains"):
        listed = ", ".join(f"{name} {count:,}" for name, count in facts["domains"].items())
        text += f": {len(facts['domains'])} domains ({listed})"
    if facts.get("classes"):
        text += f", {len(facts['classes'])} class{'es' if len(facts['classes']) > 1 else ''}"
    return text
