"""Activations after folded batch norms: the same numbers, in one pass with the convolution, kept once."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from tests.models.fast.nets import IMAGES, folded, randomised
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn

from largedrop.models.fast import convolution
from largedrop.models.fast.folding import fold_batchnorm


def plain(act: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), act)


class ReadTwice(nn.Module):
    """The activation's input is read by something else as well."""

    def __init__(self, act: nn.Module) -> None:
        super().__init__()
        self.conv, self.norm, self.act = plain(act)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.conv(x))
        return self.act(y) + y.mean()


class CalledTwice(nn.Module):
    """One activation layer after two batch norms, as torchvision's ResNets have it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = (nn.Sequential(nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3)) for _ in range(2))
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.second(self.act(self.first(x))))


torch.manual_seed(0)
ACTIVATED: dict[str, tuple[nn.Module, int]] = {
    "relu": (plain(nn.ReLU()), 1),
    "relu in place": (plain(nn.ReLU(inplace=True)), 1),
    "relu6 in place": (plain(nn.ReLU6(inplace=True)), 1),
    "another activation": (plain(nn.SiLU()), 0),
    "timm's batch norm with relu": (nn.Sequential(nn.Conv2d(3, 4, 3), BatchNormAct2d(4, act_layer=nn.ReLU)), 0),
    "timm's batch norm with another": (nn.Sequential(nn.Conv2d(3, 4, 3), BatchNormAct2d(4, act_layer=nn.SiLU)), 0),
    "an activation after timm's": (
        nn.Sequential(nn.Conv2d(3, 4, 3), BatchNormAct2d(4, act_layer=nn.Tanh, inplace=False), nn.ReLU()),
        0,
    ),
    "read twice": (ReadTwice(nn.ReLU()), 0),
    "read twice, in place": (ReadTwice(nn.ReLU(inplace=True)), 1),
    "called twice": (CalledTwice(), 0),
}
"""Networks, and how many of their activation layers are computed with a convolution."""


@pytest.mark.parametrize("name", ACTIVATED)
@pytest.mark.parametrize("kind", [torch.float64, torch.float32])
def test_activations_after_a_folded_batch_norm(name: str, kind: torch.dtype) -> None:
    net, count = ACTIVATED[name]
    net = randomised(copy.deepcopy(net)).to(kind)
    images = IMAGES.to(kind)
    weights = torch.randn(net(images).shape, generator=torch.Generator().manual_seed(3)).to(kind)

    def gradients() -> list[Tensor]:
        output = net(images)
        return [output.detach(), *torch.autograd.grad((output * weights).sum(), list(net.parameters()))]

    before = gradients()
    with fold_batchnorm(net, images[:1]) as folding:
        assert len(folding.others) == count
        inside = gradients()
    tolerance = 1e-9 if kind == torch.float64 else 2e-3
    for mine, reference in zip(inside, before, strict=True):
        torch.testing.assert_close(mine, reference, rtol=tolerance, atol=tolerance)
    for mine, reference in zip(gradients(), before, strict=True):
        assert torch.equal(mine, reference)


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_an_activation_inside_the_kernel_has_the_bits_of_one_after_it(
    kind: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = timm.create_model("test_efficientnet", num_classes=5).eval()
    images = IMAGES.float()
    results = []
    with fold_batchnorm(net, images[:1]), torch.autocast("cpu", torch.bfloat16, enabled=kind == torch.bfloat16):
        for fused in (True, False):
            if not fused:
                monkeypatch.setattr(convolution, "_FUSED", ())
            output = net(images)
            results.append([output, *torch.autograd.grad(output.float().square().sum(), list(net.parameters()))])
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("inplace", [True, False])
@pytest.mark.parametrize("act", [nn.ReLU, nn.ReLU6])
def test_an_activation_is_kept_once(act: type[nn.Module], inplace: bool) -> None:
    net = plain(act(inplace=inplace)).eval()
    images = IMAGES.float().requires_grad_()
    kept: list[tuple[int, int]] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append((tensor.untyped_storage().data_ptr(), tensor.numel()))
        return tensor

    with (
        fold_batchnorm(net, images[:1].detach()),
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
    ):
        output = net(images)
    large = {place for place, count in kept if count >= images.numel()}
    assert large == {output.untyped_storage().data_ptr(), images.untyped_storage().data_ptr()}


def test_relu6_elsewhere_keeps_its_output_alone_until_the_folding_is_removed() -> None:
    net = nn.Sequential(plain(nn.SiLU()), nn.ReLU6(inplace=True)).eval()
    with fold_batchnorm(net, IMAGES[:1].float()) as folding:
        assert folding.others == [net[1]]
        assert type(net(IMAGES.float()).grad_fn).__name__ == "_ReLU6Backward"
    assert not any(folded(child) for child in net.modules())
    assert type(net(IMAGES.float()).grad_fn).__name__ == "HardtanhBackward0"
