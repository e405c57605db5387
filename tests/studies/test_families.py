"""studies/families.py: families of timm and torchvision that are built small and quickly; it is run for all of them."""

from __future__ import annotations

import importlib.util
import math
import os
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
from tests.helpers import newer

from largedrop.errors import UserError

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

TAPS = {"convit": 1, "densenet": 1, "resnetv2": 1, "swin_transformer": 1, "swin_transformer_v2": 1, "xcit": 1}
"""Number of taps of networks that were made so small that no further block has the last resolution."""

QUICK = {
    *SMALL,
    *(f"torchvision.{name}" for name in ("googlenet", "mnasnet0_5", "mobilenet_v3_small", "regnet_x_400mf")),
}

EVERY = "LARGEDROP_EVERY_FAMILY"
"""Environment variable with which the others are built as well, which takes minutes."""


def told() -> dict[str, list[str]]:
    """The rows of docs/networks.md by family: network, size, heads, share, folded, taps, checkpoint."""
    text = (PATH.parents[1] / "docs" / "networks.md").read_text(encoding="utf-8")
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")]
    return {row[0]: row[1:] for row in cells}


@pytest.mark.parametrize("family", [*FAMILIES.TIMM, *(f"torchvision.{name}" for name in FAMILIES.TORCHVISION)])
def test_every_family_is_as_the_page_says(family: str) -> None:
    if family not in QUICK and not os.environ.get(EVERY):
        pytest.skip(f"takes more than a second: {EVERY}=1 builds it")
    network, size, heads, _, _, taps, checkpoint = told()[family]
    smaller = SMALL.get(family) or FAMILIES.LARGE.get(family, {})
    examine = FAMILIES.examine_timm if family in FAMILIES.TIMM else FAMILIES.examine_torchvision
    name = FAMILIES.TIMM.get(family, family.removeprefix("torchvision."))
    if family in FAMILIES.TIMM and not timm.is_model(name):
        pytest.skip(f"timm {timm.__version__} has no {name}")
    if family == "efficientvit_msra" and not timm.is_model("lcnetv2_small"):
        pytest.skip(f"timm {timm.__version__} builds it for one size")
    if network.startswith("refused: "):
        with pytest.raises(UserError, match=f"^{re.escape(network.removeprefix('refused: '))}$"):
            examine(name)
        return
    row = examine(name, **smaller)
    low, high = row.dropped
    # AlexNet and VGG have further dropout in their hidden layers.
    rate = 0.87 if family in ("torchvision.alexnet", "torchvision.vgg11_bn") else FAMILIES.RATE
    assert math.isclose(low, rate, abs_tol=0.1)
    assert math.isclose(high, rate, abs_tol=0.1)
    assert row.folded[1] < 1e-4
    assert (f"`{row.network}`", f"{row.size}{' (built for it)' * row.built_for}") == (network, size)
    assert ", ".join(f"`{head}`" for head in row.heads) == heads
    assert row.taps == (TAPS.get(family, row.taps) if SMALL.get(family) else int(taps))
    assert row.same is (None if smaller or checkpoint == "–" else True)


@newer("lcnetv2_small")
def test_every_family_of_timm_has_a_member_here() -> None:
    assert FAMILIES.TIMM.keys() >= set(timm.list_modules())
    assert all(name in timm.list_models(module=family) for family, name in FAMILIES.TIMM.items())
