"""Following a forward pass: what is seen of layers and functions, and that nothing of it stays behind."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from largedrop.errors import UserError
from largedrop.models.tracing import Watch, copied, evaluating, run_example, tensors_in


class Steps(Watch):
    """Writes down what it sees."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__(module)  # type: ignore[arg-type]  # a Sequential gives its layers
        self.steps: list[str] = []
        self.ids: list[int] = []

    def entered(self, layer: nn.Module, args: tuple[Any, ...]) -> None:
        self.steps.append(f"enter {type(layer).__name__}")

    def left(self, layer: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self.steps.append(f"leave {type(layer).__name__}")

    def called(self, name: str, inputs: Any, outputs: Any) -> None:
        self.steps.append(f"{name} {len(tensors_in(inputs))} {len(tensors_in(outputs))}")
        self.ids.extend(id(leaf) for leaf in tensors_in(outputs))


def test_layers_and_functions_are_seen_in_order_and_only_within_the_block() -> None:
    net = nn.Sequential(nn.Linear(3, 2), nn.ReLU())
    image = torch.randn(4, 3)
    with Steps(net) as watch:
        assert watch.steps == []
        output = net(image)
        output[0] = 1.0
        assert output.shape == (4, 2)
    assert watch.steps == [
        *("enter Linear", "linear 3 1", "leave Linear"),
        *("enter ReLU", "relu 1 1", "leave ReLU"),
        "__setitem__ 1 1",
    ]
    net(image)
    assert len(watch.steps) == 7
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in net)


def test_an_error_leaves_no_hook_behind() -> None:
    net = nn.Sequential(nn.Linear(3, 2))
    with pytest.raises(RuntimeError, match="cannot be multiplied"), Steps(net):
        net(torch.zeros(1, 4))
    assert not net[0]._forward_hooks
    assert not net[0]._forward_pre_hooks


def test_within_the_block_an_id_means_one_tensor() -> None:
    with Steps(nn.Sequential()) as watch:
        for value in range(50):
            torch.full((10,), float(value)).add(1.0)
    assert len(set(watch.ids)) == 100


def test_the_default_example_has_the_networks_type_and_the_size_that_it_was_pretrained_at() -> None:
    class Seen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1, dtype=torch.float64))

        def forward(self, image: Tensor) -> Tensor:
            return image + 0

    net = Seen()
    given = torch.ones(2, 3)
    assert torch.equal(run_example(net, given, "f"), given)
    found = run_example(net, None, "f")
    assert (found.dtype, found.shape, float(found.abs().sum())) == (torch.float64, (1, 3, 64, 64), 0.0)
    net.pretrained_cfg = {"input_size": (1, 8, 8)}  # type: ignore[assignment]
    assert run_example(net, None, "f").shape == (1, 1, 8, 8)


def test_a_network_that_cannot_take_the_default_example_is_said_to_need_one() -> None:
    net = nn.Linear(5, 2)
    with pytest.raises(UserError) as caught:
        run_example(net, None, "set_block_dropout")
    assert str(caught.value).startswith("cannot follow a default image through Linear (mat1 and mat2 shapes")
    assert str(caught.value).endswith("); give set_block_dropout an example=")
    with pytest.raises(RuntimeError, match="mat1 and mat2 shapes"):
        run_example(net, torch.zeros(1, 3, 8, 8), "set_block_dropout")


def test_copies_are_other_tensors_with_noise_where_it_is_asked_for() -> None:
    values, whole = torch.randn(1000), torch.arange(3)
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    same, noisy = copied(values), copied(values, noise=True)
    assert torch.equal(torch.rand(1), expected)  # the global generator was left alone
    assert same.data_ptr() != values.data_ptr()
    assert torch.equal(same, values)
    assert torch.equal(copied(values, noise=True), noisy)
    assert abs(float((noisy - values).mean())) < 0.1
    assert abs(float((noisy - values).std()) - 1) < 0.1
    assert torch.equal(copied(whole, noise=True), whole)
    assert copied(whole).data_ptr() != whole.data_ptr()
    assert copied("text", noise=True) == "text"


def test_tensors_are_found_in_nested_structures() -> None:
    one, two, three = torch.zeros(1), torch.zeros(2), torch.zeros(3)
    found = tensors_in(({"a": one, "b": [two, 3]}, (None, three)))
    assert [id(leaf) for leaf in found] == [id(one), id(two), id(three)]
    assert tensors_in("none") == []


def test_every_layer_gets_its_own_mode_back() -> None:
    net = nn.Sequential(nn.Dropout(), nn.Sequential(nn.BatchNorm1d(2), nn.Dropout()))
    net.train()
    net[1][0].eval()  # type: ignore[index]
    before = [layer.training for layer in net.modules()]
    with evaluating(net):
        assert not any(layer.training for layer in net.modules())
    assert [layer.training for layer in net.modules()] == before
    with pytest.raises(IndexError), evaluating(net):
        net[2]
    assert [layer.training for layer in net.modules()] == before == [True, True, True, False, True]
