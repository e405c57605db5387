"""Runs that find no memory: once more without their images on the device, else one line; and that none is kept."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.helpers import Networks, Watch, refusal, stopped_at
from torch import Tensor

import largedrop as ld
from largedrop.config import Config
from largedrop.data.views.batches import HostViews, ResidentViews
from largedrop.errors import CollapseError, Interrupted, NoMemoryError
from largedrop.fast_paths import FastPaths
from largedrop.training.features import FeatureCache
from largedrop.training.loop import cost, train
from largedrop.training.step import TrainingStep

CPU = torch.device("cpu")
SAID = (
    "a run of test_efficientnet at 32 px with 4 images of each domain in a batch needs more memory than cpu has free; "
    "a smaller --batch or --size needs less"
)

pytestmark = pytest.mark.usefixtures("quick_heads")


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Let the third step of so many attempts find no memory."""
    compute = TrainingStep._compute

    def install(
        attempts: int, error: type[Exception] = torch.cuda.OutOfMemoryError, text: str = "CUDA out of memory. Tried …"
    ) -> None:
        left = [attempts]

        def spoiled(self: TrainingStep, inputs: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
            if self._step == 2 and left[0]:
                left[0] -= 1
                raise error(text)
            return compute(self, inputs, labels)

        monkeypatch.setattr(TrainingStep, "_compute", spoiled)

    return install


def takes(monkeypatch: pytest.MonkeyPatch, resident: FastPaths, on_host: FastPaths) -> None:
    """Let a run take some paths, and others where its images are not in the GPU's memory."""

    def fast_paths(device: torch.device, pixels: int, without: list[str]) -> FastPaths:
        return on_host if without == ["resident"] else resident

    monkeypatch.setattr("largedrop.training.batches.fast_paths", fast_paths)


def test_a_run_goes_on_with_its_images_on_the_host(
    data: ld.Dataset, config: Config, tmp_path: Path, networks: Networks, full: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the paths that are best there, which need not be the others of the set."""
    takes(monkeypatch, FastPaths(resident=True, folded=True), FastPaths(kernels=True))
    full(1)
    views = ResidentViews(data, CPU)
    images = weakref.ref(views.images)
    features = FeatureCache(views)
    del views
    alive: list[object] = []
    done: list[float] = []
    watch = Watch(note=lambda text: alive.append((text, images())), advance=done.append, skip=done.append)
    run = train(config, data, tmp_path / "run", features=features, reporter=watch)
    told = "the GPU has too little memory: its images are removed, and views are made on the processor"
    by = "fast paths: resident, folded up to step 2, and from there kernels: the last bits may differ"
    assert alive == [(told, None), (by, None)]
    assert run.result["fast_paths"] == [["resident", "folded"], ["kernels"]]
    assert networks.before == [0, 0]
    assert sum(done) == pytest.approx(cost(config, data.split("photo", 0)), rel=0.05)  # none of it twice
    assert type(features.views) is HostViews
    assert (features.views.data, features.views.device) == (data, CPU)
    assert run.best.is_file()


def test_a_run_that_is_faster_without_the_images_leaves_them_to_others(
    data: ld.Dataset, config: Config, tmp_path: Path, full: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    takes(monkeypatch, FastPaths(folded=True), FastPaths(kernels=True))
    views = ResidentViews(data, CPU)
    monkeypatch.setattr(views, "inputs", None)  # what its steps would call
    features = FeatureCache(views)
    run = train(config, data, tmp_path / "one", features=features)
    assert run.result["fast_paths"] == [["folded"]]
    assert features.views is views
    full(1)  # where they take the memory they are removed all the same
    run = train(config, data, tmp_path / "two", features=features)
    assert run.result["fast_paths"] == [["folded"], ["kernels"]]
    assert type(features.views) is HostViews


def test_what_needs_more_memory_without_the_images_as_well(
    data: ld.Dataset, config: Config, tmp_path: Path, networks: Networks, full: Any
) -> None:
    full(2)
    features = FeatureCache(ResidentViews(data, CPU))
    assert refusal(train, config, data, tmp_path, features=features) == SAID
    assert (networks.before, networks.alive) == ([0, 0], 0)
    assert len(train(config, data, tmp_path, features=features).result["log"]) == 4  # it goes on


@pytest.mark.parametrize("error", [MemoryError, RuntimeError])
def test_images_on_the_host_are_no_reason_to_try_again(
    data: ld.Dataset, config: Config, tmp_path: Path, networks: Networks, full: Any, error: type[Exception]
) -> None:
    full(1, error)
    with pytest.raises(NoMemoryError) as caught:
        train(config, data, tmp_path)
    assert str(caught.value) == SAID
    assert networks.before == [0]


def test_other_errors_are_raised(
    data: ld.Dataset, config: Config, tmp_path: Path, networks: Networks, full: Any
) -> None:
    full(1, RuntimeError, "cuDNN is tired")
    with pytest.raises(RuntimeError, match="cuDNN is tired"):
        train(config, data, tmp_path, features=FeatureCache(ResidentViews(data, CPU)))
    assert networks.before == [0]


ENDS: dict[str, type[Exception]] = {
    "interrupted": Interrupted,
    "collapsed": CollapseError,
    "out of memory": NoMemoryError,
}


@pytest.mark.parametrize(
    ("changed", "ends"),
    [
        *((kind, "finished") for kind in ("frozen", "vrex", "mixout", "swad", "block dropout")),
        *(("frozen", end) for end in ENDS),
    ],
    indirect=["changed"],
)
def test_nothing_but_the_files_is_left_of_a_run(
    data: ld.Dataset,
    changed: Config,
    tmp_path: Path,
    networks: Networks,
    monkeypatch: pytest.MonkeyPatch,
    ends: str,
) -> None:
    """Its network is freed when it ends, however it does, without Python's collector: on a GPU it would fill it."""
    compute = TrainingStep._compute

    def spoiled(self: TrainingStep, inputs: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
        if ends == "out of memory" and self._step == 1:
            raise MemoryError
        loss, size = compute(self, inputs, labels)
        return loss * (float("nan") if ends == "collapsed" else 1), size

    monkeypatch.setattr(TrainingStep, "_compute", spoiled)
    if ends == "finished":
        train(changed, data, tmp_path)
    else:
        with pytest.raises(ENDS[ends]):
            train(changed, data, tmp_path, reporter=stopped_at(2 if ends == "interrupted" else 0))
    assert len(networks.made) == 1
    assert networks.alive == 0
