"""The tables of an evaluation: accuracies, calibration, classes, confusions and the difference of two models."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from ..measures.calibration import Calibration
from ..measures.intervals import Interval, Scores
from ..prediction.evaluate import Evaluated, Evaluation
from .text import Table

__all__ = [
    "MEAN",
    "calibration_table",
    "classes_table",
    "confused",
    "difference",
    "evaluation_headline",
    "evaluation_tables",
    "interval",
    "letters",
    "scores_tables",
]

MEAN = "mean"

_CLASSES = 15
"""Classes in the terminal; of more, those of lowest accuracy."""

_DOMAINS = 3
"""Domains whose classes have intervals in the terminal; of more, there is no room."""

_PAIRS = 8
"""Confusions in the terminal."""


def interval(found: Interval | None, digits: int = 1) -> str:
    """A share in % with its interval; ``–`` where there is no image.

    >>> interval(Interval(0.5, 0.1, 0.9, 2)), interval(None)
    ('50.0 [10.0, 90.0]', '–')
    """
    if found is None:
        return "–"
    return f"{100 * found.value:.{digits}f} [{100 * found.low:.{digits}f}, {100 * found.high:.{digits}f}]"


def difference(found: Interval | None) -> str:
    """A difference of shares in percentage points with its interval.

    >>> difference(Interval(-0.021, -0.05, 0.0001, 2))
    '−2.1 [−5.0, 0.0]'
    """
    if found is None:
        return "–"
    return f"{_signed(found.value)} [{_signed(found.low)}, {_signed(found.high)}]"


def letters(evaluation: Evaluation) -> tuple[str, ...]:
    """Short names of the models for the heads of columns."""
    return ("A", "B")[: len(evaluation.models)]


def evaluation_tables(evaluation: Evaluation) -> list[Table]:
    """All tables, for the terminal."""
    tables = scores_tables(evaluation)
    named = dict(zip(letters(evaluation), evaluation.models, strict=True))
    for letter, model in named.items():
        tables.append(calibration_table(model, _of(letter, named)))
    for letter, model in named.items():
        tables.append(classes_table(evaluation.classes, model, _of(letter, named), _CLASSES))
    for letter, model in named.items():
        if pairs := confused(evaluation.classes, model, _PAIRS):
            heads = ["class", "predicted", "domain", "images", "share of the class"]
            rows = [[*names, f"{count}", f"{share:.0%}"] for *names, count, share in pairs]
            tables.append(Table(f"Most frequent confusions{_of(letter, named)}", heads, rows, [], left=3))
    return tables


def evaluation_headline(evaluation: Evaluation) -> tuple[str, str]:
    """The finding in a sentence, and what is to be added to it."""
    first, *others = evaluation.models
    several = len(first.domains) > 1
    (domain, scores), *_ = first.domains.items()
    where = f"on average over {len(first.domains)} domains" if several else f"on {domain}"
    mean = first.mean if several else scores
    told = f"{interval(mean.accuracy)} % accuracy, {interval(mean.macro)} % macro accuracy"
    if evaluation.difference is None:
        finding = f"{100 * mean.accuracy.value:.1f} % of the images are recognised {where}."
        return finding, f"With 95 % intervals: {told}. {_by_domain(first) if several else ''}{_trusted(first)}"
    apart = evaluation.difference
    found = apart.mean.accuracy if several else apart.domains[domain].accuracy
    size = f"{100 * abs(found.value):.1f} percentage points"
    if found.low <= 0 <= found.high:
        finding = f"A and B cannot be told apart {where}: {difference(found)} percentage points."
    else:
        finding = f"A is {size} {'above' if found.value > 0 else 'below'} B {where}."
    return finding, f"A is {first.name}, B is {others[0].name}. A minus B with its 95 % interval: {difference(found)}."


def scores_tables(evaluation: Evaluation) -> list[Table]:
    """Accuracies by domain: of one model, or of two with their difference, A minus B."""
    first, *others = evaluation.models
    every = list(first.domains.items())
    if len(every) > 1:
        every.append((MEAN, first.mean))
    how = _intervals_in_words([scores for _, scores in every])
    if not others or evaluation.difference is None:
        rows = [
            [name, f"{found.accuracy.n:,}", interval(found.accuracy), interval(found.macro)] for name, found in every
        ]
        heads = ["domain", "images", "accuracy", "macro accuracy"]
        return [Table("Accuracy in % with 95 % intervals", heads, rows, [how])]
    apart, (other,) = evaluation.difference, others
    plain, macro = [], []
    for name, mine in every:
        theirs, between = other.domains.get(name, other.mean), apart.domains.get(name, apart.mean)
        only = [str(count) for count in apart.only[name]] if name in apart.only else ["", ""]
        p = _p(apart.p[name]) if name in apart.p else ""
        cells = [_percent(mine.accuracy), _percent(theirs.accuracy), difference(between.accuracy), *only, p]
        plain.append([name, f"{mine.accuracy.n:,}", *cells])
        macro.append([name, _percent(mine.macro), _percent(theirs.macro), difference(between.macro)])
    notes = [
        f"A: {first.name}",
        f"B: {other.name}",
        "A − B in percentage points with its 95 % interval. Only A, only B: images on which only that one is right; p: "
        "exact McNemar test, image by image.",
    ]
    heads = ["domain", "images", "A", "B", "A − B", "only A", "only B", "p"]
    return [
        Table("Accuracy in %", heads, plain, notes),
        Table("Macro accuracy in %", ["domain", "A", "B", "A − B"], macro, [how]),
    ]


def calibration_table(model: Evaluated, of: str = "") -> Table:
    """Errors of probabilities before and after the temperature, by domain."""
    fitted = any(value is not None for value in model.temperatures)

    def both(name: str, measure: Callable[[Calibration], float | None], digits: int) -> str:
        found = [measure(each[name]) for each in ((model.before, model.after) if fitted else (model.after,))]
        return " → ".join("–" if value is None else f"{value:.{digits}f}" for value in found)

    rows = [
        [
            name,
            _percent(model.domains[name].accuracy),
            both(name, lambda each: 100 * each.confidence, 1),
            both(name, lambda each: 100 * each.ece, 1),
            both(name, lambda each: each.nll, 2),
            both(name, lambda each: each.brier, 2),
            f"{100 * model.coverage[name].aurc:.1f}",
        ]
        for name in model.after
    ]
    known = ", ".join(f"{value:.3g}" if value is not None else "none" for value in model.temperatures)
    temperature = (
        f"Arrows: without and with the temperature ({known}), fitted on held-out images of the training domains."
        if fitted
        else "The model has no temperature."
    )
    notes = [
        f"{temperature} Confidence above accuracy is overconfidence.",
        "ECE: calibration error in % over 15 bins; NLL in nats; AURC: mean error in % over all shares of images that "
        "are answered, the surest first.",
    ]
    heads = ["domain", "accuracy", "confidence", "ECE", "NLL", "Brier", "AURC"]
    return Table(f"How far its probabilities can be believed{of}", heads, rows, notes)


def classes_table(classes: Sequence[str], model: Evaluated, of: str = "", most: int | None = None) -> Table:
    """Accuracy of each class in each domain; of more classes than ``most``, those that are lowest on average."""
    found = {name: [scores.classes[label] for scores in model.domains.values()] for label, name in enumerate(classes)}
    there = {name: cells for name, cells in found.items() if any(cells)}
    shown = list(there)
    if most is not None and len(shown) > most:
        shown = sorted(shown, key=lambda name: _mean(there[name]))[:most]
    narrow = most is not None and len(model.domains) > _DOMAINS
    rows = [[name, *map(_share if narrow else interval, there[name])] for name in shown]
    notes = [f"The {len(shown)} lowest of {len(there)} classes."] if len(shown) < len(there) else []
    notes += ["The intervals are on the page and in evaluation.json."] if narrow else []
    return Table(f"Accuracy of each class in %{of}", ["class", *model.domains], rows, notes)


def confused(classes: Sequence[str], model: Evaluated, most: int) -> list[tuple[str, str, str, int, float]]:
    """The most frequent confusions: class, predicted class, domain, images, and their share of the class's images."""
    found = []
    for domain, counts in model.confusion.items():
        for label, row in enumerate(counts):
            for place, count in enumerate(row):
                if count and model.classes[place] != classes[label]:
                    share = float(count / row.sum())
                    found.append((classes[label], model.classes[place], domain, int(count), share))
    return sorted(found, key=lambda entry: (-entry[3], -entry[4], entry))[:most]


def _intervals_in_words(every: Iterable[Scores]) -> str:
    """How the intervals were made."""
    groups = any(scores.groups is not None for scores in every)
    how = "from a bootstrap of the groups where images share them, else " if groups else ""
    return f"Macro accuracy: the mean over classes. Intervals {how}from the binomial distribution (Wilson, Newcombe)."


def _of(letter: str, named: dict[str, Evaluated]) -> str:
    return f": {letter}" if len(named) > 1 else ""


def _mean(cells: Sequence[Interval | None]) -> float:
    known = [cell.value for cell in cells if cell]
    return sum(known) / len(known)


def _share(found: Interval | None) -> str:
    return "–" if found is None else _percent(found)


def _percent(found: Interval) -> str:
    return f"{100 * found.value:.1f}"


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _signed(value: float) -> str:
    text = f"{100 * value:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", "−")


def _by_domain(model: Evaluated) -> str:
    lowest, highest = (
        choose(model.domains.items(), key=lambda entry: entry[1].accuracy.value) for choose in (min, max)
    )
    ends = [f"{100 * scores.accuracy.value:.1f} % on {name}" for name, scores in (lowest, highest)]
    return f"Lowest {ends[0]}, highest {ends[1]}. "


def _trusted(model: Evaluated) -> str:
    """How sure the model is against how right it is, where that is worst."""
    name, after = max(model.after.items(), key=lambda entry: entry[1].ece)
    right = 100 * model.domains[name].accuracy.value
    sure = f"{100 * after.confidence:.0f} % sure on average"
    if len(model.after) == 1:
        return f"It is {sure}."
    return f"Its probabilities are furthest off on {name}: {sure}, {right:.0f} % right."
