"""Taps: which blocks are found in which network, what their features are, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from largedrop.errors import UserError
from largedrop.models.fast.folding import fold_batchnorm
from largedrop.models.taps import Taps, find_taps, tapped


def resnet18() -> nn.Module:
    net = torchvision.models.resnet18()
    net.fc = nn.Identity()
    return net


def mobilenet_v2() -> nn.Module:
    net = torchvision.models.mobilenet_v2()
    net.classifier = nn.Identity()
    return net


def timm_net(name: str, **settings: Any) -> Callable[[], nn.Module]:
    return lambda: timm.create_model(name, num_classes=0, **settings)


REST = "representation"
NETS: dict[str, tuple[Callable[[], nn.Module], int, Taps]] = {
    "resnet50": (timm_net("resnet50"), 64, Taps(("layer4.0", "layer4.1", REST), (2048, 2048, 2048), "layer4.2")),
    "test_resnet": (timm_net("test_resnet"), 64, Taps((REST,), (96,), "layer4.0")),
    "test_efficientnet": (timm_net("test_efficientnet"), 64, Taps((REST,), (256,))),
    "tf_efficientnet_lite0": (
        timm_net("tf_efficientnet_lite0"),
        64,
        Taps(("blocks.5.3", "blocks.6.0", REST), (192, 320, 1280)),
    ),
    "test_vit": (timm_net("test_vit", img_size=32), 32, Taps(("blocks.3", "blocks.4", REST), (64, 64, 64), "blocks.5")),
    "convnext_atto": (
        timm_net("convnext_atto"),
        64,
        Taps(("stages.3.blocks.0", REST), (320, 320), "stages.3.blocks.1"),
    ),
    "swin": (
        timm_net("swin_tiny_patch4_window7_224", img_size=64, window_size=2, embed_dim=24, depths=(1, 1, 1, 2)),
        64,
        Taps(("layers.3.blocks.0", REST), (192, 192), "layers.3.blocks.1"),
    ),
    "levit": (
        timm_net("levit_128s"),
        224,
        Taps(("stages.2.blocks.1", "stages.2.blocks.2", REST), (384, 384, 384), "stages.2.blocks.3"),
    ),
    "regnety_002": (timm_net("regnety_002"), 64, Taps(("s4.b5", "s4.b6", REST), (368, 368, 368), "s4.b7")),
    "mobilenetv3_small_050": (
        timm_net("mobilenetv3_small_050"),
        64,
        Taps(("blocks.4.1", "blocks.4.2", REST), (48, 48, 1024)),
    ),
    "densenet": (timm_net("densenet121", block_config=(2, 2, 2, 2)), 64, Taps((REST,), (128,))),
    "torchvision resnet18": (resnet18, 64, Taps(("layer4.0", REST), (512, 512), "layer4.1")),
    "torchvision mobilenet_v2": (mobilenet_v2, 64, Taps(("features.16", "features.17", REST), (160, 320, 1280))),
}


def images(size: int, count: int = 2) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def made(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make().eval()


@pytest.mark.parametrize("name", NETS)
def test_blocks_and_representation(name: str) -> None:
    make, size, expected = NETS[name]
    net = made(make)
    taps = find_taps(net, torch.zeros(1, 3, size, size))
    assert taps == expected
    batch = images(size)
    with torch.no_grad():
        features = tapped(net, batch, taps)
        assert torch.equal(features[-1], net(batch))
    assert [(len(one), one.shape[1]) for one in features] == [(2, width) for width in expected.widths]
    assert all(one.dtype == torch.float32 for one in features)
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in net.modules())


def outputs(net: nn.Module, names: list[str], batch: Tensor) -> list[Tensor]:
    """What the layers of these names give, by hooks of the test's own."""
    kept: dict[str, Tensor] = {}
    layers = dict(net.named_modules())
    hooks = [
        layers[name].register_forward_hook(lambda layer, args, output, name=name: kept.update({name: output.clone()}))
        for name in names
    ]
    with torch.no_grad():
        net(batch)
    for hook in hooks:
        hook.remove()
    return [kept[name] for name in names]


@pytest.mark.parametrize(
    ("name", "blocks"),
    [("resnet50", ["layer4.0", "layer4.1", "layer4.2"]), ("tf_efficientnet_lite0", ["blocks.5.3", "blocks.6.0"])],
)
def test_blocks_are_averaged_over_positions(name: str, blocks: list[str]) -> None:
    """Those that follow the last change of resolution, as in section 4.3; for ResNet-50 it is equation 1."""
    net, batch = made(timm_net(name)), images(64)
    features = tapped(net, batch, find_taps(net, batch))
    with torch.no_grad():
        assert torch.equal(features[-1], net(batch))
    for mine, output in zip(features, outputs(net, blocks, batch), strict=False):
        assert output.shape[2:] == (2, 2)
        torch.testing.assert_close(mine, output.sum((2, 3)) / 4)


def test_vit_reads_the_class_token_under_the_last_norm() -> None:
    net, batch = made(timm_net("vit_tiny_patch16_224", img_size=32, depth=4)), images(32)
    norm = net.get_submodule("norm")
    assert isinstance(norm, nn.LayerNorm)
    taps = find_taps(net, batch)
    assert taps == Taps(("blocks.1", "blocks.2", REST), (192, 192, 192), "blocks.3")
    features = tapped(net, batch, taps)
    for mine, output in zip(features, outputs(net, ["blocks.1", "blocks.2", "blocks.3"], batch), strict=True):
        token = output[:, 0]
        centred = token - token.mean(1, keepdim=True)
        normed = centred / (centred.square().mean(1, keepdim=True) + norm.eps).sqrt()
        torch.testing.assert_close(mine, normed * norm.weight + norm.bias, rtol=1e-4, atol=1e-5)


def test_positions_of_tokens_are_averaged_where_new_features_are_computed_after_them() -> None:
    net = made(timm_net("vit_tiny_patch16_224", img_size=32, depth=3, global_pool="map", class_token=False))
    batch = images(32)
    taps = find_taps(net, batch)
    assert taps == Taps(("blocks.1", "blocks.2", REST), (192, 192, 192))
    features = tapped(net, batch, taps)
    for mine, output in zip(features, outputs(net, ["blocks.1", "blocks.2"], batch), strict=False):
        assert output.shape == (2, 4, 192)
        torch.testing.assert_close(mine, output.sum(1) / 4)


@pytest.mark.parametrize(
    ("count", "names"), [(1, (REST,)), (2, ("layer4.1", REST)), (9, ("layer4.0", "layer4.1", REST))]
)
def test_count(count: int, names: tuple[str, ...]) -> None:
    net = made(timm_net("resnet50", channels=(8, 8, 8, 16), layers=(1, 1, 2, 3)))
    taps = find_taps(net, images(64), count)
    assert taps.names == names
    assert taps.slices[-1] == slice(64 * (len(names) - 1), 64 * len(names))
    features = tapped(net, images(64), taps)
    torch.testing.assert_close(features[-1], net(images(64)))
    assert len(features) == len(names)


@pytest.mark.parametrize("name", ["regnety_002", "tf_efficientnet_lite0"])
def test_folding_finds_the_same(name: str) -> None:
    net, batch = made(timm_net(name)), images(64)
    taps = find_taps(net, batch)
    plain = tapped(net, batch, taps)
    with fold_batchnorm(net, batch):
        assert find_taps(net, batch) == taps
        for one, other in zip(tapped(net, batch, taps), plain, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["test_resnet", "convnext_atto", "mobilenetv3_small_050", "test_vit"])
def test_autocast_and_channels_last(name: str) -> None:
    make, size, expected = NETS[name]
    net, batch = made(make), images(size)
    plain = tapped(net, batch, expected)
    net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    last = batch.contiguous(memory_format=torch.channels_last)
    assert find_taps(net, last) == expected
    with torch.inference_mode():
        for one, other in zip(tapped(net, last, expected), plain, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
        with torch.autocast("cpu", torch.bfloat16):
            mixed = tapped(net, last, expected)
            assert torch.equal(mixed[-1], net(last).float())
    for one, other in zip(mixed, plain, strict=True):
        assert one.dtype == torch.float32
        assert (one - other).norm() < 0.05 * other.norm()


def test_the_network_stays_as_it_is() -> None:
    net, batch = made(timm_net("resnet50", channels=(8, 8, 8, 16), layers=(1, 1, 1, 2))), images(64)
    net.train()
    net.get_submodule("layer4").eval()
    modes = [layer.training for layer in net.modules()]
    state = {name: value.clone() for name, value in net.state_dict().items()}
    before = torch.get_rng_state()
    find_taps(net, batch)
    assert torch.equal(torch.get_rng_state(), before)
    assert [layer.training for layer in net.modules()] == modes
    assert all(torch.equal(state[name], value) for name, value in net.state_dict().items())


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x)


class Toy(nn.Module):
    """A stem, blocks, and an average: what the tests below change."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 4, 4, bias=False)
        self.bias = nn.Parameter(torch.ones(1, 4, 1, 1))
        self.blocks = nn.ModuleList([Block(), Block(), Block()])

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.bias.expand_as(x)  # no residual: it does not come from the image
        for block in self.chosen(x):
            x = block(x)
        return self.pooled(x)

    def chosen(self, x: Tensor) -> list[nn.Module]:
        return list(self.blocks)

    def pooled(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


def test_a_network_of_the_users_own() -> None:
    assert find_taps(Toy(), images(16)) == Taps(("blocks.0", "blocks.1", REST), (4, 4, 4), "blocks.2")


class Depth(Toy):
    def chosen(self, x: Tensor) -> list[nn.Module]:
        return list(self.blocks)[: 2 if x.mean() > self.bias.mean() else 3]


class Order(Toy):
    def chosen(self, x: Tensor) -> list[nn.Module]:
        return list(self.blocks)[:: 1 if x.mean() > self.bias.mean() else -1]


@pytest.mark.parametrize("kind", [Depth, Order])
def test_dynamic_structure_is_refused(kind: type[Toy]) -> None:
    with pytest.raises(UserError, match=rf"^the structure of {kind.__name__} depends on the image"):
        find_taps(kind(), torch.zeros(1, 3, 16, 16))


def test_a_block_that_is_not_reached_is_told() -> None:
    net, batch = Toy(), images(16)
    taps = find_taps(net, batch)
    net.chosen = lambda x: [net.blocks[2]]  # type: ignore[method-assign]
    with pytest.raises(UserError, match=r"the block blocks\.0 of Toy was not reached"):
        tapped(net, batch, taps)
    assert not any(layer._forward_hooks for layer in net.modules())


class Shared(Toy):
    def chosen(self, x: Tensor) -> list[nn.Module]:
        return [self.blocks[0]] * 3


def test_a_block_that_is_called_several_times_is_no_tap() -> None:
    assert find_taps(Shared(), images(16)) == Taps((REST,), (4,))


class Counted(Toy):
    """Knows the number of images from before its blocks, as PiT and PVT do."""

    def forward(self, x: Tensor) -> Tensor:
        self.count = len(x)
        return super().forward(x)

    def pooled(self, x: Tensor) -> Tensor:
        return x.reshape(self.count, 4, -1).mean(2)


def test_blocks_of_a_network_that_counts_its_images_go_the_last_ones_way_one_by_one() -> None:
    net, other, batch = Counted(), Toy(), images(16)
    other.load_state_dict(net.state_dict())
    taps = find_taps(net, batch)
    assert taps == Taps(("blocks.0", "blocks.1", REST), (4, 4, 4), "blocks.2", apart=True)
    with torch.no_grad():
        wanted = tapped(other, batch, find_taps(other, batch))
        for mine, theirs in zip(tapped(net, batch, taps), wanted, strict=True):
            torch.testing.assert_close(mine, theirs)
    assert not any(layer._forward_hooks for layer in net.modules())


class Map(Toy):
    def pooled(self, x: Tensor) -> Tensor:
        return x


class Pair(Toy):
    def pooled(self, x: Tensor) -> Tensor:
        return x.mean((2, 3)), x  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("net", "example", "count", "message"),
    [
        (Map, images(16), 3, r"^the output of Map is \(2, 4, 4, 4\), not a representation \(n, units\)"),
        (Pair, images(16), 3, r"^the output of Pair is tuple, not a representation"),
        (Toy, images(16), 0, "^the number of taps must be at least 1, not 0$"),
        (Toy, images(16)[:, :, :8], 3, r"square images, \(n, channels, size, size\), not \(2, 3, 8, 16\)"),
    ],
)
def test_bad_input(net: type[Toy], example: Tensor, count: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        find_taps(net(), example, count)


def test_taps_of_another_network() -> None:
    taps = find_taps(Toy(), images(16))
    with pytest.raises(UserError, match=r"Conv2d has no block blocks\.0: these are the taps of another network"):
        tapped(nn.Conv2d(3, 4, 1), images(16), taps)
    with pytest.raises(UserError, match=r"have the shapes \[\(2, 4\)\], not the widths \(5,\)"):
        tapped(Toy(), images(16), Taps((REST,), (5,)))


def test_hooks_are_removed_after_an_error() -> None:
    net = Toy()
    taps = find_taps(net, images(16))
    with pytest.raises(RuntimeError):
        tapped(net, torch.zeros(2, 5, 16, 16), taps)
    with pytest.raises(RuntimeError):
        find_taps(net, torch.zeros(2, 5, 16, 16))
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in net.modules())
