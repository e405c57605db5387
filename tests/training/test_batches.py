"""The batches of a run's steps: the same ones ahead of them and not, from one thread, which ends with them."""

from __future__ import annotations

import shutil
import threading
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

import largedrop as ld
from largedrop.config import Config
from largedrop.data.sampling import batch_indices, classes_of
from largedrop.data.views.batches import HostViews
from largedrop.models.network import Spec
from largedrop.training import batches
from largedrop.training.batches import training_batches
from largedrop.training.loop import train

SPEC = Spec("x", "random", ("a", "b", "c"), 16, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), 0.9)


def threads() -> int:
    """Those that make batches ahead."""
    return sum(each.name.startswith("largedrop") for each in threading.enumerate())


@pytest.mark.parametrize("balance", [False, True])
def test_ahead_they_are_the_same(data: ld.Dataset, config: Config, balance: bool) -> None:
    config, split = replace(config, balance=balance, seed=3), config.split_of(data)
    views = HostViews(data)
    assert views.ahead == 0
    assert HostViews(data, torch.device("cuda")).ahead == 2
    now = list(training_batches(config, data, split, views, SPEC, range(2, 6)))
    views.ahead = 2
    before = threads()
    ahead = training_batches(config, data, split, views, SPEC, range(2, 6))
    found = [next(ahead)]
    assert threads() == before + 1
    found += ahead
    assert threads() == before
    assert len(now) == 4
    balanced = classes_of(split.train, data.labels) if balance else None
    for step, (one, other) in enumerate(zip(now, found, strict=True), 2):
        assert all(torch.equal(*pair) for pair in zip(one, other, strict=True))
        chosen = batch_indices(split.train, config.batch, 3, step, balanced)
        assert np.array_equal(one[1].numpy(), data.labels[chosen])
        assert torch.equal(one[0], views.training(chosen, SPEC, 3, step))


def test_closed_early_nothing_is_made_any_more(
    data: ld.Dataset, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    views, made = HostViews(data), []
    views.ahead = 2
    inputs = views.inputs

    def counted(indices: Any, spec: Any, seed: int, step: int) -> torch.Tensor:
        made.append(step)
        return inputs(indices, spec, seed, step)

    monkeypatch.setattr(views, "inputs", counted)
    before = threads()
    batches = training_batches(config, data, config.split_of(data), views, SPEC, range(10**9))
    assert len(list(islice(batches, 3))) == 3
    batches.close()
    assert threads() == before
    assert made in ([*range(count)] for count in range(3, 7))  # in order, and at most two more than were taken


def test_an_error_is_the_steps(data: ld.Dataset, config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    views = HostViews(data)
    views.ahead = 2
    monkeypatch.setattr(views, "inputs", lambda *rest: (_ for _ in ()).throw(ld.UserError("damaged")))
    with pytest.raises(ld.UserError, match=r"^damaged$"):
        next(training_batches(config, data, config.split_of(data), views, SPEC, range(3)))


@pytest.mark.usefixtures("quick_heads")
def test_balanced_batches_are_those_of_the_loop(
    toy: Path, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = shutil.copytree(toy, tmp_path / "toy")
    for path in sorted((root / "ink" / "red").iterdir())[2:]:
        path.unlink()
    data = ld.open_dataset(root)
    drawn: list[int] = []

    def recorded(*arguments: Any) -> npt.NDArray[np.int64]:
        chosen = batch_indices(*arguments)
        drawn.extend(data.labels[chosen[: len(chosen) // 2]].tolist())
        return chosen

    monkeypatch.setattr(batches, "batch_indices", recorded)
    counts = []
    for balance in (False, True):
        drawn.clear()
        chosen = replace(config, fingerprint=data.fingerprint, balance=balance, steps=12, eval_every=12)
        train(chosen, data, tmp_path / str(balance))
        counts.append([drawn.count(label) for label in range(3)])
    assert counts == [[22, 22, 4], [16, 16, 16]]  # of 5, 5 and 1
