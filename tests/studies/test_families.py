"""studies/families.py: families of timm and torchvision that are built small and quickly; it is run for all of them."""

from __future__ import annotations

import importlib.util
import math
import sys
from pathlib import Path
from typing import Any

import pytest
import timm

PATH = Path(__file__).parents[2] / "studies" / "families.py"


def module() -> Any:
    spec = importlib.util.spec_from_file_location("families_study", PATH)
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = found
    spec.loader.exec_module(found)
    return found


FAMILIES = module()

ONE_STAGE = {"depths": (1, 1, 1, 1)}

SMALL: dict[str, dict[str, Any]] = {
    "beit": {"embed_dim": 48, "depth": 2, "num_heads": 3},
    "byobnet": {},
    "cait": {"embed_dim": 48, "depth": 2, "num_heads": 3},
    "convit": {"embed_dim": 48, "depth": 2, "local_up_to_layer": 1},
    "convnext": {},
    "crossvit": {},
    "deit": {"embed_dim": 48, "depth": 2},
    "densenet": {"block_config": (2, 2, 2, 2)},
    "dla": {},
    "edgenext": {},
    "efficientformer_v2": {},
    "efficientnet": {},
    "efficientvit_mit": {},
    "efficientvit_msra": {},
    "eva": {"embed_dim": 48, "depth": 2, "num_heads": 3},
    "fasternet": {},
    "ghostnet": {},
    "inception_next": {"depths": (1, 1, 1, 1)},
    "lcnetv2": {},
    "levit": {},
    "mambaout": {},
    "maxxvit": {},
    "mlp_mixer": {},
    "mobilenetv3": {},
    "mobilevit": {},
    "nfnet": {},
    "pit": {},
    "pvt_v2": {},
    "regnet": {},
    "repghost": {},
    "repvit": {},
    "resnet": {},
    "resnetv2": {"layers": (1, 1, 1, 1)},
    "rexnet": {},
    "starnet": {},
    "swiftformer": {},
    "swin_transformer": {**ONE_STAGE, "embed_dim": 24, "num_heads": (1, 2, 4, 8)},
    "swin_transformer_v2": {**ONE_STAGE, "embed_dim": 24, "num_heads": (1, 2, 4, 8)},
    "tiny_vit": {},
    "vision_transformer": {"embed_dim": 48, "depth": 2},
    "vision_transformer_relpos": {},
    "vovnet": {},
    "xcit": {"depth": 2, "cls_attn_layers": 1},
}
"""Families of timm that take a second or less, with what makes a member smaller that is not small."""

HEADS = {
    "crossvit": ("head.0", "head.1"),
    "deit": ("head", "head_dist"),
    "efficientformer_v2": ("head", "head_dist"),
    "levit": ("head.linear", "head_dist.linear"),
    "pit": ("head", "head_dist"),
    "repvit": ("head.head.l", "head.head_dist.l"),
    "swiftformer": ("head", "head_dist"),
}
"""Heads of the networks that have several."""

TAPS = {
    "byobnet": 1,
    "convit": 1,
    "densenet": 1,
    "efficientnet": 1,
    "maxxvit": 1,
    "mobilenetv3": 1,
    "resnet": 1,
    "resnetv2": 1,
    "starnet": 1,
    "swin_transformer": 1,
    "swin_transformer_v2": 1,
    "vovnet": 1,
    "xcit": 1,
}
"""Number of taps of networks with no further block at the last resolution."""


@pytest.mark.parametrize("family", SMALL)
def test_a_family_of_timm(family: str) -> None:
    row = FAMILIES.examine_timm(FAMILIES.TIMM[family], **SMALL[family])
    check(row)
    if family in HEADS:
        assert row.heads == HEADS[family]
    else:
        assert len(row.heads) == 1
    assert row.same is (None if SMALL[family] else True)
    assert row.taps == TAPS[family] if family in TAPS else row.taps in (2, 3)


@pytest.mark.parametrize(
    ("name", "heads"),
    [
        ("googlenet", ("aux1.fc2", "aux2.fc2", "fc")),
        ("mnasnet0_5", ("classifier.1",)),
        ("mobilenet_v3_small", ("classifier.3",)),
        ("regnet_x_400mf", ("fc",)),
        ("shufflenet_v2_x0_5", ("fc",)),
    ],
)
def test_a_family_of_torchvision(name: str, heads: tuple[str, ...]) -> None:
    row = FAMILIES.examine_torchvision(name)
    check(row)
    assert row.heads == heads


def check(row: Any) -> None:
    low, high = row.dropped
    assert math.isclose(low, FAMILIES.RATE, abs_tol=0.1)
    assert math.isclose(high, FAMILIES.RATE, abs_tol=0.1)
    assert row.folded[1] < 1e-4


def test_every_family_of_timm_has_a_member_here() -> None:
    assert FAMILIES.TIMM.keys() >= set(timm.list_modules())
    assert all(name in timm.list_models(module=family) for family, name in FAMILIES.TIMM.items())
