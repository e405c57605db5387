"""What is passed over among someone's files: other formats, a drive's own folders, largedrop's outputs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from ..errors import UserError
from ..files import read_json
from .classes import named
from .formats import UNOPENED, advice_for

__all__ = ["PassedOver", "is_output", "is_system_file", "is_system_folder"]

# Folders that systems put beside anyone's files, with thumbnails, copies and what was deleted in them.
_SYSTEM_FOLDERS = frozenset(
    [
        *("$recycle.bin", "recycler", "recycled", "system volume information", "config.msi", "msocache"),
        *("#recycle", "#snapshot", "@recycle", "@recently-snapshot", "@eadir", "@tmp", "lost+found", "lost.dir"),
        *("found.000", "__macosx", "network trash folder", "temporary items", "thevolumesettingsfolder"),
    ]
)

_SYSTEM_FILES = frozenset(["thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "icon\r"])

_OUTPUTS = frozenset(["largedrop-runs", "largedrop-advice", "largedrop-check"])
"""Folders in which commands put their results where no other is named."""

_MARKS = {
    "comparison.json": "protocol",
    "sweep.json": "protocol",
    "config.json": "protocol",
    "report.json": "largedrop",
    "inspection.json": "largedrop",
    "advice.json": "held_out_domains",
    "check.json": "trainable",
}
"""Files that commands put into the folders of their results, and a key of each."""


@dataclass
class PassedOver:
    """What a walk through folders passes over.

    Attributes:
        files: number of files in other formats, by suffix in lower case.
        loose: paths of images that lie in no class folder, below the source's folder.
        system: paths of a system's own folders.
        outputs: paths of folders that largedrop has written.
        empty: paths of folders in which there is no image.
    """

    files: Counter[str] = field(default_factory=Counter)
    loose: list[str] = field(default_factory=list)
    system: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)

    def count(self, names: Iterable[str], others: bool) -> None:
        """Count files, of which none is opened; those that are no images at all only where ``others``."""
        found = (PurePath(name).suffix.lower() for name in names)
        self.files.update(suffix for suffix in found if others or suffix in UNOPENED)

    def add(self, inside: PassedOver, others: bool) -> None:
        """Add what was passed over in a folder; of files that are no images at all the number only where ``others``."""
        self.files.update({suffix: count for suffix, count in inside.files.items() if others or suffix in UNOPENED})
        for name in ("loose", "system", "outputs", "empty"):
            getattr(self, name).extend(getattr(inside, name))

    @property
    def unopened(self) -> str:
        """How many images are in formats that are not opened, and what opens them; empty where none are."""
        found = {suffix: count for suffix, count in self.files.items() if suffix in UNOPENED}
        advice = "; ".join(sorted({advice_for(suffix) for suffix in found} - {""}))
        told = _counted(found, "image", " in formats that are not opened") if found else ""
        return f"{told} ({advice})" if advice else told

    def counts(self) -> Iterator[str]:
        """How many files are images that are not opened, and how many are others, a line each where there are some."""
        others = {suffix: count for suffix, count in self.files.items() if suffix not in UNOPENED}
        yield from filter(None, (self.unopened, _counted(others, "other file") if others else ""))

    def notes(self) -> Iterator[str]:
        """Lines for people."""
        lines = [*self.counts()]
        for what, paths in (
            ("images in no class folder", self.loose),
            ("folders of the system", self.system),
            ("what largedrop has written", self.outputs),
            ("folders without images", self.empty),
        ):
            lines.append(f"{what}: {named(paths)}" if paths else "")
        yield from (f"passed over: {line}" for line in lines if line)


def is_system_folder(name: str) -> bool:
    """Whether a system puts a folder of this name beside anyone's files."""
    return name.casefold() in _SYSTEM_FOLDERS


def is_system_file(name: str) -> bool:
    """Whether a system puts a file of this name beside anyone's files."""
    return name.casefold() in _SYSTEM_FILES


def is_output(folder: Path, names: Collection[str]) -> bool:
    """Whether largedrop has written ``folder``, in which there are files of these names."""
    return folder.name in _OUTPUTS or any(_has_key(folder / name, _MARKS[name]) for name in _MARKS if name in names)


def _has_key(file: Path, key: str) -> bool:
    try:
        return key in read_json(file)
    except UserError:  # someone else's
        return False


def _counted(files: Mapping[str, int], noun: str, what: str = "", most: int = 8) -> str:
    """Files by suffix in a line, the most frequent first."""
    ranked = sorted(files.items(), key=lambda item: (-item[1], item[0]))
    listed = [f"{count:,} {suffix or 'without an ending'}" for suffix, count in ranked[:most]]
    if rest := sum(count for _, count in ranked[most:]):
        listed.append(f"{rest:,} others")
    total = sum(files.values())
    return f"{total:,} {noun}{'s'[: total != 1]}{what}: {', '.join(listed)}"
