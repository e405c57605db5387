"""A run: one folder with a config, a log, logits, checkpoints and, once it is finished, a result.

config.json              the config, and the protocol of its training
split.csv                the part of each image, and what this run used it for; linear fits keep none
log.json                 one entry per evaluation so far
outputs/000050.safetensors   logits on the i.i.d. and o.o.d. images after step 50 (0: before the first), float16
resume.safetensors       the state for resuming; deleted once the run is finished
best.safetensors         the checkpoint of best i.i.d. accuracy
average.safetensors      the average of the weights at all evaluations after the first step
final.safetensors        the weights after the last step
swad.safetensors         SWAD's average, where the config asks for it
ema.safetensors          the exponential average, where the config asks for it
wise-ft.safetensors      WiSE-FT's weights between the start and the last step, where the config asks for them
model.safetensors        the model that is handed over, where it is none of these
start.safetensors        the network before the first step, where that is handed over
result.json              the result: accuracies of every method; written last, so it marks a finished run
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ..config import PROTOCOL, Config, digest_of
from ..data.classes import ood_notes
from ..errors import UserError, check_type
from .content import check_content, contents_of, name_of
from .methods import METHODS, checkpoint_method
from .protocol import UnusableError, records_of
from .record import Record, mean_of_domains

__all__ = ["SPLIT_FILE", "START_FILE", "Run", "remarks"]

BEST_FILE = "best.safetensors"

SPLIT_FILE = "split.csv"

START_FILE = "start.safetensors"
"""The network before the first step: of a run that goes back to it, until it is finished; of one that hands it over."""


class Ended(Protocol):
    """What a run is of and how it ended: of a ``Run``, or of one as it is read."""

    @property
    def config(self) -> Config: ...

    @property
    def dataset(self) -> Mapping[str, Any]: ...

    @property
    def beats_start(self) -> bool: ...

    @property
    def hands_over_start(self) -> bool: ...


def remarks(runs: Iterable[Ended]) -> list[str]:
    """Sentences about the classes that o.o.d. accuracies are over, and about runs without any or no better than their
    start.
    """
    runs = list(runs)
    count = sum(run.hands_over_start for run in runs)
    sentence = (
        f"In {count} of {len(runs)} runs the model has a lower i.i.d. accuracy than the head that it started from; "
        "these hand over the network with that head."
    )
    classes = [line for run in runs for line in _class_notes(run)]
    alone = sum(not run.config.test_domains for run in runs)
    if 0 < alone < len(runs):
        classes.append(f"{alone} of {len(runs)} runs have no test domain, and no part in what is compared.")
    return [*dict.fromkeys(classes), *never_beat(run.beats_start for run in runs), *([sentence] if count else [])]


def _class_notes(run: Ended) -> Iterator[str]:
    lacking, domains = run.dataset.get("lacking"), run.dataset.get("domains")
    if isinstance(lacking, dict) and isinstance(domains, dict):
        yield from ood_notes(lacking, list(domains), run.config.test_domains, run.config.unseen)


def never_beat(beats_start: Iterable[bool]) -> list[str]:
    """A sentence that counts the runs whose ``beats_start`` is False; none where there are none."""
    known = list(beats_start)
    count = known.count(False)
    if not count:
        return []
    return [
        f"In {count} of {len(known)} runs fine-tuning never beat the head that it started from: the best checkpoint is "
        "that before the first step. More steps may help; where accuracy fell from evaluation to evaluation, a lower "
        "learning rate."
    ]


@dataclass(frozen=True)
class Run:
    """A finished fine-tuning.

    Attributes:
        folder: path of the run's folder.
        config: config of the run.
        result: content of ``result.json``.
        protocol: protocol of the training, by which ``records`` are read.
    """

    folder: Path
    config: Config
    result: dict[str, Any]
    protocol: int = PROTOCOL

    @property
    def digest(self) -> str:
        """Digest of the config and the protocol, which is in the header of each of the run's files."""
        return digest_of(self.config.to_json(), self.protocol)

    @property
    def model(self) -> Path:
        """The model to use, for ``load_model``: by default that of ``best``; ``Config.hand_over`` says which.

        Where its i.i.d. accuracy is below that of the network with the head that the run started from, the latter.
        """
        name: str = self.result.get("model", BEST_FILE)
        return self.folder / Path(name).name

    def step_of(self, checkpoint: Path) -> int | None:
        """The step that one of its checkpoints is of; None where the result does not say."""
        if checkpoint.name == START_FILE:
            return 0
        return self.result.get("best_step") if checkpoint.name == BEST_FILE else self.config.steps

    def existing_model(self) -> Path:
        """``model``.

        Raises:
            UserError: its file is gone.
        """
        if not self.model.is_file():
            raise UserError(
                f"{self.model} is gone, though its run is finished: remove {self.folder} and train it again"
            )
        return self.model

    @property
    def model_scores(self) -> tuple[float, float | None] | None:
        """I.i.d. and o.o.d. accuracy of ``model``, as fractions; None where the result does not say.

        O.o.d. accuracy is the mean over the test domains, None where there is none.
        """
        if "model_scores" not in self.result:  # an older run's, or a linear fit's
            best = checkpoint_method(self.config.fit).name
            known = [each for each in self.records if each.method == best] if self.model == self.best else []
            own = [each.ood_accuracy for each in known if each.ood_accuracy is not None]
            return (known[0].iid_accuracy, mean_of_domains(own)) if known else None
        found = self.result["model_scores"]
        return found["iid_accuracy"], found["ood_accuracy"]

    @property
    def model_name(self) -> str:
        """What ``model`` is, for people."""
        best = "i.i.d. accuracy" if self.config.select_by == "iid-accuracy" else "i.i.d. macro accuracy"
        if self.hands_over_start:
            return "the network before the first step"
        if self.config.fit != "all":
            return f"the fit of best {best}, without the network"
        named = {"best": f"the checkpoint of best {best}", "average": METHODS["weight-average"].label}
        name = named.get(self.config.hand_over) or METHODS[self.config.hand_over].label
        return f"{name}, {self.config.way_back:g} of the way back to the start" if self.config.way_back else name

    @property
    def hands_over_start(self) -> bool:
        """Whether ``model`` is the network before the first step, since the chosen one has a lower i.i.d. accuracy."""
        return bool(self.result.get("model") == START_FILE)

    @property
    def best(self) -> Path:
        """The checkpoint of best i.i.d. accuracy, for ``load_model``; in a tie, the earliest.

        In a run of protocol 2 its accuracy pooled over images is best, so the record may be of another checkpoint.
        """
        return self.folder / BEST_FILE

    @property
    def average(self) -> Path:
        """The average of the weights along the trajectory, for ``load_model``."""
        return self.folder / "average.safetensors"

    @property
    def final(self) -> Path:
        """The weights after the last step, for ``load_model``; runs of older versions have none."""
        return self.folder / "final.safetensors"

    @property
    def split(self) -> Path:
        """Which images were trained on and held out, for ``open_dataset(…, split=…)``; linear fits have none."""
        return self.folder / SPLIT_FILE

    @property
    def swad(self) -> Path:
        """SWAD's average, for ``load_model``; only runs whose config has ``swad`` write it."""
        return self.folder / "swad.safetensors"

    @property
    def ema(self) -> Path:
        """The exponential average, for ``load_model``; only runs whose config has ``ema`` write it."""
        return self.folder / "ema.safetensors"

    @property
    def wise_ft(self) -> Path:
        """The weights between start and end of best i.i.d. accuracy; only runs whose config has ``wise_ft`` write it.

        In a tie those nearest to the start. ``records`` has the accuracies at every share α of the way back.
        """
        return self.folder / "wise-ft.safetensors"

    @property
    def dataset(self) -> dict[str, Any]:
        """Facts about the data from the result (see ``record.describe``); empty where it has none."""
        found = self.result.get("dataset")
        return found if isinstance(found, dict) else {}

    @property
    def beats_start(self) -> bool:
        """Whether the best checkpoint is later than step 0, at which the network has its starting head."""
        return self.result.get("best_step") != 0

    @property
    def records(self) -> list[Record]:
        """One record per method that this trajectory feeds; of WiSE-FT one for each α."""
        return records_of(self.config, self.result, self.protocol, self.config.settings)

    @classmethod
    def open(cls, folder: str | Path) -> Run:
        """Open a finished run.

        Raises:
            UserError: ``folder`` has no finished run, its files are damaged or were edited, or its protocol cannot be
                read.
        """
        check_type(folder, (str, Path), "a run is opened from the path of its folder")
        folder = Path(folder)
        if "\0" in str(folder):
            raise UserError(f"no finished run in {folder}: the name has a null character")
        contents = contents_of(folder)
        if "result.json" not in contents:
            unfinished = " (one was begun there and is not finished)" if "config.json" in contents else ""
            raise UserError(f"no finished run in {folder}{unfinished}")
        try:
            found = check_content(folder, name_of(folder), contents)
        except UnusableError as error:
            advice = "" if error.kind in ("newer version", "older protocol") else "; remove it and train it again"
            raise UnusableError(error.kind, f"cannot open the run in {folder}: {error}{advice}") from error
        return cls(folder, found.config, found.result, found.protocol)
