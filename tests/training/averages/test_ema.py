"""The exponential average against a sum by hand in float64, whole and in parts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.helpers import different, network_of, step_by_step, tensors
from torch import Tensor

import largedrop as ld
from largedrop.config import Config
from largedrop.models.network import Network
from largedrop.runs.run import Run
from largedrop.training.averages import make_averages
from largedrop.training.averages.ema import ExponentialAverage
from largedrop.training.averaging import average_weights
from largedrop.training.loop import train
from largedrop.training.setup import create_network


@pytest.fixture
def network(config: Config) -> Network:
    return create_network(config, ("a", "b", "c"))


def step(network: Network, number: int) -> dict[str, Tensor]:
    """Change every tensor, as a step does, in place; a copy of the weights after it."""
    generator = torch.Generator().manual_seed(number)
    with torch.no_grad():
        for tensor in network.state_dict().values():
            if tensor.is_floating_point():
                tensor += torch.randn(tensor.shape, generator=generator)
            else:
                tensor += 1
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def by_hand(states: list[dict[str, Tensor]], decay: float, name: str) -> Tensor:
    shares = [decay ** (len(states) - 1 - index) for index in range(len(states))]
    total = sum((share * state[name].double() for share, state in zip(shares, states, strict=True)), torch.zeros(()))
    return total / sum(shares)


@pytest.mark.parametrize("decay", [0.2, 0.9, 0.999])
def test_every_step_weighs_less_than_the_next_and_the_start_not_at_all(network: Network, decay: float) -> None:
    average = ExponentialAverage(decay)
    states = []
    for number in range(7):
        states.append(step(network, number))
        average.after_step(network)
        if number in (0, 6):
            average.evaluated(number + 1, network, 1.0)
            for name, tensor in average.result().items():
                if tensor.is_floating_point():
                    torch.testing.assert_close(tensor.double(), by_hand(states, decay, name), rtol=1e-5, atol=1e-6)
                else:
                    assert torch.equal(tensor, states[-1][name])
    assert average.result().keys() == states[0].keys()


def test_the_weights_are_not_shared_with_the_network(network: Network) -> None:
    average = ExponentialAverage(0.9)
    first = step(network, 0)
    average.after_step(network)
    step(network, 1)
    assert all(torch.equal(tensor, first[name]) for name, tensor in average.result().items())


def test_a_saved_average_goes_on_with_the_same_bits(network: Network) -> None:
    whole, part = ExponentialAverage(0.9), ExponentialAverage(0.9)
    for number in range(5):
        header, tensors = part.state()
        part = ExponentialAverage(0.9)
        part.load(json.loads(json.dumps(header)), {name: tensor.clone() for name, tensor in tensors.items()})
        step(network, number)
        for average in (whole, part):
            average.after_step(network)
            average.evaluated(number + 1, network, 1.0)
    assert all(torch.equal(tensor, part.result()[name]) for name, tensor in whole.result().items())
    with pytest.raises(KeyError):
        part.load({}, {})


def test_a_run_has_it_where_the_config_asks_for_it(config: Config) -> None:
    assert "ema" not in make_averages(config)
    made = make_averages(replace(config, ema=0.75))["ema"]
    assert isinstance(made, ExponentialAverage)
    assert made.decay == 0.75


@pytest.mark.usefixtures("quick_heads")
def test_the_exponential_average_is_over_every_step(data: ld.Dataset, config: Config, tmp_path: Path) -> None:
    averaged = replace(config, ema=0.7)
    states = [network_of(state) for state in step_by_step(averaged, data, tmp_path / "averaged")]
    run = Run.open(tmp_path / "averaged")
    expected = average_weights(states, [0.7 ** (len(states) - step) for step in range(1, len(states) + 1)])
    for name, value in load_file(run.ema).items():
        torch.testing.assert_close(value, expected[name])
    assert [record.method for record in run.records].count("ema") == 1
    # It only watches: all else is as without it.
    plain = train(config, data, tmp_path / "plain")
    rest = {name: value for name, value in tensors(run.folder).items() if not name.startswith("ema")}
    assert different(tensors(plain.folder), rest) == []
