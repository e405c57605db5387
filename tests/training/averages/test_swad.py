"""SWAD against the paper's algorithm 1 written down directly, and its state against never having stopped."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.helpers import different, network_of, step_by_step, tensors
from torch import Tensor

import largedrop as ld
from largedrop.config import Config
from largedrop.errors import UserError
from largedrop.runs.checkpoint import read_tensors
from largedrop.runs.run import Run
from largedrop.training import loop
from largedrop.training.averages.swad import Swad
from largedrop.training.averaging import average_weights
from largedrop.training.loop import train

SETTINGS = [(3, 6, 1.3), (3, 6, 1.0), (1, 1, 1.0), (4, 2, 1.1), (2, 2, 1.2), (1, 5, 1.05), (5, 1, 1.02)]


def weights(step: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(step)
    return {"x": torch.randn(3, dtype=torch.float64, generator=generator), "batches": torch.tensor(step)}


def algorithm_1(losses: list[float], patience: int, overfit: int, ratio: float) -> tuple[int, int, bool, bool]:
    """Cha et al. (2021), algorithm 1, with everything in a list: t_s and t_e, and whether they were found."""
    start, end, level, ended = 0, len(losses) - 1, None, False
    for i in range(len(losses)):
        if level is None:
            window = [losses[i - back] for back in range(patience)] if i >= patience - 1 else []
            if window and losses[i - patience + 1] == min(window):
                start, level = i - patience + 1, ratio * sum(window) / patience
        elif i >= overfit - 1 and level < min(losses[i - back] for back in range(overfit)):
            end, ended = i - overfit, True
            break
    return start, end, level is not None, ended


def curve(seed: int) -> list[float]:
    """Falls, then rises or does not, with noise."""
    rng = random.Random(seed)
    turn, slope, noise = rng.randrange(3, 20), rng.choice([0.0, 0.1, 0.3]), rng.choice([0.01, 0.1, 0.4])
    return [
        0.3 + 0.1 * max(turn - k, 0) + slope * max(k - turn, 0) + noise * rng.random()
        for k in range(rng.randrange(1, 40))
    ]


@pytest.mark.parametrize("settings", SETTINGS)
def test_algorithm_1_on_random_curves(settings: tuple[int, int, float]) -> None:
    kinds = set()
    for seed in range(150):
        losses = curve(seed)
        swad = Swad(*settings)
        for k, loss in enumerate(losses):
            swad.add(10 * k, weights(k), loss)
        result = swad.result()
        start, end, converged, ended = algorithm_1(losses, *settings)
        assert (result.start, result.end, result.converged, result.overfitted) == (
            10 * start,
            10 * end,
            converged,
            ended,
        )
        assert result.count == end - start + 1
        assert swad.finished == ended
        mean = torch.stack([weights(k)["x"] for k in range(start, end + 1)]).mean(0)
        torch.testing.assert_close(result.state["x"], mean, rtol=1e-12, atol=1e-12)
        assert int(result.state["batches"]) == end
        kinds.add((converged, ended))
    assert {(True, True), (True, False)} <= kinds


def test_a_valley_worked_out_by_hand() -> None:
    losses = [5.0, 4.0, 3.0, 2.0, 2.1, 2.2, 2.5, 2.9, 2.7, 3.0, 3.1, 3.2, 1.0]
    swad = Swad(3, 2, 1.3)  # the level is 1.3 · 2.1 = 2.73, found at the sixth
    for k, loss in enumerate(losses):
        swad.add(k, weights(k), loss)
    result = swad.result()
    assert swad.level == pytest.approx(2.73)
    assert (result.start, result.end, result.count) == (3, 8, 6)
    assert result.converged
    assert result.overfitted


def test_a_loss_that_only_falls_averages_everything() -> None:
    swad = Swad()
    for k in range(12):
        swad.add(k, weights(k), 10.0 - k)
    result = swad.result()
    assert (result.start, result.end, result.count, result.converged) == (0, 11, 12, False)


def test_the_result_may_be_asked_for_on_the_way() -> None:
    losses = curve(4)
    swad, plain = Swad(), Swad()
    for k, loss in enumerate(losses):
        swad.add(k, weights(k), loss)
        swad.result()
        plain.add(k, weights(k), loss)
    assert torch.equal(swad.result().state["x"], plain.result().state["x"])


def test_states_are_copied_and_few() -> None:
    losses = [3.0, 2.0, 1.0, 1.1, 1.2] + [1.0] * 20
    swad, most = Swad(), 0
    state = weights(0)
    for k, loss in enumerate(losses):
        state["x"].fill_(k)
        swad.add(k, state, loss)
        most = max(most, len(swad._pending))
    assert most == 6
    assert float(swad.result().state["x"][0]) == pytest.approx(sum(range(2, 25)) / 23)


@pytest.mark.parametrize("settings", SETTINGS[:4])
@pytest.mark.parametrize("seed", [2, 4, 7, 11])
def test_going_on_gives_the_same_bits(settings: tuple[int, int, float], seed: int) -> None:
    losses = curve(seed)
    whole = Swad(*settings)
    part = Swad(*settings)
    for k, loss in enumerate(losses):
        whole.add(k, weights(k), loss)
        part.add(k, weights(k), loss)
        header, tensors = part.state()
        part = Swad(*settings)
        part.load(json.loads(json.dumps(header)), {name: tensor.clone() for name, tensor in tensors.items()})
    one, other = whole.result(), part.result()
    assert (one.start, one.end, one.count, one.converged) == (other.start, other.end, other.count, other.converged)
    assert one.overfitted == other.overfitted
    assert all(torch.equal(one.state[name], other.state[name]) for name in one.state)


def test_a_state_of_something_else() -> None:
    swad = Swad()
    for k in range(4):
        swad.add(k, weights(k), 1.0)
    header, tensors = swad.state()
    with pytest.raises(UserError, match=r"was begun with \["):
        Swad(2).load(header, tensors)
    with pytest.raises(ValueError, match="do not fit"):
        Swad().load(header, {})
    with pytest.raises(KeyError):
        Swad().load({}, tensors)


@pytest.mark.parametrize("settings", [(0, 6, 1.3), (3, 0, 1.3), (3, 6, 0.9), (3, 6, float("nan"))])
def test_settings_out_of_range(settings: tuple[int, int, float]) -> None:
    with pytest.raises(UserError, match="SWAD's"):
        Swad(*settings)


def test_what_cannot_be_added() -> None:
    swad = Swad()
    with pytest.raises(UserError, match="there was no evaluation to average"):
        swad.result()
    swad.add(5, weights(0), 1.0)
    with pytest.raises(UserError, match="the step must be after step 5, not 5"):
        swad.add(5, weights(0), 1.0)
    with pytest.raises(UserError, match="the validation loss at step 6 is nan"):
        swad.add(6, weights(0), float("nan"))
    with pytest.raises(UserError, match="only one has 'batches'"):
        swad.add(6, {"x": torch.zeros(3)}, 1.0)
    with pytest.raises(UserError, match="tensor 'x' contains NaN or infinity"):
        swad.add(6, {**weights(0), "x": torch.full((3,), torch.inf)}, 1.0)
    assert swad.result().count == 1


def test_nothing_is_taken_in_after_the_end() -> None:
    swad = Swad(1, 1, 1.0)
    for k, loss in enumerate([1.0, 0.5, 2.0]):
        swad.add(k, weights(k), loss)
    assert swad.finished
    before = swad.result()
    swad.add(3, weights(3), 0.1)
    assert torch.equal(swad.result().state["x"], before.state["x"])


@pytest.mark.usefixtures("quick_heads")
def test_swad_averages_every_step_of_its_evaluations(data: ld.Dataset, config: Config, tmp_path: Path) -> None:
    dense = replace(config, swad=True)
    states = step_by_step(dense, data, tmp_path / "dense")
    swad = Swad()
    for step in dense.evaluations:
        since = [network_of(state) for state in states[step - 2 : step]]
        outputs, _ = read_tensors(tmp_path / "dense" / "outputs" / f"{step:06d}.safetensors", "outputs")
        labels = torch.from_numpy(data.labels[data.split("photo", 0).iid])
        loss = float(torch.nn.functional.cross_entropy(outputs["iid"].double(), labels))
        swad.add(step, average_weights(since), loss)
    run = Run.open(tmp_path / "dense")
    kept, _ = read_tensors(run.swad, "model")
    for name, value in swad.result().state.items():
        torch.testing.assert_close(kept[name], value)
    assert [record.method for record in run.records].count("swad") == 1
    # It only watches: all else is as without it.
    plain = train(config, data, tmp_path / "plain")
    rest = {name: value for name, value in tensors(run.folder).items() if not name.startswith("swad")}
    assert different(tensors(plain.folder), rest) == []


@pytest.mark.usefixtures("quick_heads")
def test_swad_follows_the_weighed_loss(
    data: ld.Dataset, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses: list[float] = []
    real = Swad.add

    def add(self: Swad, step: int, state: Any, loss: float) -> None:
        losses.append(loss)
        real(self, step, state, loss)

    monkeypatch.setattr(Swad, "add", add)
    monkeypatch.setattr(loop, "held_out_weights", lambda config, labels, split, classes: np.zeros(len(split.iid)))
    train(replace(config, swad=True, steps=2), data, tmp_path / "run")
    assert losses == [0.0]
