"""The paper's numbers, and differences of datasets and runs from the paper's.

Source: Zhang & Bottou, "Fine-tuning with Very Large Dropout", arXiv 2403.00946, figures 2 and 3: the centre of each
cloud, read off the published plots, accuracy in %, with an uncertain first decimal. Image counts are those of the
datasets in the DomainBed layout.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ..config import ABOUT, defaults_of
from ..runs.estimate import Estimate, estimate_json, listing
from ..runs.record import shown
from ..selection.row import Row
from ..selection.settings import Setting

__all__ = [
    *("DATASETS", "PROTOCOL", "SOURCE", "Beside", "Centre", "Published"),
    *("beside", "differences", "recognise"),
]

SOURCE = "Zhang & Bottou, arXiv 2403.00946, figures 2 and 3 (cloud centres, read off the plots)"

_FIXED = (
    *("weights", "masks", "steps", "size", "batch", "optimizer", "momentum", "head", "head_lr_multiplier"),
    *("schedule", "warmup", "decay_at"),
)

PROTOCOL: dict[str, Any] = {
    "model": "resnet50.tv2_in1k",
    **{name: defaults_of("paper")[name] for name in (*_FIXED, "eval_every", "held_out")},
}
"""Settings of the paper's runs (section 4.1, and its public code where the paper is silent)."""

GRID: dict[str, tuple[float, ...]] = {"lr": (5e-4, 1e-3), "weight_decay": (1e-5, 5e-5, 1e-4)}
"""The paper's 2 × 3 tuned settings, one of which is chosen for each test domain."""

SEEDS = 3


@dataclass(frozen=True)
class Centre:
    """The centre of a published cloud, accuracy in %; None where the plot was not read."""

    iid: float | None
    ood: float


@dataclass(frozen=True)
class Published:
    """A dataset with published numbers.

    Attributes:
        name: name in the paper.
        domains: number of images of each domain.
        classes: names of the classes.
        centres: centres of the clouds, by (method, dropout).
    """

    name: str
    domains: Mapping[str, int]
    classes: tuple[str, ...]
    centres: Mapping[tuple[str, float], Centre]


def _centres(
    plain: tuple[float, float], large: tuple[float, float], average: float, ensemble: float, half: float, most: float
) -> dict[tuple[str, float], Centre]:
    return {
        ("fine-tuning", 0.0): Centre(*plain),
        ("fine-tuning", 0.5): Centre(None, half),
        ("fine-tuning", 0.9): Centre(*large),
        ("fine-tuning", 0.95): Centre(None, most),
        ("ensemble", 0.0): Centre(None, ensemble),
        ("weight-average", 0.0): Centre(None, average),
    }


_OFFICE_CLASSES = """
Alarm_Clock Backpack Batteries Bed Bike Bottle Bucket Calculator Calendar Candles Chair Clipboards Computer Couch
Curtains Desk_Lamp Drill Eraser Exit_Sign Fan File_Cabinet Flipflops Flowers Folder Fork Glasses Hammer Helmet Kettle
Keyboard Knives Lamp_Shade Laptop Marker Monitor Mop Mouse Mug Notebook Oven Pan Paper_Clip Pen Pencil Postit_Notes
Printer Push_Pin Radio Refrigerator Ruler Scissors Screwdriver Shelf Sink Sneakers Soda Speaker Spoon TV Table
Telephone ToothBrush Toys Trash_Can Webcam
"""

DATASETS = {
    dataset.name: dataset
    for dataset in (
        Published(
            "PACS",
            {"art_painting": 2048, "cartoon": 2344, "photo": 1670, "sketch": 3929},
            ("dog", "elephant", "giraffe", "guitar", "horse", "house", "person"),
            _centres((97.5, 86.5), (97.8, 88.4), average=86.5, ensemble=86.6, half=87.5, most=88.5),
        ),
        Published(
            "VLCS",
            {"Caltech101": 1415, "LabelMe": 2656, "SUN09": 3282, "VOC2007": 3376},
            ("bird", "car", "chair", "dog", "person"),
            _centres((87.4, 78.7), (87.4, 80.0), average=79.3, ensemble=79.5, half=79.6, most=79.9),
        ),
        Published(
            "OfficeHome",
            {"Art": 2427, "Clipart": 4365, "Product": 4439, "Real World": 4357},
            tuple(_OFFICE_CLASSES.split()),
            _centres((84.9, 70.8), (85.9, 73.4), average=71.6, ensemble=71.6, half=72.9, most=72.9),
        ),
        Published(
            "TerraIncognita",
            {"location_38": 9736, "location_43": 3970, "location_46": 5883, "location_100": 4741},
            ("bird", "bobcat", "cat", "coyote", "dog", "empty", "opossum", "rabbit", "raccoon", "squirrel"),
            _centres((91.3, 51.3), (87.9, 53.7), average=53.1, ensemble=52.7, half=53.1, most=52.3),
        ),
    )
}
"""Published datasets by name."""


def recognise(facts: Mapping[str, Any]) -> tuple[Published | None, str]:
    """The published dataset with the same domains, classes and image counts, under any name.

    Names are compared without case, spaces, hyphens and underscores.

    Args:
        facts: ``domains`` (number of images by domain) and ``classes``, from ``describe``.

    Returns:
        The dataset, or None; and the reason where only the names are the same (else empty).
    """
    domains = {_plain(name): int(count) for name, count in facts.get("domains", {}).items()}
    classes = {_plain(name) for name in facts.get("classes", ())}
    for dataset in DATASETS.values():
        counts = {_plain(name): count for name, count in dataset.domains.items()}
        if set(domains) != set(counts) or classes != {_plain(name) for name in dataset.classes}:
            continue
        other = [
            f"{name} {domains[_plain(name)]:,} instead of {count:,}"
            for name, count in dataset.domains.items()
            if domains[_plain(name)] != count
        ]
        if other:
            return None, f"looks like {dataset.name} but has other numbers of images ({', '.join(other)})"
        return dataset, ""
    return None, ""


def differences(settings: Iterable[Mapping[str, Any]], seeds: int) -> list[str]:
    """Differences of runs from the paper's protocol, one entry each.

    Args:
        settings: settings of the runs, with names as in ``PROTOCOL`` and ``GRID``; missing names are unknown.
        seeds: number of seeds of each setting.
    """
    settings = list(settings)
    found = []
    for name, theirs in PROTOCOL.items():
        ours = dict.fromkeys(_named(name, each[name]) if name in each else "unknown" for each in settings)
        other = [text for text in ours if text != _named(name, theirs)]
        if other:
            mixed = " in some runs" if len(other) < len(ours) else ""
            found.append(f"{_label(name)}{' and '.join(other)} instead of {_named(name, theirs)}{mixed}")
    for name, theirs in GRID.items():
        values = sorted({float(each[name]) for each in settings if name in each})
        if values != sorted(theirs):
            ours_text = ", ".join(f"{value:g}" for value in values) or "unknown"
            found.append(f"{name} {ours_text} instead of {', '.join(f'{value:g}' for value in theirs)}")
    if seeds != SEEDS:
        found.append(f"{seeds} seed{'' if seeds == 1 else 's'} instead of {SEEDS}")
    return found


@dataclass(frozen=True)
class Beside:
    """The paper's numbers for a row: its centre, our o.o.d. accuracy less theirs, and differences of the protocol."""

    centre: Centre
    difference: Estimate | None
    differs: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types, accuracies as fractions."""
        return {
            "iid": None if self.centre.iid is None else round(self.centre.iid / 100, 12),
            "ood": round(self.centre.ood / 100, 12),
            "difference_ood": estimate_json(self.difference),
            "protocol_differs": list(self.differs),
        }


def beside(rows: Iterable[Row], paper: Published) -> dict[Setting, Beside]:
    """The paper's numbers for each row, by setting, where it has any: it has none of networks with random weights."""
    found = {}
    for row in rows:
        theirs = paper.centres.get((row.method, row.dropout))
        used = [settings for setting in row.candidates for settings in row.averages.used[setting]]
        if theirs is None or row.setting.rival or any(settings.get("weights") == "random" for settings in used):
            continue
        ood = row.centre and row.centre[1]
        difference = ood and Estimate(round(ood.mean - theirs.ood / 100, 12), ood.error, ood.n)
        differs = differences(used, ood.n if ood else 0)
        if len(row.test_domains) < len(paper.domains):
            differs.append(f"test domains {listing(row.test_domains)} alone instead of all {len(paper.domains)}")
        found[row.setting] = Beside(theirs, difference, tuple(differs))
    return found


def _label(name: str) -> str:
    return {"model": "network ", "steps": "", "size": ""}.get(name, f"{name} ")


def _named(name: str, value: Any) -> str:
    text = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else shown(value)
    return f"{text} {ABOUT[name].unit}".rstrip()


def _plain(name: str) -> str:
    return "".join(character for character in name.casefold() if character not in " _-")
