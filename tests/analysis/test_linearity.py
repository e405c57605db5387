"""Linearised networks: by hand, in float64 against finite differences, and through the layers that networks have."""

from __future__ import annotations

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn
from torch.func import functional_call

from largedrop.analysis.linearity import Linearised, linearise, measure_linearity, relative_distance
from largedrop.errors import UserError

State = dict[str, Tensor]


class Quadratic(nn.Module):
    """f(x; w) = w² x."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(1))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.w**2 * inputs


def moved(network: nn.Module, size: float, seed: int = 0) -> tuple[State, State]:
    """Its state dict, and one with every parameter moved by noise."""
    start = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
    generator = torch.Generator().manual_seed(seed)
    names = {name for name, _ in network.named_parameters()}
    tuned = {
        name: tensor + size * torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
        if name in names
        else tensor
        for name, tensor in start.items()
    }
    return start, tuned


def test_a_quadratic_by_hand() -> None:
    network = Quadratic().eval()
    found = linearise(network, {"w": torch.tensor([2.0])}, {"w": torch.tensor([3.0])}, torch.tensor([[1.0], [-2.0]]))
    # f(w0) = 4x, f_lin = 4x + 2·2·(3 − 2) x = 8x, f = 9x.
    assert found.start.tolist() == [[4.0], [-8.0]]
    assert found.linear.tolist() == [[8.0], [-16.0]]
    assert found.tuned.tolist() == [[9.0], [-18.0]]
    assert relative_distance(found) == pytest.approx(1 / 5)
    assert network.w.item() == 0  # its own weights are left alone


def test_a_network_that_is_linear_in_its_weights_is_at_distance_0() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 3)).double().eval()
    start, tuned = moved(network, 1.0)
    inputs = torch.randn(5, 3, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found = linearise(network, start, tuned, inputs)
    assert (found.tuned - found.start).norm() > 1
    assert relative_distance(found) < 1e-14
    labels = found.tuned.argmax(1).numpy()
    assert measure_linearity(found, labels).linear_accuracy == 1


@pytest.mark.parametrize(
    "name",
    # ReLU and batch norm; SiLU, squeeze and excite; attention and layer norm; ReLU6; hard-swish and hard-sigmoid.
    ["test_resnet", "test_efficientnet", "test_vit", "tf_efficientnet_lite0", "mobilenetv3_small_050"],
)
def test_against_finite_differences_through_real_layers(name: str) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = timm.create_model(name, pretrained=False, num_classes=4).eval()
    size = 160 if name == "test_vit" else 32
    inputs = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(2))
    # Fresh biases are 0, and so are some pre-activations then: at the very kink of a ReLU, where no slope is right.
    network.load_state_dict(moved(network, 0.05, seed=1)[1])
    start, tuned = moved(network, 1e-2)
    single = linearise(network, start, tuned, inputs)
    before, after = ({name: _double(tensor) for name, tensor in state.items()} for state in (start, tuned))
    double = linearise(network.double(), before, after, inputs.double())
    step = 1e-8

    def at(amount: float) -> Tensor:
        state = {
            key: tensor + amount * (after[key] - tensor) if tensor.is_floating_point() else tensor
            for key, tensor in before.items()
        }
        with torch.no_grad():
            return functional_call(network, state, (inputs.double(),))

    slope = (at(step) - at(-step)) / (2 * step)
    torch.testing.assert_close(double.linear - double.start, slope, rtol=1e-4, atol=1e-6 * float(slope.abs().max()))
    torch.testing.assert_close(double.start, at(0.0))
    torch.testing.assert_close(double.tuned, at(1.0))
    scale = float(double.linear.abs().max())
    torch.testing.assert_close(single.linear.double(), double.linear, rtol=1e-3, atol=1e-4 * scale)


def _double(tensor: Tensor) -> Tensor:
    return tensor.double() if tensor.is_floating_point() else tensor


def test_distance_falls_with_the_size_of_the_step() -> None:
    """The remainder of a first-order expansion is quadratic, so that the relative distance goes like the step."""
    network = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double().eval()
    inputs = torch.randn(20, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    far, near = (relative_distance(linearise(network, *moved(network, size), inputs)) for size in (1e-2, 1e-3))
    assert far / near == pytest.approx(10, rel=0.2)


def test_measures_by_hand() -> None:
    found = Linearised(
        start=torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]),
        linear=torch.tensor([[3.0, 0.0], [0.0, 1.0], [0.0, 1.0]]),
        tuned=torch.tensor([[3.0, 4.0], [0.0, 1.0], [0.0, 1.0]]),
    )
    measured = measure_linearity(found, np.array([0, 1, 0]))
    # The first image is 4 of 5 off, the second exact; the third did not move and is left out.
    assert measured.distance == pytest.approx((4 / 5 + 0) / 2)
    assert measured.images == 3
    assert (measured.accuracy, measured.linear_accuracy, measured.start_accuracy) == (1 / 3, 2 / 3, 1 / 3)
    assert measured.agreement == 2 / 3
    assert relative_distance(Linearised(found.start, found.start, found.start)) == 0
    rounded = found.start * (1 + 2**-22)
    assert relative_distance(Linearised(found.start, found.start, rounded)) == 0


def test_mistakes() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).eval()
    start, tuned = moved(network, 0.1)
    inputs = torch.randn(3, 2, generator=torch.Generator().manual_seed(0))
    with pytest.raises(UserError, match=r"cannot linearise a fine-tuning that moved '1\.running_mean'"):
        linearise(network, start, {**tuned, "1.running_mean": torch.ones(2)}, inputs)
    with pytest.raises(UserError, match=r"tensor '0\.weight' contains NaN or infinity"):
        linearise(network, start, {**tuned, "0.weight": torch.full((2, 2), torch.nan)}, inputs)
    with pytest.raises(UserError, match=r"different networks: '0.weight' is \(2, 2\) and \(3, 2\)"):
        linearise(network, start, {**tuned, "0.weight": torch.zeros(3, 2)}, inputs)
