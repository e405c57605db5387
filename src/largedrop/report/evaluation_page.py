"""The self-contained HTML page of an evaluation."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from ..data.dataset import Images
from ..files import write_text
from ..measures.intervals import Interval
from ..prediction.evaluate import Evaluated, Evaluation
from ..runs.estimate import duration
from .drawing.coverage import coverage_figure
from .drawing.style import rendered
from .evaluation import (
    MEAN,
    calibration_table,
    classes_table,
    confused,
    difference,
    evaluation_headline,
    letters,
    scores_tables,
)
from .html import Cells, dataset_line, embedded, filled, plain, prose, versions
from .images import Card, Matrix, thumbnail
from .text import Table

__all__ = ["matrices", "write_evaluation_page"]

_DENSITY = 1.5
"""Pixels of the figure per pixel of the page."""

_MATRIX = 16
"""Classes of the largest matrix that is shown."""

_PAIRS = 12

_GLOSSARY = {
    "accuracy": "The share of images whose most probable class is the right one.",
    "macro accuracy": "The mean of the classes' accuracies: a rare class counts as much as a frequent one.",
    "95 % interval": "Another sample of as many images of the same kind would mostly give a number in it. It says "
    "nothing about images of another kind.",
    "confidence": "The mean of the largest probability. A model that is more confident than accurate is overconfident.",
    "ECE": "Expected calibration error: how far confidence and accuracy are apart, in 15 bins of the confidence.",
    "NLL, Brier": "The mean negative logarithm of the right class's probability, and the mean squared error of the "
    "probabilities; both are lower for better probabilities.",
    "T": "The temperature, by which logits are divided. It was fitted on held-out images of the domains that the model "
    "was trained on, so on other domains the model may still be overconfident.",
    "AURC": "The area under the curve of risk over coverage: the mean error over all shares of images answered.",
}


def matrices(classes: Sequence[str], model: Evaluated) -> list[Matrix]:
    """The confusion matrices of a model, by domain; none where there are too many classes to be read."""
    if max(len(classes), len(model.classes)) > _MATRIX:
        return []
    return [Matrix.of(domain, classes, model.classes, counts) for domain, counts in model.confusion.items()]


def write_evaluation_page(
    path: Path,
    evaluation: Evaluation,
    images: Images,
    *,
    command: str,
    seconds: float,
    machine: str,
) -> None:
    """Write the page; it loads nothing from elsewhere and runs no script.

    Args:
        path: path of the page.
        evaluation: the evaluation.
        images: the images of its dataset.
        command: command line.
        seconds: wall-clock time of the command.
        machine: processor, memory and GPU in one line.

    Raises:
        UserError: the file cannot be written.
    """
    named = dict(zip(letters(evaluation), evaluation.models, strict=True))
    figure = rendered(coverage_figure({letter: model.coverage for letter, model in named.items()}), "png")
    facts = {
        "command": command,
        "time": duration(seconds),
        "machine": machine,
        "versions": versions(),
        "dataset": dataset_line(evaluation.dataset),
    }
    finding, lead = evaluation_headline(evaluation)
    content = filled(
        "evaluation.html",
        title=f"{' against '.join(model.name for model in evaluation.models)} on {evaluation.dataset['name']}",
        finding=prose(finding),
        lead=prose(lead),
        notes=evaluation.notes,
        models=[
            {
                "letter": letter if len(named) > 1 else "",
                "name": model.name,
                "calibration": _cells(calibration_table(model)),
                "classes": _cells(classes_table(evaluation.classes, model)),
                "matrices": matrices(evaluation.classes, model),
                "pairs": [
                    plain(f"{label} → {predicted}", domain, str(count), f"{share:.0%}")
                    for label, predicted, domain, count, share in confused(evaluation.classes, model, _PAIRS)
                ],
                "mistakes": _cards(model, images),
            }
            for letter, model in named.items()
        ],
        scores=[_cells(each) for each in scores_tables(evaluation)],
        calibration_notes=calibration_table(evaluation.models[0]).notes,
        apart=_apart(evaluation),
        figure={"png": embedded(figure), "width": round(Image.open(io.BytesIO(figure)).width / _DENSITY)},
        dataset=evaluation.dataset,
        domains=list(evaluation.models[0].domains),
        glossary=_GLOSSARY,
        facts=[plain(name, value) for name, value in facts.items()],
    )
    write_text(path, content)


def _cells(table: Table) -> dict[str, Any]:
    rows: list[Cells] = [[(cell, "base" if row[0] == MEAN else "") for cell in row] for row in table.rows]
    return {"title": table.title, "heads": table.heads, "rows": rows, "notes": table.notes}


def _apart(evaluation: Evaluation) -> dict[str, Any] | None:
    """The difference of each class, by domain."""
    if evaluation.difference is None:
        return None
    domains: Mapping[str, Any] = evaluation.difference.domains
    rows = []
    for label, name in enumerate(evaluation.classes):
        cells = [scores.classes[label] for scores in domains.values()]
        if any(cells):
            rows.append([(name, ""), *((difference(cell), _colour(cell)) for cell in cells)])
    return {"heads": ["class", *domains], "rows": rows}


def _colour(found: Interval | None) -> str:
    if found is None or found.low <= 0 <= found.high:
        return ""
    return "good" if found.value > 0 else "bad"


def _cards(model: Evaluated, images: Images) -> list[Card]:
    return [
        Card(
            jpeg=thumbnail(images[mistake.index]),
            name=mistake.key,
            first=f"{mistake.label}, taken for {mistake.predicted}",
            second=f"{100 * mistake.probability:.0f} % sure, {mistake.domain}",
        )
        for mistake in model.mistakes
    ]
