"""Every family of networks of timm and torchvision, the smallest member of each: what works with it?

A family is a module of ``timm.models`` or ``torchvision.models``. Of each, with random weights and moved statistics of
its batch norms:

- heads: every layer with as many outputs as there are classes that a training step calls reads its input dropped out at
  the rate, after ``set_dropout``;
- folding: the largest difference that ``fold_batchnorm`` makes to the outputs, over the largest output;
- taps: how many blocks the linear model of equation 1 has, or why it has none;
- checkpoint: whether the network comes back from a checkpoint with the same outputs, bit for bit (of timm's alone,
  since ``train`` takes those).

    python studies/families.py >table.md
"""

from __future__ import annotations

import argparse
import gc
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision
from torch import Tensor, nn

from ending import exit_with
from largedrop.errors import UserError
from largedrop.models.dropout import set_dropout
from largedrop.models.fast.folding import fold_batchnorm
from largedrop.models.heads import find_heads
from largedrop.models.network import Network, Spec
from largedrop.models.sizes import pretrained_size, representation_units, size_settings
from largedrop.models.taps import find_taps, tapped
from largedrop.runs.checkpoint import load_model, save_model

CLASSES, RATE, IMAGES = 7, 0.8, 8
SIZES = (64, 96, 128, 160, 192, 224, 256)
"""Sides of images that are tried, and the network's own, in pixels; the smallest that it takes is used."""

LARGE = {"deepseek_vit": {"depth": 4}, "gemma4_vit": {"depth": 2}}
"""Families of which no member is small, with what makes one smaller."""


@dataclass(frozen=True)
class Row:
    """What was found of a network.

    Attributes:
        network: its name.
        size: side of the images in pixels.
        built_for: whether it was built for that size.
        heads: layers that give the logits in a training step.
        dropped: smallest and largest share of the values that a head reads which were set to 0, of those that are not 0
            without dropout.
        folded: batch norms that were folded, and the relative difference that it makes.
        taps: number of taps, or the message that there are none.
        same: whether the checkpoint gives the same outputs; None where it is not timm's.
        seconds: time that all took.
    """

    network: str
    size: int
    built_for: bool
    heads: tuple[str, ...]
    dropped: tuple[float, float]
    folded: tuple[int, float]
    taps: int | str
    same: bool | None
    seconds: float


TIMM = {
    "beit": "beit_base_patch16_224",
    "byoanet": "halonet_h1",
    "byobnet": "test_byobnet",
    "cait": "cait_xxs24_224",
    "coat": "coat_tiny",
    "convit": "convit_tiny",
    "convmixer": "convmixer_768_32",
    "convnext": "test_convnext",
    "cpubone": "cpubone_nano",
    "crossvit": "crossvit_tiny_240",
    "csatv2": "csatv2",
    "cspnet": "cs3darknet_focus_s",
    "cspnext": "cspnext_tiny",
    "davit": "davit_tiny",
    "deepseek_vit": "deepseek_vit_412m",
    "deit": "deit_tiny_distilled_patch16_224",
    "densenet": "densenet121",
    "dla": "dla46x_c",
    "dpn": "dpn48b",
    "edgenext": "edgenext_xx_small",
    "efficientformer": "efficientformer_l1",
    "efficientformer_v2": "efficientformerv2_s0",
    "efficientnet": "test_efficientnet",
    "efficientvim": "efficientvim_m1_dist",
    "efficientvit_mit": "efficientvit_b0",
    "efficientvit_msra": "efficientvit_m0",
    "eva": "vit_tiny_patch16_dinov3_qkvb",
    "fasternet": "fasternet_t0",
    "fastvit": "fastvit_t8",
    "focalnet": "focalnet_tiny_srf",
    "gcvit": "gcvit_xxtiny",
    "gemma4_vit": "gemma4_vit_167m",
    "ghostnet": "ghostnet_050",
    "hardcorenas": "hardcorenas_b",
    "hgnet": "hgnetv2_b0",
    "hiera": "hiera_tiny_224",
    "hieradet_sam2": "sam2_hiera_tiny",
    "hrnet": "hrnet_w18_small",
    "iformer": "iformer_t",
    "inception_next": "inception_next_atto",
    "inception_resnet_v2": "inception_resnet_v2",
    "inception_v3": "inception_v3",
    "inception_v4": "inception_v4",
    "lcnetv2": "lcnetv2_small",
    "levit": "levit_128s",
    "lowformer": "lowformer_b0",
    "mambaout": "test_mambaout",
    "maxxvit": "test_coatnet",
    "metaformer": "poolformerv2_s12",
    "mlp_mixer": "gmlp_ti16_224",
    "mobilenetv3": "lcnet_035",
    "mobilenetv5": "mobilenetv5_base",
    "mobilevit": "mobilevit_xxs",
    "mvitv2": "mvitv2_tiny",
    "naflexvit": "naflexvit_base_patch16_parfac_gap",
    "nasnet": "nasnetalarge",
    "nest": "nest_tiny",
    "nextvit": "nextvit_small",
    "nfnet": "test_nfnet",
    "pit": "pit_ti_distilled_224",
    "pnasnet": "pnasnet5large",
    "pvt_v2": "pvt_v2_b0",
    "qwen3_vit": "qwen3_vit_88m",
    "rdnet": "rdnet_tiny",
    "regnet": "regnetx_002",
    "repghost": "repghostnet_050",
    "repvit": "repvit_m1",
    "res2net": "res2next50",
    "resnest": "resnest14d",
    "resnet": "test_resnet",
    "resnetv2": "resnetv2_18",
    "rexnet": "rexnet_100",
    "selecsls": "selecsls42",
    "senet": "legacy_seresnet18",
    "sequencer": "sequencer2d_s",
    "shvit": "shvit_s1",
    "sknet": "skresnet18",
    "starnet": "starnet_s050",
    "swiftformer": "swiftformer_xs",
    "swin_transformer": "swin_tiny_patch4_window7_224",
    "swin_transformer_v2": "swinv2_tiny_window8_256",
    "swin_transformer_v2_cr": "swinv2_cr_tiny_224",
    "tiny_vit": "tiny_vit_5m_224",
    "tnt": "tnt_s_legacy_patch16_224",
    "tresnet": "tresnet_m",
    "twins": "twins_svt_small",
    "vgg": "vgg11",
    "visformer": "visformer_tiny",
    "vision_transformer": "vit_tiny_patch16_224",
    "vision_transformer_hybrid": "vit_tiny_r_s16_p8_224",
    "vision_transformer_relpos": "test_vit_relpos",
    "vision_transformer_sam": "samvit_base_patch16_224",
    "vitamin": "vitamin_small_224",
    "volo": "volo_d1_224",
    "vovnet": "ese_vovnet19b_slim_dw",
    "xception": "legacy_xception",
    "xception_aligned": "xception41p",
    "xcit": "xcit_nano_12_p8_224",
}
"""The smallest member of every family of timm; of equal ones, that with several heads."""

TORCHVISION = {
    "alexnet": 64,
    "convnext_tiny": 64,
    "densenet121": 64,
    "efficientnet_b0": 64,
    "googlenet": 64,
    "inception_v3": 299,
    "maxvit_t": 224,
    "mnasnet0_5": 64,
    "mobilenet_v2": 64,
    "mobilenet_v3_small": 64,
    "regnet_x_400mf": 64,
    "resnet18": 64,
    "shufflenet_v2_x0_5": 64,
    "squeezenet1_1": 64,
    "swin_t": 64,
    "vgg11_bn": 64,
    "vit_b_16": 224,
}
"""A member of every family of torchvision's classifiers, with a size in pixels that it takes."""


def of_torchvision(name: str) -> nn.Module:
    extra = {"init_weights": False, "aux_logits": True} if name in ("googlenet", "inception_v3") else {}
    network: nn.Module = getattr(torchvision.models, name)(num_classes=CLASSES, **extra)
    return network


def smallest_size(model: str) -> int:
    """The smallest size that a network of timm takes."""
    refused = ""
    for size in sorted({*SIZES, pretrained_size(model)}):
        try:
            size_settings(model, size)
            return size
        except UserError as error:
            refused = str(error)
    raise UserError(refused)


def examine_timm(model: str, size: int | None = None, **settings: Any) -> Row:
    """See the top of this file.

    Args:
        size: side of the images in pixels; the smallest that it takes where None.
        settings: arguments of ``timm.create_model`` that make it smaller.

    Raises:
        UserError: the network is refused.
    """
    began = time.monotonic()
    size = size or smallest_size(model)
    built = size_settings(model, size)
    torch.manual_seed(0)
    network: Any = timm.create_model(model, num_classes=CLASSES, **built, **settings)
    heads, dropped = _dropped(network, size)
    folded = _folded(network, size)

    def backbone() -> nn.Module:
        network.reset_classifier(0)
        found: nn.Module = network
        return found

    taps, same = _taps(backbone, size), None
    if not settings:
        spec = Spec(model, "random", ("a", "b"), size, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), RATE)
        same = _comes_back(Network(network, representation_units(network), spec), size)
    return Row(model, size, bool(built), heads, dropped, folded, taps, same, time.monotonic() - began)


def examine_torchvision(name: str) -> Row:
    """See the top of this file.

    Raises:
        UserError: the network is refused.
    """
    began, size = time.monotonic(), TORCHVISION[name]
    torch.manual_seed(0)
    network = of_torchvision(name)
    heads, dropped = _dropped(network, size)
    folded = _folded(network, size)

    def backbone() -> nn.Module:
        for head in find_heads(network):
            parent, _, last = head.rpartition(".")
            setattr(network.get_submodule(parent), last, nn.Identity())
        return network

    taps = _taps(backbone, size)
    return Row(name, size, False, heads, dropped, folded, taps, None, time.monotonic() - began)


def images_of(size: int, count: int = IMAGES) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))


def _dropped(network: nn.Module, size: int) -> tuple[tuple[str, ...], tuple[float, float]]:
    """The layers that give the logits in a training step, and how much of what they read is dropped out."""
    set_dropout(network, RATE)
    generator = torch.Generator().manual_seed(2)
    for layer in network.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.running_mean is not None:
            assert layer.running_var is not None  # they are there together
            layer.running_mean.normal_(0, 0.1, generator=generator)
            layer.running_var.uniform_(0.5, 1.5, generator=generator)
    read: dict[str, list[Tensor]] = {}

    def hook(name: str) -> Callable[..., None]:
        def keep(layer: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            if output.dim() > 1 and CLASSES in (output.shape[-1], output.shape[1]):
                read.setdefault(name, []).append(args[0].detach())

        return keep

    layers = [(name, layer) for name, layer in network.named_modules() if isinstance(layer, (nn.Linear, nn.Conv2d))]
    last = [(name, layer) for name, layer in layers if layer.weight.shape[0] == CLASSES]
    hooks = [layer.register_forward_hook(hook(name)) for name, layer in last]
    with torch.no_grad():
        network.train()
        for layer in network.modules():
            layer.training = layer.training and not isinstance(layer, nn.modules.batchnorm._BatchNorm)
        network(images_of(size))
        trained = {name: tensors[0] for name, tensors in read.items()}
        read.clear()
        set_dropout(network, 0.0)
        network(images_of(size))
    for each in hooks:
        each.remove()
    plain = {name: tensors[0] for name, tensors in read.items()}
    shares = [float((trained[name] == 0)[plain[name] != 0].float().mean()) for name in trained]
    return tuple(trained), (min(shares), max(shares))


def _folded(network: nn.Module, size: int) -> tuple[int, float]:
    images = images_of(size, 2)
    network.eval()
    with torch.no_grad():
        before = network(images)
        with fold_batchnorm(network, images[:1]) as folding:
            count, after = len(folding), network(images)
    return count, float((after - before).abs().max() / before.abs().max().clamp_min(1e-6))  # all 0 where a head is


def _taps(backbone: Callable[[], nn.Module], size: int) -> int | str:
    network, images = backbone().eval(), images_of(size, 2)
    try:
        taps = find_taps(network, images[:1])
    except UserError as error:
        return str(error)
    with torch.no_grad():
        torch.testing.assert_close(tapped(network, images, taps)[-1], network(images))
    return len(taps)


def _comes_back(network: Network, size: int) -> bool:
    images = images_of(size, 2)
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        path = Path(folder) / "model.safetensors"
        save_model(path, network.eval(), {})
        return torch.equal(load_model(path)(images), network(images))


def line(family: str, examine: Callable[..., Row], name: str) -> str:
    """A row of the table, or what was refused."""
    try:
        row = examine(name, **LARGE.get(family, {}))
    except UserError as error:
        return f"| {family} | refused: {error} | | | | | | |"
    taps = row.taps if isinstance(row.taps, int) else f"none: {row.taps}"
    low, high = row.dropped
    same = {True: "same bits", False: "**other**", None: "–"}[row.same]
    built = " (built for it)" if row.built_for else ""
    heads = ", ".join(f"`{name}`" for name in row.heads)
    count, difference = row.folded
    fold = f"{count}, {difference:.0e}" if count else "none"
    share = f"{low:.2f} to {high:.2f}" if row.heads[1:] else f"{low:.2f}"
    return f"| {family} | `{row.network}` | {row.size}{built} | {heads} | {share} | {fold} | {taps} | {same} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    everything = [*TIMM, *(f"torchvision.{name}" for name in TORCHVISION)]
    parser.add_argument("--only", nargs="*", choices=everything, default=everything, help="these families alone")
    print("| family | network | size | heads | dropped out | folded, difference | taps | checkpoint |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for family in parser.parse_args().only:
        name = family.removeprefix("torchvision.")
        if family in TIMM:
            print(line(family, examine_timm, TIMM[family]), flush=True)
        else:
            print(line(family, examine_torchvision, name), flush=True)
        gc.collect()


if __name__ == "__main__":
    exit_with(main)
