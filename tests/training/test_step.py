"""Optimiser steps: those of a plain loop bit for bit, however seldom the losses are read."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.helpers import Watch, assert_same_run, stopped_at
from torch import Tensor
from torch.nn import functional as F

import largedrop as ld
from largedrop.config import Config
from largedrop.data.views.batches import HostViews, ResidentViews
from largedrop.errors import CollapseError, Interrupted
from largedrop.fast_paths import FastPaths
from largedrop.models.heads import parameter_groups
from largedrop.training import setup
from largedrop.training.features import FeatureCache
from largedrop.training.loop import train
from largedrop.training.setup import create_network, make_optimizer, set_learning_rate
from largedrop.training.state import STATE_FILE
from largedrop.training.step import LOOK_EVERY, TrainingStep

CPU = torch.device("cpu")
CLASSES = ("a", "b", "c")

pytestmark = pytest.mark.usefixtures("quick_heads")


def batches(count: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [
        (torch.randn((4, 3, 32, 32), generator=generator), torch.randint(3, (4,), generator=generator))
        for _ in range(count)
    ]


@pytest.mark.parametrize("masks", [1, 4])
def test_a_step_is_that_of_a_plain_loop_bit_for_bit(config: Config, masks: int) -> None:
    changed = replace(config, lr=0.01, momentum=0.8, weight_decay=0.03, dropout=0.5, masks=masks)
    mine, plain = create_network(changed, CLASSES), create_network(changed, CLASSES)
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.01, momentum=0.8, weight_decay=0.03, fused=True)
    take = TrainingStep(mine, make_optimizer(changed, mine), "float32", lambda inputs: 2 * inputs)
    mine.train()
    plain.train()
    expected = []
    for number, (images, labels) in enumerate(batches(5)):
        torch.manual_seed(number)
        take(images, labels)
        torch.manual_seed(number)
        features = plain.represent(2 * images)
        loss = F.cross_entropy(plain.head(plain.dropout(features)), labels.repeat(masks))
        plain.zero_grad()
        loss.backward()
        optimizer.step()
        expected.append((loss.item(), features.detach().square().mean().sqrt().item()))
    assert take.read() == expected
    first, state, other = create_network(changed, CLASSES).state_dict(), mine.state_dict(), plain.state_dict()
    assert [name for name in state if not torch.equal(state[name], other[name])] == []
    assert not torch.equal(state["backbone.conv_stem.weight"], first["backbone.conv_stem.weight"])
    assert not torch.equal(state["head.weight"], first["head.weight"])


def test_in_bfloat16_losses_and_weights_stay_float32(config: Config) -> None:
    networks = [create_network(config, CLASSES).train() for _ in range(2)]
    found = []
    for network, precision in zip(networks, ("float32", "bfloat16"), strict=True):
        take = TrainingStep(network, make_optimizer(config, network), precision, lambda inputs: inputs)
        torch.manual_seed(0)
        take(*batches(1)[0])
        assert all(parameter.dtype == torch.float32 for parameter in network.parameters())
        ((loss, size),) = take.read()
        found.append((loss, size))
    assert found[0] != found[1]
    assert found[1] == pytest.approx(found[0], rel=0.05)


def test_losses_are_kept_unread_and_read_in_order(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(LOOK_EVERY, "cpu", 3)
    network = create_network(config, CLASSES).train()
    take = TrainingStep(network, make_optimizer(config, network), "float32", lambda inputs: inputs)
    values = iter([(torch.tensor(float(number)), torch.tensor(number + 0.5)) for number in range(5)])
    monkeypatch.setattr(take, "_graphed", lambda inputs, labels: next(values))
    images, labels = batches(1)[0]

    def refuse(*arguments: Any) -> Any:
        raise AssertionError("a value was read")

    assert take.read() == []
    with monkeypatch.context() as patch:
        for reading in ("item", "tolist", "numpy", "__float__", "__bool__"):
            patch.setattr(Tensor, reading, refuse)
        due = []
        for _ in range(4):
            take(images, labels)
            due.append(take.due)
    assert due == [False, False, True, True]
    assert take.read() == [(0.0, 0.5), (1.0, 1.5), (2.0, 2.5), (3.0, 3.5)]
    assert not take.due
    assert take.read() == []
    take(images, labels)
    assert take.read() == [(4.0, 4.5)]


@pytest.mark.parametrize("every", [2, 7, 1000])
def test_how_often_losses_are_read_changes_no_bit(
    data: ld.Dataset, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: int
) -> None:
    changed = replace(config, steps=20, eval_every=9)
    train(changed, data, tmp_path / "one")
    reads: list[int] = []
    read = TrainingStep.read

    def counted(self: TrainingStep) -> list[tuple[float, float]]:
        if found := read(self):  # the losses are asked for wherever they must be known; there may be no new ones
            reads.append(len(found))
        return found

    monkeypatch.setitem(LOOK_EVERY, "cpu", every)
    monkeypatch.setattr(TrainingStep, "read", counted)
    train(changed, data, tmp_path / "seldom")
    assert reads == {2: [2, 2, 2, 2, 1, 2, 2, 2, 2, 1, 2], 7: [7, 2, 7, 2, 2], 1000: [9, 9, 2]}[every]
    assert_same_run(tmp_path / "one", tmp_path / "seldom")
    reads.clear()
    with pytest.raises(Interrupted, match=r"^stopped after step 5 of 20$"):
        train(changed, data, tmp_path / "cut", reporter=stopped_at(5))
    assert sum(reads) == 5
    train(changed, data, tmp_path / "cut")
    assert sum(reads) == 20
    assert_same_run(tmp_path / "one", tmp_path / "cut")


def diverge(monkeypatch: pytest.MonkeyPatch, at_step: int) -> None:
    """Make the loss of one step infinite, in a process's counting."""
    compute = TrainingStep._compute
    steps = iter(range(1, 1000))

    def spoiled(self: TrainingStep, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        loss, size = compute(self, inputs, labels)
        return (loss + math.inf, size) if next(steps) == at_step else (loss, size)

    monkeypatch.setattr(TrainingStep, "_compute", spoiled)


@pytest.mark.parametrize("every", [1, 7])
def test_a_collapse_names_the_step_at_which_it_was_however_late_it_is_read(
    data: ld.Dataset, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: int
) -> None:
    changed = replace(config, steps=20, eval_every=18)
    monkeypatch.setitem(LOOK_EVERY, "cpu", every)
    for place, (taken, last) in {3: (7, 3), 7: (7, 7), 10: (14, 10), 16: (18, 16)}.items():
        with monkeypatch.context() as patch:
            diverge(patch, place)
            done: list[float] = []
            with pytest.raises(CollapseError) as caught:
                train(changed, data, tmp_path / str(place), reporter=Watch(advance=done.append))
        assert str(caught.value).startswith(f"the run diverged at step {place}: the loss is inf. With dropout 0.9, ")
        assert len([work for work in done if work == 40]) == (taken if every == 7 else last)
        # It can be taken up from the last state, which is one from before.
        assert [file.name for file in (tmp_path / str(place) / "outputs").iterdir()] == ["000000.safetensors"]
        assert (tmp_path / str(place) / STATE_FILE).exists()


def test_a_collapse_after_a_run_was_taken_up_counts_from_its_first_step(
    data: ld.Dataset, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = replace(config, steps=20, eval_every=20)
    monkeypatch.setitem(LOOK_EVERY, "cpu", 7)
    with pytest.raises(Interrupted):
        train(changed, data, tmp_path, reporter=stopped_at(4))
    diverge(monkeypatch, 2)
    with pytest.raises(CollapseError, match=r"^the run diverged at step 6: "):
        train(changed, data, tmp_path)


def test_a_run_through_a_devices_memory(
    data: ld.Dataset, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Finishes close to one through the processor's views, and goes on with the same bits."""
    monkeypatch.setattr(
        "largedrop.training.batches.fast_paths",
        lambda device, pixels, without: FastPaths("resident" not in without, False, True, True),
    )
    train(config, data, tmp_path / "host", features=FeatureCache(HostViews(data, CPU)))
    views = ResidentViews(data, CPU)
    train(config, data, tmp_path / "resident", features=FeatureCache(views))
    host, mine = (json.loads((tmp_path / name / "log.json").read_text())["log"] for name in ("host", "resident"))
    assert len(mine) == len(host) == 4
    for one, other in zip(mine[1:], host[1:], strict=True):
        assert (one["step"], one["lr"]) == (other["step"], other["lr"])
        assert one["train_loss"] == pytest.approx(other["train_loss"], rel=0.05)
        assert one["representation_rms"] == pytest.approx(other["representation_rms"], rel=0.02)
    assert not torch.equal(
        load_file(tmp_path / "resident" / "average.safetensors")["head.weight"],
        load_file(tmp_path / "host" / "average.safetensors")["head.weight"],
    )
    with pytest.raises(Interrupted):
        train(config, data, tmp_path / "cut", features=FeatureCache(views), reporter=stopped_at(3))
    train(config, data, tmp_path / "cut", features=FeatureCache(ResidentViews(data, CPU)))
    assert_same_run(tmp_path / "resident", tmp_path / "cut")


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_rate_in_a_tensor_is_filled_in_place_and_gives_the_same_steps(config: Config, optimizer: str) -> None:
    """As on a GPU, where a recorded step reads the rate from where it was: here with SGD and AdamW on the processor."""
    changed = replace(config, optimizer=optimizer, steps=4, lr=0.5**7, head_lr_multiplier=4.0, decay_at=0.5)
    networks = [create_network(changed, CLASSES).train() for _ in range(2)]
    plain, graphed = (make_optimizer(changed, network) for network in networks)
    for group in graphed.param_groups:
        group["lr"] = torch.tensor(group["lr"], dtype=torch.float32)
    rates = [group["lr"] for group in graphed.param_groups]
    steps = [
        TrainingStep(network, made, "float32", lambda inputs: inputs)
        for network, made in zip(networks, (plain, graphed), strict=True)
    ]
    for number, (images, labels) in enumerate(batches(4)):
        factor = 1.0 if number < 2 else 0.1
        for made, take in zip((plain, graphed), steps, strict=True):
            assert set_learning_rate(made, changed, number) == 0.5**7 * factor
            torch.manual_seed(number)
            take(images, labels)
        assert [group["lr"] for group in plain.param_groups] == [0.5**7 * factor, 0.5**5 * factor]
        assert [group["lr"] is rate for group, rate in zip(graphed.param_groups, rates, strict=True)] == [True, True]
        assert [rate.item() for rate in rates] == pytest.approx([0.5**7 * factor, 0.5**5 * factor], rel=1e-7)
    one, other = (network.state_dict() for network in networks)
    first = create_network(changed, CLASSES).state_dict()
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-5, atol=1e-6)
    assert not torch.equal(one["head.weight"], first["head.weight"])


@pytest.mark.parametrize(("optimizer", "options"), [("sgd", {}), ("adamw", {"capturable": True})])
def test_on_a_gpu_every_group_has_its_rate_in_a_tensor_there(
    config: Config, monkeypatch: pytest.MonkeyPatch, optimizer: str, options: dict[str, Any]
) -> None:
    """With torch's meta device for the GPU, which tensors can be made on anywhere."""
    changed = replace(config, optimizer=optimizer, head_lr_multiplier=10.0)
    given: list[tuple[Any, dict[str, Any]]] = []
    monkeypatch.setattr(torch.optim, "SGD", lambda groups, **rest: given.append((groups, rest)))
    monkeypatch.setattr(torch.optim, "AdamW", lambda groups, **rest: given.append((groups, rest)))
    made: list[tuple[float, torch.dtype, str]] = []

    def tensor(value: float, dtype: torch.dtype, device: Any) -> Tensor:
        made.append((value, dtype, device.type))
        return torch.full((), value, dtype=dtype)

    network = create_network(changed, CLASSES)
    groups = parameter_groups(network, changed.lr, changed.head_lr_multiplier, "head")
    monkeypatch.setattr(setup, "parameter_groups", lambda *arguments: groups)

    class Weight:
        device = torch.device("cuda")

    class Elsewhere:
        class head:  # noqa: N801
            weight = Weight

    with monkeypatch.context() as patch:
        patch.setattr(torch, "tensor", tensor)
        make_optimizer(changed, Elsewhere)  # type: ignore[arg-type]
    ((found, rest),) = given
    assert made == [(1e-3, torch.float32, "cuda"), (pytest.approx(1e-2), torch.float32, "cuda")]
    assert [group["lr"].item() for group in found] == pytest.approx([1e-3, 1e-2])
    assert [group["initial_lr"] for group in found] == pytest.approx([1e-3, 1e-2], abs=0)
    assert rest["fused"] is True
    assert {name: rest.get(name) for name in options} == options
