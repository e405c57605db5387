"""Heads side by side: all are found, or refused by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
from tests.helpers import newer, refusal
from torch import nn

from largedrop.models.heads import find_heads, parameter_groups


def parts(**layers: nn.Module) -> nn.Module:
    """A module of these layers, in this order."""
    made = nn.Module()
    for name, layer in layers.items():
        made.add_module(name, layer)
    return made


L = nn.Linear


def timm_net(name: str) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        net: nn.Module
        try:
            with torch.device("meta"):  # names and widths are enough
                net = timm.create_model(name, num_classes=7)
        except RuntimeError:  # older versions of timm compute values while they build some
            net = timm.create_model(name, num_classes=7)
        return net

    return make


def of_torchvision(name: str) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        with torch.device("meta"):
            net: nn.Module = getattr(torchvision.models, name)(num_classes=7, aux_logits=True, init_weights=False)
        return net

    return make


@pytest.mark.parametrize(
    ("make", "heads"),
    [
        (timm_net("test_resnet"), ["fc"]),
        (timm_net("test_convnext"), ["head.fc"]),
        (timm_net("deit_tiny_distilled_patch16_224"), ["head", "head_dist"]),
        (timm_net("levit_128s"), ["head.linear", "head_dist.linear"]),
        (timm_net("repvit_m0_9"), ["head.head.l", "head.head_dist.l"]),
        (timm_net("crossvit_tiny_240"), ["head.0", "head.1"]),
        (timm_net("volo_d1_224"), ["aux_head", "head"]),
        (timm_net("convformer_s18"), ["head.fc.fc2"]),
        pytest.param(
            timm_net("efficientvim_m1_dist"),
            [f"{name}.{k}" for name in ("heads", "heads_dist") for k in range(4)],
            marks=newer("efficientvim_m1_dist"),
        ),
        (of_torchvision("googlenet"), ["aux1.fc2", "aux2.fc2", "fc"]),
        (of_torchvision("inception_v3"), ["AuxLogits.fc", "fc"]),
        (lambda: parts(body=L(3, 9), cls_classifier=L(9, 5), distillation_classifier=L(9, 5)), None),
        (lambda: parts(fc1=L(8, 9), fc2=L(9, 9), fc3=L(9, 5)), ["fc3"]),
        (lambda: parts(fc=L(8, 9), fc2=L(9, 5)), ["fc2"]),
        (lambda: parts(head=nn.ModuleDict({"coarse": L(9, 5), "fine": L(9, 5)})), ["head.coarse", "head.fine"]),
        (lambda: parts(head=nn.ModuleList([L(9, 6), L(6, 5)])), ["head.1"]),
        (lambda: parts(head=parts(hidden=L(9, 6), last=L(6, 5))), ["head.last"]),
        (lambda: parts(head=nn.Sequential(parts(out=L(9, 5)), nn.ReLU())), ["head.0.out"]),
        (lambda: parts(net=L(3, 9), head=L(9, 5), head_extra=nn.Sequential(L(9, 4), L(4, 5))), None),
    ],
)
def test_every_head_is_found(make: Callable[[], nn.Module], heads: list[str] | None) -> None:
    net = make()
    last = [name for name, layer in net.named_modules() if isinstance(layer, L) and layer.out_features == 5]
    found = find_heads(net)
    assert list(found) == (heads or last)
    assert all(net.get_submodule(name) is layer for name, layer in found.items())


@pytest.mark.parametrize(
    ("net", "text"),
    [
        (parts(head=L(9, 5), head_box=L(9, 4)), "cannot tell whether head is a head beside head_box"),
        (
            parts(head=parts(a=L(9, 5), b=L(9, 4), c=L(9, 3))),
            "cannot tell whether head.a, head.b are heads beside head.c",
        ),
        (parts(head=L(5, 5), head_dist=L(5, 5)), "cannot tell whether head is a head beside head_dist"),
    ],
)
def test_what_may_be_a_head_is_named(net: nn.Module, text: str) -> None:
    assert refusal(find_heads, net) == f"{text}: name the heads with head=['…', …]"


def test_heads_by_name_are_taken_as_they_are() -> None:
    net = parts(body=L(3, 9), head=L(9, 5), head_box=nn.Sequential(L(9, 8), L(8, 4)))
    assert list(find_heads(net, ["head", "head_box"])) == ["head", "head_box.1"]
    assert list(find_heads(net, "head")) == ["head"]
    assert refusal(find_heads, net, ["head", "hed"]) == (
        "the network has no head 'hed'; did you mean 'head'? (there are: body, head, head_box.0, head_box.1)"
    )
    assert refusal(find_heads, net, []).startswith("the network has no head ''; there are: body")


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated")
@pytest.mark.parametrize(("wrap", "name"), [(torch.compile, "_orig_mod"), (nn.DataParallel, "module")])
def test_heads_in_what_is_wrapped_around_a_network(wrap: Callable[[nn.Module], nn.Module], name: str) -> None:
    net = wrap(timm.create_model("test_resnet", num_classes=3))
    assert list(find_heads(net)) == [f"{name}.fc"]
    numbers: Any = np.float32(0.5), np.int64(4)
    body, head = parameter_groups(net, *numbers)
    assert (len(head["params"]), body["lr"], head["lr"]) == (2, 0.5, 2.0)


def test_parameter_groups_of_what_is_no_module() -> None:
    said = refusal(parameter_groups, L(2, 2).parameters(), 0.1)
    assert said.startswith("parameter groups are made of a torch.nn.Module, not <generator object")


def test_parameter_groups_of_any_classifier() -> None:
    net: Any = timm.create_model("test_resnet", num_classes=3)
    net.conv1[0].weight.requires_grad_(False)
    body, head = parameter_groups(net, 1e-3, 10)
    assert (body["lr"], head["lr"]) == (1e-3, 1e-2)
    assert [id(each) for each in head["params"]] == [id(net.fc.weight), id(net.fc.bias)]
    trained = {id(each) for each in net.parameters() if each.requires_grad}
    assert {id(each) for group in (body, head) for each in group["params"]} == trained
    assert len(body["params"]) == len(trained) - 2
    assert len(torch.optim.AdamW([body, head]).param_groups) == 2
    assert refusal(parameter_groups, net, 0.0) == "lr must be a number above 0, not 0.0"
    assert refusal(parameter_groups, net, 1.0, "10") == "head_lr_multiplier must be a number above 0, not '10'"
    assert refusal(parameter_groups, net, 1.0, head="fd").startswith("the network has no head 'fd'")
