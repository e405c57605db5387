"""What a peer is asked for and what it answers: JSON, since each peer has an environment of its own."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Job:
    """One training.

    Attributes:
        data: the folder of the images.
        train: training images: path below ``data``, index of the class, index of the training domain.
        iid: held-out images: path and index of the class.
        ood: images of the test domain: path.
        classes: names of the classes.
        domains: names of the training domains.
        test_domain: name of the test domain.
        model: timm's name of the network.
        weights: safetensors file of its ImageNet weights under timm's names.
        mean, std: normalisation that the weights were trained with.
        size: side of the network's inputs, in pixels.
        steps: optimiser steps.
        batch: images in a step.
        lr: learning rate.
        seed: seed.
        folder: scratch folder.
        settings: what else the peer is told.
    """

    data: str
    train: list[tuple[str, int, int]]
    iid: list[tuple[str, int]]
    ood: list[str]
    classes: list[str]
    domains: list[str]
    test_domain: str
    model: str
    weights: str
    mean: list[float]
    std: list[float]
    size: int
    steps: int
    batch: int
    lr: float
    seed: int
    folder: str
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def epochs(self) -> int:
        """The passes through the training images that have at least as many images as the steps."""
        return math.ceil(self.steps * self.batch / len(self.train))

    @property
    def pretrained(self) -> dict[str, Any]:
        """The arguments of ``timm.create_model`` for the weights in the file."""
        return {"pretrained": True, "pretrained_cfg_overlay": {"file": self.weights, "hf_hub_id": None}}

    def files(self, keys: Sequence[str]) -> list[str]:
        """Paths of images."""
        return [str(Path(self.data) / key) for key in keys]

    def write(self, path: Path) -> None:
        """Write it as JSON."""
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")


def job() -> Job:
    """The job in the file that the command names."""
    return Job(**json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))


class Watch:
    """Counts the seconds of a training, from when it is made until ``stop``."""

    def __init__(self) -> None:
        self._began = time.perf_counter(), time.process_time()
        self.seconds: dict[str, float] = {}

    def stop(self) -> None:
        """The training is over: ``seconds`` that passed, and ``processor_seconds`` of this process."""
        now = time.perf_counter(), time.process_time()
        names = "seconds", "processor_seconds"
        pairs = zip(names, self._began, now, strict=True)
        self.seconds = {name: round(end - began, 1) for name, began, end in pairs}


def answer(watch: Watch, steps: int | None, *packages: str, **found: Any) -> None:
    """Write the answer to the file that the command names.

    Args:
        watch: it, stopped.
        steps: optimiser steps that were made; None where it failed.
        packages: what trained, beside torch.
        found: the predicted classes of the ``iid`` and the ``ood`` images, or their ``accuracies``, or why it
            ``failed``.
    """
    versions = {name: version(name) for name in (*packages, "torch")}
    content = {"steps": steps, **watch.seconds, "versions": versions, **found}
    Path(sys.argv[2]).write_text(json.dumps(content), encoding="utf-8")
