"""The columns of results, as data: Markdown, LaTeX, the terminal, table.csv and report.json share them.

A new column in ``SCORES`` is in every table of methods and in both files.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

from ..runs.across import Across
from ..runs.estimate import Estimate, duration, estimate_json, percent, percentage_points
from ..runs.record import shown
from ..selection.row import Row
from ..selection.settings import Setting
from .published import Beside

__all__ = [
    *(
        "CENTRE_IID",
        "CENTRE_N",
        "CENTRE_OOD",
        "DOTS",
        "DROPOUT",
        "GAIN",
        "MACRO",
        "METHOD",
        "MISSING",
        "N",
        "OOD",
        "SCORES",
        "STARRED",
        "TIME",
    ),
    *("Column", "csv_text", "on", "paper_columns", "row_json", "varied"),
]


@dataclass(frozen=True)
class Column:
    """One column of rows.

    Attributes:
        key: name in table.csv and report.json.
        head: name in tables for people.
        of: function from a row to the value: text, a number, or an estimate as a fraction; None where unknown.
        text: function from a row to the cell in tables for people; by default the value, accuracies in %.
        error: whether table.csv also has the standard error.
    """

    key: str
    head: str
    of: Callable[[Row], Any]
    text: Callable[[Row], str] | None = None
    error: bool = False

    def cell(self, row: Row) -> str:
        """The cell of ``row`` in tables for people."""
        if self.text:
            return self.text(row)
        value = self.of(row)
        return percent(value) if value is None or isinstance(value, Estimate) else str(value)

    @property
    def keys(self) -> list[str]:
        """The column's names in table.csv."""
        return [self.key, f"{self.key}_standard_error"] if self.error else [self.key]

    def numbers(self, row: Row) -> dict[str, Any]:
        """The values of ``row`` in table.csv: estimates in %, unrounded."""
        value = self.of(row)
        values = [value.mean, value.error] if isinstance(value, Estimate) else [value]
        if isinstance(value, Estimate):
            values = [None if each is None else round(100 * each, 10) for each in values]
        return dict(zip(self.keys, values, strict=False))


METHOD = Column("method", "method", attrgetter("method"))

STARRED = Column("method", "method", lambda row: row.method if row.complete else f"{row.method} *")
"""The method, with a star where runs are missing."""

DROPOUT = Column("dropout", "dropout", lambda row: f"{row.dropout:g}")

SETTINGS = Column("settings", "settings", attrgetter("setting.others"))

SELECTION = Column("selection", "selection", attrgetter("rule"))

N = Column("n", "n", attrgetter("n"))

IID = Column("iid", "i.i.d.", attrgetter("iid"), error=True)

OOD = Column("ood", "o.o.d.", attrgetter("ood"), error=True)

IID_MACRO = Column("iid_macro", "macro i.i.d.", attrgetter("iid_macro"), error=True)

OOD_MACRO = Column("ood_macro", "macro o.o.d.", attrgetter("ood_macro"), error=True)

GAIN = Column(
    "gain",
    "gain",
    attrgetter("gain"),
    lambda row: "baseline" if row.baseline else percentage_points(row.gain),
    error=True,
)

TIME = Column(
    "seconds", "time a run", attrgetter("seconds"), lambda row: "–" if row.seconds is None else duration(row.seconds)
)
"""Training and evaluations of a run."""

SCORES = (IID, OOD, GAIN)
"""Columns of accuracies and gains, over all test domains or on one."""

MACRO = (IID_MACRO, OOD_MACRO)
"""Columns of macro accuracies, beside those."""

MISSING = Column("missing", "missing", lambda row: len(row.missing))

DOTS = Column("cloud_dots", "dots", attrgetter("dots"), lambda row: f"{row.dots:,}")

CENTRE_N = Column("centre_n", "n", lambda row: row.centre[1].n if row.centre else 0)

CENTRE_IID = Column("centre_iid", "centre i.i.d.", lambda row: row.centre and row.centre[0], error=True)

CENTRE_OOD = Column("centre_ood", "centre o.o.d.", lambda row: row.centre and row.centre[1], error=True)


def on(column: Column, domain: str) -> Column:
    """``column`` on one test domain."""
    head = f"{column.head} on {domain}"
    return Column(f"{column.key}_{domain}", head, column.of, lambda row: column.cell(row.domains[domain]))


def varied(rows: Iterable[Row]) -> list[Column]:
    """A column for each item in which the settings of the rows differ."""

    def column(name: str) -> Column:
        return Column(name, name, lambda row: row.setting.value(name))

    return [column(name) for name in sorted({name for row in rows for name, _ in row.setting.items})]


def paper_columns(beside: Mapping[Setting, Beside]) -> tuple[Column, Column, Column, Column]:
    """The paper's accuracies in %, the difference from them in percentage points, and differences of the protocol.

    Args:
        beside: the paper's numbers by setting, where it has any.
    """

    def column(key: str, head: str, of: Callable[[Beside], Any], text: Callable[[Any], str]) -> Column:
        def value(row: Row) -> Any:
            return of(beside[row.setting]) if row.setting in beside else None

        return Column(key, head, value, lambda row: text(value(row)))

    return (
        column("paper_iid", "paper i.i.d.", lambda each: each.centre.iid, _decimal),
        column("paper_ood", "paper o.o.d.", lambda each: each.centre.ood, _decimal),
        column("difference_ood", "difference o.o.d.", lambda each: each.difference, percentage_points),
        column("protocol_differs", "protocol differs", lambda each: "; ".join(each.differs), str),
    )


def csv_text(rows: Sequence[Row], beside: Mapping[Setting, Beside], every_seed: Iterable[Across] = ()) -> str:
    """The content of table.csv, in %, unrounded: for each row, a line for the average and for each test domain.

    Results across the trajectories of every seed follow by test domain, with selection ``none: every seed``.
    """
    first, scores = [METHOD, DROPOUT, SETTINGS, SELECTION], [N, *SCORES, *MACRO, MISSING]
    clouds = [DOTS, CENTRE_N, CENTRE_IID, CENTRE_OOD, *paper_columns(beside)]

    def keys(columns: Iterable[Column]) -> list[str]:
        return [key for column in columns for key in column.keys]

    def cells(columns: Iterable[Column], row: Row) -> dict[str, Any]:
        return {key: value for column in columns for key, value in column.numbers(row).items()}

    buffer = io.StringIO()
    heads = [*keys(first), "test_domain", "chosen", *keys(scores), *keys(clouds)]
    writer = csv.DictWriter(buffer, heads, restval="", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({**cells([*first, *scores, *clouds], row), "test_domain": "average"})
        for domain, found in row.domains.items():
            where = {"test_domain": domain, "chosen": row.chosen.get(domain)}
            writer.writerow({**cells([*first, *scores], found), **where})
    names = [column.key for column in varied(rows)]
    for result in every_seed:
        settings = ", ".join(f"{name} {shown(result.settings[name])}" for name in names if name in result.settings)
        known = {"method": result.method, "dropout": f"{result.dropout:g}", "settings": settings}
        known |= {"selection": "none: every seed", "test_domain": result.test_domain}
        own: dict[str, float | None] = {"ood": result.ood_accuracy, "ood_macro": result.ood_macro_accuracy}
        writer.writerow(known | {name: round(100 * share, 10) for name, share in own.items() if share is not None})
    return buffer.getvalue()


def row_json(row: Row, beside: Beside | None) -> dict[str, Any]:
    """The row as JSON types, accuracies as fractions."""

    def scores(row: Row) -> dict[str, Any]:
        return {column.key: estimate_json(column.of(row)) for column in (*SCORES, *MACRO)}

    return {
        "method": row.method,
        "dropout": row.dropout,
        "settings": dict(row.setting.items),
        "selection": row.rule,
        **scores(row),
        "by_seed": {str(seed): {"iid": iid, "ood": ood} for seed, (iid, ood) in row.by_seed.items()},
        "domains": {
            domain: {**scores(row.domains[domain]), "chosen": str(setting)} for domain, setting in row.chosen.items()
        },
        "missing": [str(run) for run in row.missing],
        "settings_chosen_among": len(row.candidates),
        "cloud": {
            "dots": row.dots,
            "centre": row.centre and {"iid": estimate_json(row.centre[0]), "ood": estimate_json(row.centre[1])},
        },
        "published": beside and beside.to_json(),
    }


def _decimal(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"
