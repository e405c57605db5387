"""Dropout of residual blocks: its expectation, its rate, what it leaves alone, and where it is found."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
import torchvision
from tests.helpers import refusal
from torch import Tensor, nn

from largedrop.errors import UserError
from largedrop.models.block_dropout import BlockDropout, set_block_dropout
from largedrop.models.fast.folding import fold_batchnorm


def timm_net(name: str, **settings: Any) -> Callable[[], nn.Module]:
    return lambda: timm.create_model(name, num_classes=5, **settings)


def vision_transformer() -> nn.Module:
    return torchvision.models.VisionTransformer(32, 16, 2, 2, 8, 16, num_classes=5)


def mixer() -> nn.Module:
    net: nn.Module = timm.models.mlp_mixer.MlpMixer(5, 32, patch_size=16, num_blocks=2, embed_dim=16)
    return net


def resnext() -> nn.Module:
    blocks = torchvision.models.resnet.Bottleneck, [1, 2, 1, 1]
    return torchvision.models.ResNet(*blocks, num_classes=5, groups=4, width_per_group=8)


NETS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "test_resnet": (timm_net("test_resnet"), 4),
    "resnetv2": (timm_net("resnetv2_50", layers=(1, 1, 1, 2), channels=(8, 8, 16, 16), stem_chs=8), 5),
    "regnetx_002": (timm_net("regnetx_002"), 13),
    "mobilenetv3_small_050": (timm_net("mobilenetv3_small_050"), 7),
    "tf_efficientnet_lite0": (timm_net("tf_efficientnet_lite0"), 9),
    "convnext_atto": (timm_net("convnext_atto", depths=(1, 1, 2, 1), dims=(8, 16, 16, 32)), 5),
    "test_vit": (timm_net("test_vit", img_size=32), 12),
    "test_byobnet": (timm_net("test_byobnet"), 4),
    "mixer": (mixer, 4),
    "rexnet": (timm_net("rexnet_100"), 11),
    "torchvision resnet18": (lambda: torchvision.models.resnet18(num_classes=5), 8),
    "torchvision resnext": (resnext, 5),
    "torchvision regnet_y_400mf": (lambda: torchvision.models.regnet_y_400mf(num_classes=5), 16),
    "torchvision mobilenet_v2": (lambda: torchvision.models.MobileNetV2(5, 0.25, dropout=0.0), 11),
    "torchvision mobilenet_v3": (lambda: torchvision.models.mobilenet_v3_small(num_classes=5, dropout=0.0), 6),
    "torchvision mnasnet": (lambda: torchvision.models.MNASNet(0.25, 5, dropout=0.0), 11),
    "torchvision efficientnet_b0": (lambda: torchvision.models.efficientnet_b0(num_classes=5, dropout=0.0), 9),
    "torchvision convnext": (lambda: torchvision.models.convnext_tiny(num_classes=5), 18),
    "torchvision vit": (vision_transformer, 4),
}
"""Networks, and how many residual branches each has."""
WITH_BATCHNORM = ("test_resnet", "regnetx_002", "tf_efficientnet_lite0", "torchvision resnet18", "torchvision mnasnet")
IMAGES = torch.randn(4, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
EXAMPLE = torch.zeros(1, 3, 32, 32, dtype=torch.float64)


def build(name: str) -> nn.Module:
    torch.manual_seed(0)
    net = NETS[name][0]()
    for child in net.modules():
        if isinstance(child, nn.BatchNorm2d) and child.running_mean is not None:
            nn.init.uniform_(child.weight, 0.5, 1.5)  # some are 0 at first, and their branch with them
            nn.init.uniform_(child.running_mean, -0.5, 0.5)
    for parameter in net.parameters():
        if not parameter.any() or float(parameter.detach().std()) == 0:  # heads and scales at first
            nn.init.uniform_(parameter, 0.2, 1.0)
    return net.double().eval()


def training(net: nn.Module) -> nn.Module:
    """In training mode, but for batch norm and the network's own dropout: what differs is block dropout."""
    net.train()
    for child in net.modules():
        if isinstance(child, (nn.modules.batchnorm._BatchNorm, nn.Dropout)):
            child.eval()
    return net


def draw(net: nn.Module, images: Tensor, seed: int = 1) -> Tensor:
    torch.manual_seed(seed)
    with torch.no_grad():
        output: Tensor = net(images)
    return output


@pytest.mark.parametrize("name", NETS)
def test_it_finds_every_branch_and_is_off_in_evaluation_and_after_it_is_removed(name: str) -> None:
    net = build(name)
    keys, plain = list(net.state_dict()), draw(net, IMAGES)
    set_block_dropout(net, 0)  # torchvision's have one of their own
    quiet = draw(training(net), IMAGES)
    draws = torch.get_rng_state()
    assert set_block_dropout(net, 0.5, EXAMPLE) == NETS[name][1]
    assert torch.equal(draws, torch.get_rng_state())
    assert list(net.state_dict()) == keys
    assert not torch.equal(draw(net, IMAGES), quiet)
    assert torch.equal(draw(net, IMAGES, 1), draw(net, IMAGES, 1))
    assert not torch.equal(draw(net, IMAGES, 1), draw(net, IMAGES, 2))
    assert torch.equal(draw(net.eval(), IMAGES), plain)
    assert set_block_dropout(net, 0.3) == NETS[name][1]  # nothing to follow an example for
    assert set_block_dropout(net, 0) == NETS[name][1]
    assert torch.equal(draw(training(net), IMAGES), quiet)
    assert torch.equal(draw(net.eval(), IMAGES), plain)
    assert list(net.state_dict()) == keys
    assert not any(isinstance(child, BlockDropout) for child in net.modules())
    assert set_block_dropout(net, 0) == 0


@pytest.mark.parametrize("name", NETS)
def test_a_network_of_nothing_but_shortcuts_draws_nothing_that_shows(name: str) -> None:
    """At a rate of almost 1 every branch is dropped from every example, so no draw makes a difference."""
    net = build(name)
    set_block_dropout(net, 1 - 1e-12, EXAMPLE)
    training(net)
    first = draw(net, IMAGES)
    assert torch.isfinite(first).all()
    assert torch.equal(first, draw(net, IMAGES, 2))


def block_of(kind: str) -> tuple[nn.Module, Tensor]:
    """One residual block, and an input for it; without an activation at the end, so that its output is linear in it."""
    x = torch.randn(1, 16, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    torch.manual_seed(0)
    if kind == "timm":
        block: nn.Module = timm.models.resnet.BasicBlock(16, 16)
        block.act2 = nn.Identity()
    elif kind == "torchvision":
        block = torchvision.models.mobilenetv2.InvertedResidual(16, 16, 1, 2)
    else:
        block, x = timm.models.vision_transformer.Block(16, 2, init_values=0.5), x.flatten(2).mT
    return block.double().eval(), x


@pytest.mark.parametrize("kind", ["timm", "torchvision"])
@pytest.mark.parametrize("rate", [0.1, 0.3])
def test_the_expectation_and_the_share_of_dropped_branches(kind: str, rate: float) -> None:
    block, x = block_of(kind)
    count = 20_000
    plain = draw(block, x)
    assert set_block_dropout(block, rate, x) == 1
    training(block)
    outputs = draw(block, x.expand(count, -1, -1, -1).contiguous())
    branch = plain - x
    dropped = (outputs == x).flatten(1).all(1)
    assert int((outputs == x).flatten(1).any(1).sum()) == int(dropped.sum())  # whole examples, or nothing of them
    kept = outputs[~dropped] - x
    torch.testing.assert_close(kept, (branch / (1 - rate)).expand_as(kept), rtol=1e-10, atol=1e-10)
    share = dropped.double().mean()
    assert abs(float(share) - rate) < 4.5 * (rate * (1 - rate) / count) ** 0.5
    deviation = outputs.std(0) / count**0.5
    assert bool(((outputs.mean(0) - plain[0]).abs() < 4.5 * deviation + 1e-12).all())


def test_two_branches_of_a_transformer_block_are_dropped_independently() -> None:
    block, x = block_of("transformer")
    count, rate = 4000, 0.3
    assert set_block_dropout(block, rate, x) == 2
    outputs = draw(training(block), x.expand(count, -1, -1).contiguous())
    kinds, sizes = outputs.flatten(1).unique(dim=0, return_counts=True)
    # none, the first, the second, or both; rounding may depend on the place in the batch
    groups: dict[tuple[float, ...], int] = {}
    for kind, size in zip(kinds, sizes, strict=True):
        key = tuple(round(float(value), 6) for value in kind[:4])
        groups[key] = groups.get(key, 0) + int(size)
    assert len(groups) == 4
    expected = sorted([rate * rate, rate * (1 - rate), rate * (1 - rate), (1 - rate) ** 2])
    for size, share in zip(sorted(groups.values()), expected, strict=True):
        assert abs(size / count - share) < 5 * (share * (1 - share) / count) ** 0.5


def test_half_precision_keeps_the_expectation() -> None:
    ones = torch.ones(1, 100_000, dtype=torch.bfloat16)
    drop = BlockDropout(0.1, 1, False)
    torch.manual_seed(0)
    outputs = torch.cat([drop(ones) for _ in range(40)])
    kept = outputs[outputs[:, 0] > 0]
    assert 0 < len(kept) < 40
    assert outputs.dtype == torch.bfloat16
    assert torch.equal(kept, torch.full_like(kept, 1 / 0.9))


def test_gradients_pass_through_what_is_kept_only() -> None:
    drop = BlockDropout(0.5, 1, False)
    branch = torch.randn(64, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    torch.manual_seed(0)
    output = drop(branch)
    output.sum().backward()
    assert branch.grad is not None
    kept = (output != 0).double()
    assert 0 < float(kept.mean()) < 1
    assert torch.equal(branch.grad, kept * 2)


@pytest.mark.parametrize("name", WITH_BATCHNORM)
def test_folding_before_and_after_gives_the_same(name: str) -> None:
    plain, first, second = (build(name) for _ in range(3))
    set_block_dropout(plain, 0.4, EXAMPLE)
    set_block_dropout(first, 0.4, EXAMPLE)
    folding = fold_batchnorm(first, EXAMPLE)
    later = fold_batchnorm(second, EXAMPLE)
    assert set_block_dropout(second, 0.4, EXAMPLE) == NETS[name][1]
    assert len(folding) == len(later) > 0
    wanted = draw(training(plain), IMAGES)
    assert not torch.equal(wanted, draw(plain, IMAGES, 2))
    for net in (first, second):
        torch.testing.assert_close(draw(training(net), IMAGES), wanted, rtol=1e-9, atol=1e-9)
    folding.remove()
    assert torch.equal(draw(first, IMAGES), wanted)


@pytest.mark.parametrize("name", ["test_resnet", "torchvision resnet18"])
def test_a_copy_is_independent(name: str) -> None:
    net = build(name)
    set_block_dropout(net, 0.5, EXAMPLE)
    twin = copy.deepcopy(net)
    set_block_dropout(net, 0)
    assert not torch.equal(draw(training(twin), IMAGES, 1), draw(twin, IMAGES, 2))
    assert torch.equal(draw(training(net), IMAGES, 1), draw(net, IMAGES, 2))
    assert torch.equal(draw(twin.eval(), IMAGES), draw(net.eval(), IMAGES))


def test_stochastic_depth_of_its_own_is_replaced() -> None:
    for net in (timm_net("test_resnet", drop_path_rate=0.9)(), torchvision.models.efficientnet_b0(num_classes=5)):
        net.double()
        count = set_block_dropout(net, 0)
        assert count > 0
        training(net)
        assert torch.equal(draw(net, IMAGES, 1), draw(net, IMAGES, 2))


class Chain(nn.Module):
    """A block with a place for stochastic depth, but no shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)
        self.drop_path = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.drop_path(self.conv(x)) + 1


class Twice(Chain):
    """One branch inside another, both through one place (timm's EdgeNeXt)."""

    def forward(self, x: Tensor) -> Tensor:
        inner = x + self.drop_path(self.conv(x))
        return x + self.drop_path(self.conv(inner))


def test_branches_inside_one_another() -> None:
    assert set_block_dropout(Twice(), 0.1) == 2


class Beside(Chain):
    """A block with a shortcut, and a place for stochastic depth that is not on its branch (timm's ResNeSt)."""

    def forward(self, x: Tensor) -> Tensor:
        branch: Tensor = self.conv(x)
        self.drop_path(x)
        return branch + x


def test_a_place_that_is_not_on_the_branch_is_no_place() -> None:
    with pytest.raises(UserError, match="found no residual block to drop in Beside"):
        set_block_dropout(Beside(), 0.1)


def test_blocks_without_a_shortcut_are_left_alone() -> None:
    chain = Chain()
    with pytest.raises(UserError, match="found no residual block to drop in Chain"):
        set_block_dropout(chain, 0.1)
    assert type(chain.drop_path) is nn.Identity
    net = timm_net("mobilenetv3_small_050")()
    set_block_dropout(net, 0.2)
    for block in net.modules():
        if hasattr(block, "has_skip"):
            assert isinstance(block.drop_path, BlockDropout) == block.has_skip


@pytest.mark.parametrize("rate", [-0.1, 1.0, 1.5, float("nan"), "much"])
def test_rates_that_make_no_sense(rate: Any) -> None:
    net = build("torchvision resnet18")
    with pytest.raises(UserError, match="rate of block dropout must be") as caught:
        set_block_dropout(net, rate)
    assert repr(rate).strip("'") in str(caught.value)


@pytest.mark.parametrize(
    "build_net", [lambda: torchvision.models.VGG(nn.Sequential(), 5), torchvision.models.shufflenet_v2_x0_5]
)
def test_networks_without_known_blocks(build_net: Callable[[], nn.Module]) -> None:
    net = build_net()
    with pytest.raises(UserError, match=f"found no residual block to drop in {type(net).__name__}: .*drop_path"):
        set_block_dropout(net, 0.1)
    assert set_block_dropout(net, 0) == 0


def test_an_image_it_cannot_take() -> None:
    net = mixer()
    with pytest.raises(UserError, match=r"cannot follow a default image .* give set_block_dropout an example="):
        set_block_dropout(net, 0.1)
    with pytest.raises(AssertionError):
        set_block_dropout(net, 0.1, torch.zeros(1, 3, 48, 48))
    assert {type(child.drop_path) for child in net.modules() if hasattr(child, "drop_path")} == {nn.Identity}
    assert not any(child._forward_pre_hooks for child in net.modules())
    assert set_block_dropout(net, 0.1, torch.zeros(1, 3, 32, 32)) == 4


@pytest.mark.parametrize("module", ["resnet18", {}, None, nn.ReLU])
def test_what_is_no_network(module: Any) -> None:
    assert refusal(set_block_dropout, module, 0.1) == f"the network must be a torch.nn.Module, not {module!r}"
