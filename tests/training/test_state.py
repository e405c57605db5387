"""A run's state on disk: the step after it has the same bits as without it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.helpers import unanswering
from torch.nn import functional as F

from largedrop.config import Config
from largedrop.errors import UserError
from largedrop.models.network import Network
from largedrop.runs.checkpoint import read_tensors, write_tensors
from largedrop.training.averages import make_averages
from largedrop.training.collapse import CollapseWatch
from largedrop.training.setup import create_network, make_optimizer
from largedrop.training.state import STATE_FILE, NoStateError, Trajectory, load_state, save_state

RUN = "0123456789ab"


class Run:
    """The five things that a state is made of, and a step that changes all of them."""

    def __init__(self, config: Config, classes: int = 3) -> None:
        self.network: Network = create_network(config, tuple("abcdef"[:classes])).train()
        self.optimizer = make_optimizer(config, self.network)
        self.averages, self.watch = make_averages(config), CollapseWatch(classes, config.dropout, config.lr, warm=False)
        self.trajectory = Trajectory(probe={"iid_accuracy": 0.5, "seconds": 0.25})

    def step(self, number: int) -> None:
        torch.manual_seed(number)
        images = torch.randn(6, 3, 32, 32).contiguous(memory_format=torch.channels_last)
        loss = F.cross_entropy(self.network(images), torch.arange(6) % 3)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        for average in self.averages.values():
            average.after_step(self.network)
            average.evaluated(number + 1, self.network, 1.0)
        self.watch.see(number + 1, float(loss.detach()), 1.5)
        self.trajectory.step = number + 1
        self.trajectory.losses.append(float(loss.detach()))

    def save(self, folder: Path) -> None:
        save_state(folder, RUN, self.trajectory, self.network, self.optimizer, self.averages, self.watch)

    def load(self, folder: Path) -> Trajectory | None:
        return load_state(folder, RUN, self.network, self.optimizer, self.averages, self.watch)

    def bits(self) -> dict[str, Any]:
        tensors = {f"network.{name}": tensor for name, tensor in self.network.state_dict().items()}
        for method, average in self.averages.items():
            header, held = average.state()
            tensors |= {f"{method}.{name}": tensor for name, tensor in held.items()}
            tensors[method] = torch.tensor(list(json.dumps(header).encode()))
        for number, entries in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{number}.{name}": value for name, value in entries.items()}
        return {name: tensor.detach().clone() for name, tensor in tensors.items() if tensor is not None}


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def refusal(run: Run, folder: Path) -> str:
    with pytest.raises(NoStateError) as caught:
        run.load(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def saved(config: Config, tmp_path: Path) -> Path:
    run = Run(config)
    for number in range(2):
        run.step(number)
    run.save(tmp_path)
    return tmp_path


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_the_next_step_has_the_same_bits(config: Config, tmp_path: Path, optimizer: str) -> None:
    changed = replace(config, optimizer=optimizer, lr=0.05, weight_decay=0.01, swad=True, ema=0.9)
    one, other = Run(changed), Run(replace(changed, seed=9))
    for number in range(3):
        one.step(number)
    one.save(tmp_path)
    assert not same(one.bits(), other.bits())
    found = other.load(tmp_path)
    assert found == one.trajectory
    assert other.watch.state() == one.watch.state()
    assert same(one.bits(), other.bits())
    assert any("exp_avg" in name for name in one.bits()) is (optimizer == "adamw")
    for number in (3, 4):
        one.step(number)
        other.step(number)
    assert same(one.bits(), other.bits())


def test_a_state_before_the_first_step(config: Config, tmp_path: Path) -> None:
    one, other = Run(config), Run(replace(config, seed=9))
    one.save(tmp_path)
    assert other.load(tmp_path) == Trajectory(probe={"iid_accuracy": 0.5, "seconds": 0.25})
    for run in (one, other):
        run.step(0)
    assert same(one.bits(), other.bits())


def test_the_memory_layout_is_the_networks_own(config: Config, saved: Path) -> None:
    run = Run(config)
    run.load(saved)
    stem = run.network.get_parameter("backbone.conv_stem.weight")
    momentum = run.optimizer.state[stem]["momentum_buffer"]
    for tensor in (stem, momentum, run.averages["weight-average"].result()["backbone.conv_stem.weight"]):
        assert tensor.is_contiguous(memory_format=torch.channels_last)
        assert not tensor.is_contiguous()


def test_a_run_that_was_not_begun(config: Config, tmp_path: Path) -> None:
    run = Run(config)
    before = run.bits()
    assert run.load(tmp_path) is None
    assert same(run.bits(), before)


@pytest.mark.parametrize("call", ["lstat", "open"])
def test_a_state_that_cannot_be_read_is_neither_missing_nor_damaged(
    config: Config, saved: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """Else the run would be begun again where a file server is away for a moment."""
    run = Run(config)
    unanswering(monkeypatch, call)
    with pytest.raises(UserError, match=r"Input/output error") as caught:
        run.load(saved)
    assert not isinstance(caught.value, NoStateError)


@pytest.mark.parametrize("length", [0, 5, 100, -1])
def test_a_damaged_state(config: Config, saved: Path, length: int) -> None:
    path = saved / STATE_FILE
    path.write_bytes(path.read_bytes()[:length])
    assert refusal(Run(config), saved).startswith(f"{path} is damaged or not a safetensors file: ")


def test_a_flipped_bit_and_a_state_of_another_run(config: Config, saved: Path) -> None:
    path = saved / STATE_FILE
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert refusal(Run(config), saved) == f"{path} is damaged: its checksum is not that of its content"
    run = Run(config)
    save_state(saved, "ba9876543210", run.trajectory, run.network, run.optimizer, run.averages, run.watch)
    assert refusal(run, saved) == f"{path} is of another run: of the config ba9876543210, not {RUN}"


def test_a_state_of_another_network(config: Config, saved: Path) -> None:
    assert refusal(Run(config, classes=4), saved) == (
        f"{saved / STATE_FILE} does not fit this run (size mismatch for head.weight: copying a param with shape "
        "torch.Size([3, 256]) from checkpoint, the shape in current model is torch.Size([4, 256]).)"
    )


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"watch": None}, "'watch'"),
        ({"averages": {}}, "'weight-average'"),
        ({"trajectory": None}, "'trajectory'"),
        ({"averages": {"weight-average": {"count": "many"}}}, "invalid literal for int() with base 10: 'many'"),
        ({"trajectory": {"stop": 1}}, "Trajectory.__init__() got an unexpected keyword argument 'stop'"),
        ({"watch": {"first": 1.0, "losses": [], "sizes": 3}}, "'int' object is not iterable"),
    ],
)
def test_a_header_that_does_not_fit(config: Config, saved: Path, changes: dict[str, Any], reason: str) -> None:
    path = saved / STATE_FILE
    header = {name: value for name, value in {**read_tensors(path, "state")[1], **changes}.items() if value is not None}
    write_tensors(path, load_file(path), "state", {name: header[name] for name in header if name != "crc32"})
    assert refusal(Run(config), saved) == f"{path} does not fit this run ({reason})"


def test_another_kind_of_file(config: Config, saved: Path) -> None:
    path = saved / STATE_FILE
    save_file(load_file(path), path, metadata={"largedrop": json.dumps({"kind": "model", "version": 1})})
    assert refusal(Run(config), saved) == f"{path} is a largedrop file of the kind 'model', not 'state'"


@pytest.mark.parametrize(
    ("accuracies", "step"), [([0.1, 0.3, 0.2], 2), ([0.3, 0.3, 0.3], 1), ([0.1, 0.2, 0.2], 2), ([0.0], 1)]
)
def test_the_best_is_the_first_of_highest_iid_accuracy(accuracies: list[float], step: int) -> None:
    log = [
        {"step": number, "iid_accuracy": accuracy, "ood_accuracy": number / 10}
        for number, accuracy in enumerate(accuracies, 1)
    ]
    assert Trajectory(log=log).best["step"] == step


def test_what_selects_the_best() -> None:
    scores = [(0.5, 0.9), (0.8, 0.2), (0.8, 0.9), (0.6, 0.9)]
    log = [
        {"step": 10 * number, "iid_accuracy": one, "iid_macro_accuracy": other}
        for number, (one, other) in enumerate(scores)
    ]
    assert Trajectory(log=log).best["step"] == 10
    assert Trajectory(log=log, selecting="iid_macro_accuracy").best["step"] == 0
