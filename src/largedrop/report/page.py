"""One self-contained HTML page of a comparison: the finding, the numbers, the figure and how they came about."""

from __future__ import annotations

import base64
import io
import json
import platform
from collections.abc import Mapping, Sequence
from html import escape
from importlib import metadata
from pathlib import Path
from string import Template
from typing import Any

from PIL import Image

from .._version import __version__
from ..files import write_text
from ..runs.estimate import Estimate, listing, percent, points
from ..runs.methods import METHODS
from ..runs.record import Record
from ..selection.summary import Row, Score
from .comparison_table import best, gain_text, label, notes
from .examples import Examples
from .page_template import PAGE, STYLE

__all__ = ["details", "headline", "write_page"]


_PAPER_RATE = 0.9

_PACKAGES = ("torch", "torchvision", "timm", "numpy")

_GLOSSARY = {
    "i.i.d. accuracy": "The share of right answers on images of the training domains that were held out of training: "
    "how good the model is on more of the same.",
    "o.o.d. accuracy": "The share of right answers on the test domain, which the model never saw: how well it survives "
    "a shift of site, camera or style.",
    "gain": "O.o.d. accuracy minus that of plain fine-tuning with the same test domain and seed, in percentage points. "
    "Paired in this way, what makes one seed's split easy or hard cancels out.",
    "± standard error": "How far the mean would typically move if everything were done again with as many other seeds. "
    "With two or three seeds it is itself rough. It says nothing about other test domains or other datasets.",
}


def headline(rows: Sequence[Row]) -> str:
    """The finding in a sentence: what dropout does to o.o.d. accuracy, and whether the seeds can tell.

    The rate is the one nearest to 0.9, which the paper fixed before these data were seen: to pick the best of several
    rates by o.o.d. accuracy would flatter it.
    """
    row, baseline = _focus(rows), _baseline(rows)
    if baseline is None:
        return "Plain fine-tuning is not among the results, so there is nothing to compare with"
    where = "on unseen domains" if len(baseline.domains) > 1 else f"on the unseen domain {next(iter(baseline.domains))}"
    if row is None:
        reached = f"{_said(percent(baseline.overall.ood))} %" if baseline.overall.ood else "no complete result"
        return f"Plain fine-tuning reaches {reached} {where}; fine-tuning with dropout is not among the results"
    name, gain = f"Dropout {row.dropout:g}", row.overall.gain
    if gain is None:
        return f"{name} and plain fine-tuning have no seed with every test domain in common, so they cannot be compared"
    size = f"{100 * abs(gain.mean):.1f}"
    if gain.error is None:
        side = "above" if gain.mean > 0 else "below"
        text = f"{name} scores {size} points {side} plain fine-tuning {where}, but one seed cannot rule out chance"
    elif not _clear(gain):
        text = (
            f"{name} and plain fine-tuning cannot be told apart {where}: "
            f"{points(gain)} points, within two standard errors"
        )
    elif gain.mean > 0:
        text = f"{name} beats plain fine-tuning by {size} ± {100 * gain.error:.1f} points {where}"
    else:
        text = f"{name} is {size} ± {100 * gain.error:.1f} points worse than plain fine-tuning {where}"
    return text if row.complete and baseline.complete else f"{text} (runs are missing)"


def details(rows: Sequence[Row]) -> str:
    """What belongs beside the headline: seeds, i.i.d. accuracy, each test domain, and the best row if it is another."""
    row, baseline = _focus(rows), _baseline(rows)
    if row is None or baseline is None or row.overall.gain is None:
        return "Accuracy on images of a domain that the model never saw in training."
    gain, lines = row.overall.gain, []
    seeds = "1 seed" if gain.n == 1 else f"{gain.n} seeds"
    lines.append(
        f"Over {seeds}{', so the standard error is itself rough' if 1 < gain.n < 4 else ''}. On held-out images of the "
        f"training domains dropout {row.dropout:g} scores {_said(percent(row.overall.iid))} %, "
        f"plain fine-tuning {_said(percent(baseline.overall.iid))} %."
    )
    if len(row.domains) > 1:
        gains = [f"{domain} {_said(points(score.gain))}" for domain, score in row.domains.items()]
        lines.append(f"Points gained by test domain: {listing(gains)}.")
    winners = best(rows)
    if winners and not any(rows[winner] is row for winner in winners):
        winner = rows[min(winners)]
        lines.append(f"Highest o.o.d. accuracy here: {_called(winner)}, {_said(percent(winner.overall.ood))} %.")
    if sum(other.method == "fine-tuning" and other.dropout > 0 for other in rows) > 1 and row.dropout == _PAPER_RATE:
        lines.append("The rate 0.9 is the paper's, fixed beforehand, not the best of those tried.")
    return " ".join(lines)


def write_page(
    path: Path,
    *,
    title: str,
    rows: Sequence[Row],
    records: Sequence[Record],
    figure_png: bytes,
    dataset: Mapping[str, Any],
    examples: Examples | None,
    settings: Mapping[str, Any],
    failed: Sequence[Mapping[str, Any]],
    command: str,
    seconds: float,
    machine: str,
) -> None:
    """Write the page of a comparison to ``path``; it loads nothing from elsewhere and runs no script.

    Args:
        path: the HTML file.
        title: what the comparison is of.
        rows: what ``summarise`` made of ``records``.
        records: every run.
        figure_png: the figure, as ``figures.png_bytes`` gives it.
        dataset: facts about the data, as ``records.describe`` gives them.
        examples: what ``example_grid`` drew, or None where the images are not at hand.
        settings: what all runs had in common, name to value.
        failed: one entry for each run that gave no record: what names it, and its ``error``.
        command: the command line that did it all.
        seconds: wall-clock time of it all.
        machine: processor, accelerator and memory, in a line.

    Raises:
        UserError: the file cannot be written.
    """
    tested = list(rows[0].domains) if rows else []
    facts = {
        "command": command,
        "time": _duration(seconds),
        "machine": machine,
        "versions": ", ".join(_versions()),
        "dataset": _dataset_line(dataset),
        **settings,
    }
    content = Template(PAGE).substitute(
        style=STYLE,
        title=escape(title),
        finding=_prose(headline(rows)) + ".",
        lead=_prose(details(rows)),
        tiles=_tiles(rows),
        compared=_compared(rows, records, dataset),
        overall=_score_table(rows, None, "All methods, averaged over the test domains") + _list(notes(rows)),
        figure=_figure(figure_png, tested),
        domains=_domain_tables(rows, tested),
        examples=_examples(examples, tested),
        failed=_failed(failed),
        glossary=_words({**_GLOSSARY, **{row.method: METHODS[row.method].explanation for row in rows}}),
        onward=_onward(),
        made=_facts(facts),
        records=_records(records),
        footer=f"Written by largedrop {escape(__version__)}. Method: Zhang and Bottou, "
        "“Fine-tuning with very large dropout”, arXiv 2403.00946.",
    )
    write_text(Path(path), content)


def _focus(rows: Sequence[Row]) -> Row | None:
    """The row that the headline is about: fine-tuning with the dropout rate nearest to the paper's."""
    with_dropout = [row for row in rows if row.method == "fine-tuning" and not row.baseline]
    return min(with_dropout, key=lambda row: abs(row.dropout - _PAPER_RATE), default=None)


def _baseline(rows: Sequence[Row]) -> Row | None:
    return next((row for row in rows if row.baseline), None)


def _clear(gain: Estimate) -> bool:
    """Whether a gain is more than two standard errors away from nothing."""
    return gain.error is not None and abs(gain.mean) > 2 * gain.error


def _said(number: str) -> str:
    """``number`` as a sentence says it: the error that one seed cannot give, ``–`` in a table, is left unsaid."""
    return number.removesuffix(" ± –")


def _called(row: Row) -> str:
    return "plain fine-tuning" if row.baseline else f"{row.method} with dropout {row.dropout:g}"


def _tiles(rows: Sequence[Row]) -> str:
    row, baseline = _focus(rows), _baseline(rows)
    if row is None or baseline is None:
        return ""
    tiles = [("", "plain fine-tuning", baseline), ("main", f"dropout {row.dropout:g}", row)]
    parts = [
        f'<div class="{kind}"><dt>{name}, o.o.d.</dt><dd>{_said(percent(which.overall.ood))} %'
        f"<small>i.i.d. {_said(percent(which.overall.iid))} %</small></dd></div>"
        for kind, name, which in tiles
    ]
    gain = _said(points(row.overall.gain))
    parts.append(f"<div><dt>gain, o.o.d.</dt><dd>{gain}<small>points, paired by seed</small></dd></div>")
    return f'<dl class="tiles">{"".join(parts)}</dl>'


def _compared(rows: Sequence[Row], records: Sequence[Record], dataset: Mapping[str, Any]) -> str:
    tested = list(rows[0].domains) if rows else []
    seeds = len({record.seed for record in records})
    each = f"{'' if all(row.complete for row in rows) else 'up to '}{seeds} seed{'' if seeds == 1 else 's'} each"
    others = len(dataset.get("domains", ())) - 1
    trained = f"on the {others} other domains" if others > 1 else "on the other domains"
    text = (
        f"A pretrained network was adapted to {dataset.get('name', 'the data')} {trained} and then tested on the "
        f"domain it had never seen: {listing(tested)}{', each in its turn' if len(tested) > 1 else ''}. "
        f"{len(rows)} methods and dropout rates, {each}: {len(records)} results. Every training keeps the checkpoint "
        "with the best i.i.d. accuracy, measured on held-out images of the training domains. The test domain gives "
        "the o.o.d. accuracy and nothing else: it is never used to train, nor to choose a checkpoint or a setting."
    )
    return f"<p>{escape(text)}</p>"


def _score_table(rows: Sequence[Row], domain: str | None, caption: str) -> str:
    """Overall, or on one test domain."""
    winners = best(rows, domain)
    body = []
    for position, row in enumerate(rows):
        score: Score = row.overall if domain is None else row.domains[domain]
        gain = score.gain
        colour = "" if gain is None or not _clear(gain) else "good" if gain.mean > 0 else "bad"
        body.append(
            f'<tr class="{"base" if row.baseline else ""}">'
            f'<th scope="row">{escape(label(row, domain))}</th><td>{row.dropout:g}</td>'
            f"<td>{_cell(percent(score.iid))}</td>"
            f'<td class="{"best" if position in winners else ""}">{_cell(percent(score.ood))}</td>'
            f'<td class="{colour}">{_cell(gain_text(row, gain))}</td></tr>'
        )
    return _table(("method", "dropout", "i.i.d. %", "o.o.d. %", "gain"), body, caption, "scores")


def _table(heads: Sequence[str], body: Sequence[str], caption: str, kind: str = "") -> str:
    cells = "".join(f'<th scope="col">{escape(head)}</th>' for head in heads)
    head = f"<thead><tr>{cells}</tr></thead>" if heads else ""
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(caption)}"><table class="{kind}">'
        f"{head}<tbody>{''.join(body)}</tbody></table></div>"
    )


def _cell(text: str) -> str:
    """A number whose error goes below it where the screen is narrow."""
    mean, between, error = text.partition(" ± ")
    return f"{mean} <span>± {error}</span>" if between else text


def _list(lines: Sequence[str]) -> str:
    lines = [*lines, "Bold: highest o.o.d. accuracy. Coloured gains are more than two standard errors from zero."]
    return '<ul class="notes">' + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>"


def _figure(png: bytes, tested: Sequence[str]) -> str:
    width = round(Image.open(io.BytesIO(png)).width / 1.5)  # sharp at 150 dots an inch, a little above life size
    size = f"max-width: {width}px; min-width: min(42rem, {width}px)"
    alt = f"Scatter plot of o.o.d. over i.i.d. accuracy, test domains {listing(tested)}; its means are in the tables."
    return (
        '<figure><div class="scroll plot" role="region" tabindex="0" aria-label="Figure">'
        f'<img src="{_data_uri(png)}" style="{size}" alt="{escape(alt)}"></div>'
        "<figcaption>Higher is more robust, further right is better on more of the same. Scales differ between panels "
        "and do not start at zero.</figcaption></figure>"
    )


def _domain_tables(rows: Sequence[Row], tested: Sequence[str]) -> str:
    if len(tested) < 2:
        return ""
    tables = "".join(
        f"<div><h3>{escape(domain)}</h3>{_score_table(rows, domain, f'Test domain {domain}')}</div>"
        for domain in tested
    )
    return f'<section><h2>Each test domain</h2><div class="pair">{tables}</div></section>'


def _examples(examples: Examples | None, tested: Sequence[str]) -> str:
    if examples is None:
        return ""
    side = "".join(
        f"<span>{escape(domain)}{'<em>test domain</em>' if domain in tested else ''}</span>"
        for domain in examples.domains
    )
    top = "".join(
        f"<span>{escape(name).replace('/', '/<wbr>').replace('_', '_<wbr>')}</span>" for name in examples.classes
    )
    alt = f"Example images: a row for each of {listing(examples.domains)}; columns {listing(examples.classes)}."
    return (
        '<section><h2>What the images look like</h2><div class="scroll examples" role="region" tabindex="0" '
        f'aria-label="Example images"><div class="sheet"><div class="top" aria-hidden="true">{top}</div>'
        f'<div class="side">{side}</div><img src="{_data_uri(examples.png)}" alt="{escape(alt)}"></div></div></section>'
    )


def _failed(failed: Sequence[Mapping[str, Any]]) -> str:
    if not failed:
        return "<section><h2>Failed runs</h2><p>None: every run that was started gave a result.</p></section>"
    body = []
    for entry in failed:
        name = ", ".join(f"{key.replace('_', ' ')} {_value(value)}" for key, value in entry.items() if key != "error")
        error = _value(entry.get("error", "unknown"))
        body.append(f'<tr><th scope="row">{escape(name)}</th><td>{escape(error)}</td></tr>')
    count = "1 run" if len(failed) == 1 else f"{len(failed)} runs"
    return (
        f'<section class="failed"><h2>Failed runs</h2><p>{count} gave no result and no part in any mean.</p>'
        f"{_table(('run', 'error'), body, 'Failed runs', 'text')}</section>"
    )


def _words(words: Mapping[str, str]) -> str:
    return (
        '<dl class="words">' + "".join(f"<dt>{escape(w)}</dt><dd>{escape(t)}</dd>" for w, t in words.items()) + "</dl>"
    )


def _prose(text: str) -> str:
    """Escaped, with numbers kept on one line with their error and unit."""
    return escape(text).replace(" ± ", "\u00a0±\u00a0").replace(" %", "\u00a0%")


def _onward() -> str:
    return (
        "<p>Put your images into folders <code>domain/class/image</code>, a domain for each site, camera or style. "
        "Then see whether dropout helps on your data, and train the model to keep:</p>"
        "<pre>largedrop compare path/to/images\n"
        "largedrop train path/to/images --test-domain NAME --dropout 0.9</pre>"
    )


def _facts(facts: Mapping[str, Any]) -> str:
    body = [
        f'<tr><th scope="row">{escape(name.replace("_", " "))}</th><td>{escape(_value(value))}</td></tr>'
        for name, value in facts.items()
    ]
    return _table((), body, "How this was made", "text facts")


def _records(records: Sequence[Record]) -> str:
    body = [
        f'<tr><th scope="row">{escape(record.method)}</th><td>{record.dropout:g}</td>'
        f"<td>{escape(record.test_domain)}</td><td>{record.seed}</td><td>{100 * record.iid_accuracy:.1f}</td>"
        f"<td>{100 * record.ood_accuracy:.1f}</td><td>{record.steps}</td><td>{record.seconds:.0f}</td></tr>"
        for record in records
    ]
    heads = ("method", "dropout", "test domain", "seed", "i.i.d. %", "o.o.d. %", "steps", "seconds")
    return f"<details><summary>All {len(records)} results</summary>{_table(heads, body, 'All results')}</details>"


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _dataset_line(dataset: Mapping[str, Any]) -> str:
    parts = [str(dataset.get("name", "unnamed"))]
    if "images" in dataset:
        parts.append(f"{dataset['images']} images")
    if isinstance(dataset.get("domains"), Mapping):
        parts.append("domains " + ", ".join(f"{name} ({count})" for name, count in dataset["domains"].items()))
    if "classes" in dataset:
        parts.append(f"{len(dataset['classes'])} classes")
    if dataset.get("skipped"):
        parts.append(f"{dataset['skipped']} files could not be read and were left out")
    if "fingerprint" in dataset:
        parts.append(f"fingerprint {str(dataset['fingerprint'])[:16]}")
    return "; ".join(parts)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _versions() -> list[str]:
    found = [f"largedrop {__version__}", f"Python {platform.python_version()}"]
    for package in _PACKAGES:
        try:
            found.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            continue
    return found


def _data_uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")
