"""Folded batch norms against unfolded ones in float64, and what is left unfolded."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
import torchvision
from tests.helpers import refusal
from tests.models.fast.nets import IMAGES, folded, randomised
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn
from torch.nn import functional as F

from largedrop.models.fast.folding import fold_batchnorm, speed_up, speed_up_depthwise
from largedrop.models.network import Network, Spec
from largedrop.models.sizes import representation_units

EXAMPLE = torch.zeros(1, 3, 32, 32, dtype=torch.float64)


def resnext() -> nn.Module:
    blocks = torchvision.models.resnet.Bottleneck, [1, 1, 1, 1]
    return torchvision.models.ResNet(*blocks, num_classes=5, groups=4, width_per_group=8)


def scaleless() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, affine=False), nn.Flatten(), nn.Linear(3600, 5))


NETS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "test_efficientnet": (lambda: timm.create_model("test_efficientnet", num_classes=5), 13),
    "tf_efficientnet_lite0": (lambda: timm.create_model("tf_efficientnet_lite0", num_classes=5), 49),
    "test_resnet": (lambda: timm.create_model("test_resnet", num_classes=5), 15),
    "regnetx_002": (lambda: timm.create_model("regnetx_002", num_classes=5), 44),
    "resnext26ts": (lambda: timm.create_model("resnext26ts", num_classes=5), 31),
    "torchvision mobilenet_v2": (lambda: torchvision.models.MobileNetV2(5, 0.25, dropout=0.0), 52),
    "torchvision regnet_y_400mf": (lambda: torchvision.models.regnet_y_400mf(num_classes=5), 53),
    "torchvision resnext": (resnext, 17),
    "torchvision resnet18": (lambda: torchvision.models.resnet18(num_classes=5), 20),
    "batch norm without scale and shift": (scaleless, 1),
    "torchvision mobilenet_v3_small": (lambda: torchvision.models.mobilenet_v3_small(num_classes=5, dropout=0.0), 34),
}
"""Networks and how many batch norms each has."""


def build(name: str) -> nn.Module:
    torch.manual_seed(0)
    return randomised(NETS[name][0]())


def norms(net: nn.Module) -> list[nn.BatchNorm2d]:
    return [child for child in net.modules() if isinstance(child, nn.BatchNorm2d)]


def loss_and_gradients(net: nn.Module, images: Tensor = IMAGES) -> dict[str, Tensor]:
    """The loss under ``""`` and every parameter's gradient under its name."""
    output = net(images)
    loss = F.cross_entropy(output, torch.arange(len(images)) % output.shape[1])
    parameters = dict(net.named_parameters())
    gradients = torch.autograd.grad(loss, list(parameters.values()))
    return {"": loss.detach(), **dict(zip(parameters, gradients, strict=True))}


def assert_same(ours: dict[str, Tensor], theirs: dict[str, Tensor], tolerance: float = 1e-9) -> None:
    assert ours.keys() == theirs.keys()
    floor = 1e-6 * max(float(value.abs().max()) for value in theirs.values())  # for gradients that are 0 but rounding
    for key, value in theirs.items():
        assert float((ours[key] - value).abs().max()) <= tolerance * max(float(value.abs().max()), floor), key


@pytest.mark.parametrize("name", NETS)
def test_loss_and_every_gradient_are_the_unfolded_networks(name: str) -> None:
    """In training mode as well, which leaves the running statistics alone."""
    net = build(name)
    state, plain = bits(net), loss_and_gradients(net)
    with fold_batchnorm(net, EXAMPLE) as folding:
        assert len(folding) == len(norms(net)) == NETS[name][1]
        for norm in norms(net):
            norm.register_forward_pre_hook(lambda layer, args: pytest.fail("normalised") if not folded(layer) else None)
        assert_same(loss_and_gradients(net.train()), plain)
    assert same_bits(bits(net), state)


@pytest.mark.parametrize("size", [31, 34])
def test_tensorflows_padding_at_sizes_where_it_is_lopsided(size: int) -> None:
    net = build("tf_efficientnet_lite0")
    images = torch.randn(2, 3, size, size + 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    plain = loss_and_gradients(net, images)
    with fold_batchnorm(net, EXAMPLE):
        assert_same(loss_and_gradients(net, images), plain)


class Layers(nn.Module):
    """Convolutions a and b and batch norms n and m, wired by ``wire``; its output is pooled to logits."""

    def __init__(self, wire: Callable[[Any, Tensor], Any], **settings: Any) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 3, 3, padding=1, **settings)
        self.b = nn.Conv2d(3, 3, 1)
        self.n = nn.BatchNorm2d(3)
        self.m = nn.BatchNorm2d(3)
        self.wire = wire

    def forward(self, x: Tensor) -> Any:
        return self.wire(self, x)


def pooled(x: Tensor) -> Tensor:
    return x.mean((2, 3))


def wired(wire: Callable[[Any, Tensor], Any], **settings: Any) -> Layers:
    torch.manual_seed(0)
    net = Layers(wire, **settings)
    randomised(net)
    return net


FOLDED: dict[str, tuple[Layers, list[str]]] = {
    "one after the other": (wired(lambda s, x: pooled(s.m(s.b(s.n(s.a(x)).relu())))), ["a n", "b m"]),
    "a bias of its own": (wired(lambda s, x: pooled(s.n(s.a(x)))), ["a n"]),
    "no bias": (wired(lambda s, x: pooled(s.n(s.a(x))), bias=False), ["a n"]),
    "grouped": (wired(lambda s, x: pooled(s.n(s.a(x))), groups=3), ["a n"]),
    "strided": (wired(lambda s, x: pooled(s.n(s.a(x))), stride=2), ["a n"]),
    "dilated": (wired(lambda s, x: pooled(s.n(s.a(x))), dilation=2, groups=3), ["a n"]),
    "reflected at the border": (wired(lambda s, x: pooled(s.n(s.a(x))), padding_mode="reflect"), ["a n"]),
    "shape looked at": (wired(lambda s, x: pooled(s.n(y := s.a(x)) * y.shape[-1])), ["a n"]),
    "a convolution used twice": (wired(lambda s, x: pooled(s.n(s.a(s.m(s.a(x)))))), []),
    "a batch norm used twice": (wired(lambda s, x: pooled(s.n(s.a(x)) + s.n(s.b(x)))), []),
    "read by two batch norms": (wired(lambda s, x: pooled(s.n(y := s.a(x)) + s.m(y))), []),
    "read by a skip": (wired(lambda s, x: pooled(s.n(y := s.a(x)) + y)), []),
    "read by a convolution": (wired(lambda s, x: pooled(s.n(y := s.a(x)) + s.m(s.b(y)))), ["b m"]),
    "read by a function": (wired(lambda s, x: pooled(s.n(y := s.a(x))) + y.amax((2, 3))), []),
    "read by a slice": (wired(lambda s, x: pooled(s.n(y := s.a(x))) + y[:, :, 0, 0]), []),
    "changed in place": (wired(lambda s, x: pooled(s.n(F.relu_(s.a(x))))), []),
    "something in between": (wired(lambda s, x: pooled(s.n(s.a(x).relu()))), []),
    "batch norm first": (wired(lambda s, x: pooled(s.a(s.n(x)))), []),
    "a concatenation between": (wired(lambda s, x: pooled(s.n(torch.cat([s.a(x)[:, :1], s.b(x)[:, :2]], 1)))), []),
}


@pytest.mark.parametrize("case", FOLDED)
def test_only_a_batch_norm_that_alone_reads_a_convolution_is_folded_into_it(case: str) -> None:
    net, expected = FOLDED[case]
    names = {child: name for name, child in net.named_children()}
    used = dict(net.named_parameters())

    def gradients() -> dict[str, Tensor]:
        output = net(IMAGES).square().sum()
        values = torch.autograd.grad(output, list(used.values()), allow_unused=True)
        return {
            "": output.detach(),
            **{key: value for key, value in zip(used, values, strict=True) if value is not None},
        }

    plain = gradients()
    with fold_batchnorm(net, EXAMPLE) as folding:
        assert sorted(f"{names[conv]} {names[norm]}" for conv, norm in folding.pairs) == expected
        assert_same(gradients(), plain)


@pytest.mark.parametrize("wrap", [lambda y, z: (z, y), lambda y, z: {"logits": z, "features": [y]}])
def test_a_convolution_whose_output_is_returned_as_well_is_not_folded(wrap: Callable[..., Any]) -> None:
    def wire(s: Any, x: Tensor) -> Any:
        y = s.a(x)
        return wrap(y, pooled(s.n(y)))

    assert fold_batchnorm(wired(wire), EXAMPLE).pairs == []


def test_batch_norms_without_running_statistics_or_of_unknown_kind_are_left_alone() -> None:
    class Other(nn.BatchNorm2d):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * 2

    net = nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4, track_running_stats=False),
        nn.Conv2d(4, 4, 3),
        Other(4),
        nn.Conv2d(4, 4, 1),
    )
    assert fold_batchnorm(randomised(net), EXAMPLE).pairs == []


@pytest.mark.parametrize("name", ["test_vit", "test_convnext"])
def test_networks_without_batch_norm_pass_through(name: str) -> None:
    net = timm.create_model(name, num_classes=5)
    with fold_batchnorm(net) as folding:
        assert len(folding) == 0
        assert not any(folded(child) for child in net.modules())


def bits(net: nn.Module) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in net.state_dict().items()}


def same_bits(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    return list(ours) == list(theirs) and all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_removing_restores_every_bit_and_nothing_else_changes() -> None:
    net = build("test_efficientnet")
    state, output = bits(net), net(IMAGES)
    modes = [child.training for child in net.train().modules()]
    folding = fold_batchnorm(net, EXAMPLE)
    assert len(folding) == 13
    assert [child.training for child in net.modules()] == modes
    assert not torch.equal(net.eval()(IMAGES), output)
    assert same_bits(bits(net), state)
    folding.remove()
    folding.remove()
    assert len(folding) == 0
    assert torch.equal(net(IMAGES), output)
    assert same_bits(bits(net), state)
    with pytest.raises(KeyError), fold_batchnorm(net, EXAMPLE):
        raise KeyError
    assert not any(folded(child) or child._forward_hooks or child._forward_pre_hooks for child in net.modules())


def test_weights_changed_while_folded_are_the_ones_used() -> None:
    net = build("test_resnet")
    with fold_batchnorm(net, EXAMPLE):
        for parameter in net.parameters():
            parameter.data.mul_(1.1)
        inside = net(IMAGES)
    torch.testing.assert_close(inside, net(IMAGES), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["test_efficientnet", "activation beside the batch norm"])
def test_folding_twice_is_harmless(name: str) -> None:
    beside = nn.Sequential(nn.Conv2d(3, 4, 3), BatchNormAct2d(4, act_layer=nn.Tanh, inplace=False))
    net = build(name) if name in NETS else randomised(beside)
    plain, count = net(IMAGES), len(norms(net))
    first, second = fold_batchnorm(net, EXAMPLE), fold_batchnorm(net, EXAMPLE)
    assert (len(first), len(second)) == (count, 0)
    second.remove()
    torch.testing.assert_close(net(IMAGES), plain, rtol=1e-9, atol=1e-9)
    first.remove()
    assert torch.equal(net(IMAGES), plain)


def test_a_deep_copy_of_a_folded_network_has_weights_of_its_own() -> None:
    net = build("test_efficientnet")
    folding = fold_batchnorm(net, EXAMPLE)
    output, twin = net(IMAGES), copy.deepcopy(net)
    assert torch.equal(twin(IMAGES), output)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.mul_(1.1)
    moved = twin(IMAGES)
    assert torch.equal(net(IMAGES), output)
    assert not torch.allclose(moved, output)
    folding.remove()
    fresh = build("test_efficientnet")
    fresh.load_state_dict(twin.state_dict())
    torch.testing.assert_close(moved, fresh(IMAGES), rtol=1e-9, atol=1e-9)


def test_bfloat16_autocast_agrees_within_its_rounding() -> None:
    net = build("test_efficientnet").float()
    images = IMAGES.float()

    def under_autocast() -> dict[str, Tensor]:
        with torch.autocast("cpu", torch.bfloat16):
            return loss_and_gradients(net, images)

    exact = loss_and_gradients(net, images)
    unfolded = under_autocast()
    with fold_batchnorm(net, EXAMPLE.float()) as folding:
        assert len(folding) == 13
        ours = under_autocast()
        with torch.autocast("cpu", torch.bfloat16):
            assert net.get_submodule("conv_stem")(images).dtype == torch.bfloat16
    assert abs(float(ours[""] - exact[""])) < 0.02 * float(exact[""])

    def error(gradients: dict[str, Tensor]) -> float:
        difference = torch.cat([(gradients[key] - exact[key]).flatten() for key in exact if key])
        return float(difference.norm() / torch.cat([exact[key].flatten() for key in exact if key]).norm())

    assert error(unfolded) > 1e-3
    assert error(ours) < max(0.05, 2 * error(unfolded))


def test_the_default_example_has_the_size_the_network_was_pretrained_at() -> None:
    seen: list[tuple[int, ...]] = []
    for net in (timm.create_model("test_resnet"), wired(lambda s, x: pooled(s.n(s.a(x))))):
        hook = net.register_forward_pre_hook(lambda layer, args: seen.append(tuple(args[0].shape)))
        fold_batchnorm(net)
        hook.remove()
    assert seen == [(1, 3, 160, 160), (1, 3, 64, 64)]


def test_a_network_that_cannot_take_the_default_example_is_said_to_need_one() -> None:
    net = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)).eval()
    assert refusal(fold_batchnorm, net) == (
        "cannot follow a default image through Sequential (Given groups=1, weight of size [4, 4, 1, 1], expected "
        "input[1, 3, 64, 64] to have 4 channels, but got 3 channels instead); give fold_batchnorm an example="
    )
    assert len(fold_batchnorm(net, torch.zeros(1, 4, 8, 8))) == 1
    with pytest.raises(RuntimeError, match="to have 4 channels, but got 5"):
        fold_batchnorm(net, torch.zeros(1, 5, 8, 8))


def test_depthwise_convolutions_without_batch_norm_keep_their_gradients() -> None:
    net = randomised(timm.create_model("convnext_atto", num_classes=5, depths=(1, 1, 1, 1), dims=(8, 8, 16, 16)))
    plain = loss_and_gradients(net)
    assert (len(speed_up_depthwise(net)), len(speed_up_depthwise(net))) == (4, 0)
    assert_same(loss_and_gradients(net), plain)


def test_depthwise_convolutions_in_bfloat16_autocast() -> None:
    conv = nn.Conv2d(4, 4, 5, padding=2, groups=4)
    image = torch.randn(2, 4, 9, 9, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        plain = conv(image)
        assert speed_up_depthwise(conv) == [conv]
        ours = conv(image)
    assert torch.equal(ours, plain)
    assert ours.dtype == torch.bfloat16


@pytest.mark.parametrize("model", ["test_efficientnet", "convnext_atto"])
@pytest.mark.parametrize("frozen", [True, False])
def test_speed_up_folds_frozen_batch_norms_and_gives_depthwise_convolutions_their_gradients(
    model: str, frozen: bool
) -> None:
    def made() -> Network:
        torch.manual_seed(0)
        backbone = timm.create_model(model, num_classes=0)
        units = representation_units(backbone)
        spec = Spec(model, "random", ("a", "b"), 64, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), 0.0, frozen)
        return Network(backbone, units, spec).train()

    def outcome(net: Network) -> tuple[Tensor, list[Tensor]]:
        output = net(torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1)))
        return output, list(torch.autograd.grad(output.square().sum(), list(net.parameters())))

    ours, theirs = made(), made()
    folding = speed_up(ours)
    if frozen:
        fold_batchnorm(theirs, torch.zeros(1, 3, 64, 64))
    speed_up_depthwise(theirs)
    fast = [name for name, layer in ours.named_modules() if "forward" in layer.__dict__]
    assert fast == [name for name, layer in theirs.named_modules() if "forward" in layer.__dict__]
    norms = [name for name, layer in ours.named_modules() if isinstance(layer, nn.BatchNorm2d)]
    depthwise = [name for name, layer in ours.named_modules() if isinstance(layer, nn.Conv2d) and layer.groups > 1]
    assert set(fast) >= {*depthwise, *(norms if frozen else [])}
    assert depthwise
    assert set(norms).isdisjoint(fast) is not (frozen and bool(norms))
    torch.testing.assert_close(outcome(ours), outcome(theirs), rtol=0, atol=0)
    torch.testing.assert_close(outcome(ours), outcome(made()), rtol=1e-3, atol=1e-4)
    folding.remove()
    assert not any("forward" in layer.__dict__ for layer in ours.modules())
    torch.testing.assert_close(outcome(ours), outcome(made()), rtol=0, atol=0)


@pytest.mark.parametrize("module", ["resnet18", {}, None, nn.ReLU])
def test_what_is_no_network(module: Any) -> None:
    assert refusal(fold_batchnorm, module) == f"the network must be a torch.nn.Module, not {module!r}"
