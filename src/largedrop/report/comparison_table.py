"""A summary as a table: in the terminal and as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..runs.estimate import Estimate, listing, percent, points
from ..selection.summary import Row
from .text import escape_markdown

__all__ = ["best", "gain_text", "label", "markdown_table", "notes", "render_table"]


_HEADS = ("method", "dropout", "i.i.d.", "o.o.d.", "gain")


def gain_text(row: Row, gain: Estimate | None) -> str:
    """What stands in the column of gains: ``baseline`` for the row that the others are compared with."""
    return "baseline" if row.baseline else points(gain)


def label(row: Row, domain: str | None = None) -> str:
    """The method, with a star where records are missing, of any test domain or of ``domain``."""
    return row.method if _whole(row, domain) else f"{row.method} *"


def best(rows: Sequence[Row], domain: str | None = None) -> set[int]:
    """Positions of the rows of highest o.o.d. accuracy, overall or on ``domain``, as far as one decimal shows.

    Rows with missing records do not take part, since their mean is over other seeds.
    """
    shown = {}
    for position, row in enumerate(rows):
        ood = (row.overall if domain is None else row.domains[domain]).ood
        if ood is not None and _whole(row, domain):
            shown[position] = round(100 * ood.mean, 1)
    return {position for position, value in shown.items() if value == max(shown.values())}


def notes(rows: Sequence[Row]) -> list[str]:
    """What a reader must know to read the table: units, number of seeds, and all that is missing."""
    if not rows:
        return ["There are no records."]
    domains = list(rows[0].domains)
    counts = sorted({row.overall.ood.n for row in rows if row.complete and row.overall.ood})
    seeds = (
        " or ".join(str(count) for count in counts) + (" seed" if counts == [1] else " seeds") if counts else "seeds"
    )
    spread = "mean ± standard error over" if counts != [1] else "mean over"
    over = f", averaged over the test domains {listing(domains)}" if len(domains) > 1 else f"; test domain {domains[0]}"
    lines = [f"Accuracy in %, {spread} {seeds}{over}."]
    if any(row.overall.gain for row in rows):
        lines.append("Gain: o.o.d. points above plain fine-tuning, paired by test domain and seed.")
    elif not any(row.baseline for row in rows):
        lines.append("No gains: plain fine-tuning (dropout 0) is not among the results.")
    if counts == [1]:
        lines.append("One seed gives no standard error (–).")
    for row in rows:
        if not row.complete:
            lines.append(
                f"* {row.method}, dropout {row.dropout:g}: no record of {listing(_missing(row))}; {_used(row)}."
            )
        gain, ood = row.overall.gain, row.overall.ood
        if ood and not row.baseline and any(row.baseline for row in rows) and (gain.n if gain else 0) < ood.n:
            lines.append(
                f"{row.method}, dropout {row.dropout:g}: the gain is over {gain.n if gain else 0} of {ood.n} seeds, "
                "those that plain fine-tuning has too."
            )
    return lines


def render_table(rows: Sequence[Row], console: Console) -> None:
    """Print ``rows`` to ``console``: the means over the test domains, then each test domain's o.o.d. accuracy."""
    winners = best(rows)
    table = _table(*_HEADS)
    for position, row in enumerate(rows):
        score = row.overall
        table.add_row(
            Text(label(row)),
            f"{row.dropout:g}",
            percent(score.iid),
            Text(percent(score.ood), style="bold" if position in winners else ""),
            gain_text(row, score.gain),
        )
    console.print(table)
    for line in notes(rows):
        console.print(Text(line, style="dim"))
    domains = list(rows[0].domains) if rows else []
    if len(domains) > 1:
        for chunk in _chunks(domains, console.width - 28):
            console.print()
            _render_domains(rows, chunk, console)


def markdown_table(rows: Sequence[Row]) -> str:
    """The rows as a Markdown table, with a column for each test domain's o.o.d. accuracy, and the notes below it."""
    domains = list(rows[0].domains) if rows else []
    by_domain = domains if len(domains) > 1 else []
    heads = [*_HEADS, *(f"o.o.d. on {escape_markdown(domain)}" for domain in by_domain)]
    lines = [heads, ["---", "---:", "---:", "---:", "---:", *("---:" for _ in by_domain)]]
    winners = {domain: best(rows, domain) for domain in (None, *by_domain)}
    for position, row in enumerate(rows):
        cells = [escape_markdown(label(row)), f"{row.dropout:g}", percent(row.overall.iid)]
        cells.append(_strong(percent(row.overall.ood), position in winners[None]))
        cells.append(gain_text(row, row.overall.gain))
        for domain in by_domain:
            cells.append(_strong(percent(row.domains[domain].ood), position in winners[domain]))
        lines.append(cells)
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    return table + "\n\n" + "  \n".join(escape_markdown(line) for line in notes(rows)) + "\n"


def _render_domains(rows: Sequence[Row], domains: Sequence[str], console: Console) -> None:
    winners = {domain: best(rows, domain) for domain in domains}
    table = _table("method", "dropout", *domains)
    table.title, table.title_justify, table.title_style = Text("o.o.d. accuracy by test domain"), "left", ""
    for position, row in enumerate(rows):
        cells = (
            Text(percent(row.domains[domain].ood), style="bold" if position in winners[domain] else "")
            for domain in domains
        )
        table.add_row(Text(label(row)), f"{row.dropout:g}", *cells)
    console.print(table)


def _table(first: str, *others: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column(Text(first), no_wrap=True)
    for head in others:
        table.add_column(Text(head, overflow="fold"), justify="right", no_wrap=head in _HEADS)
    return table


def _chunks(domains: Sequence[str], width: int) -> list[list[str]]:
    """Cut ``domains`` into runs whose columns fit side by side into ``width`` characters, at least one a run."""
    chunks: list[list[str]] = [[]]
    left = width
    for domain in domains:
        needs = max(len(domain), len("72.7 ± 0.4")) + 2
        if chunks[-1] and needs > left:
            chunks.append([])
            left = width
        chunks[-1].append(domain)
        left -= needs
    return chunks


def _whole(row: Row, domain: str | None) -> bool:
    return not any(domain in (None, name) for name, _ in row.missing)


def _missing(row: Row) -> list[str]:
    """The missing records, grouped: ``sketch (seeds 1, 2)``."""
    seeds: dict[str, list[str]] = {}
    for domain, seed in row.missing:
        seeds.setdefault(domain, []).append(str(seed))
    return [f"{domain} (seed{'s' if len(which) > 1 else ''} {', '.join(which)})" for domain, which in seeds.items()]


def _used(row: Row) -> str:
    n = row.overall.ood.n if row.overall.ood else 0
    if n == 0:
        return "no seed has every test domain, so there is no overall mean"
    return f"its overall mean is over the {n} seed{'s' if n > 1 else ''} that {'have' if n > 1 else 'has'} all of them"


def _strong(text: str, strong: bool) -> str:
    return f"**{text}**" if strong else text
