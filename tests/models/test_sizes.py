"""Networks of every size: built for the size asked for, or refused with the sizes that they take."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from tests.helpers import newer, refusal
from torch import nn

from largedrop.models import sizes
from largedrop.models.sizes import build, check_one_image, pretrained_size, shapes_of, size_settings


@pytest.mark.parametrize(
    ("model", "size", "settings"),
    [
        ("test_resnet", 32, {}),
        ("test_vit", 32, {}),  # it resamples its position embeddings itself
        pytest.param(
            "test_coatnet", 160, {}, marks=newer("test_coatnet")
        ),  # its own: a run of an earlier version stays what it was
        pytest.param(
            "test_maxvit", 320, {}, marks=newer("test_maxvit")
        ),  # a multiple of its own size, which it takes as it is
        ("deit_tiny_patch16_224", 100, {"img_size": 100}),
        pytest.param("test_maxvit", 128, {"img_size": 128}, marks=newer("test_maxvit")),
        pytest.param("test_coatnet", 64, {"img_size": 64}, marks=newer("test_coatnet")),
    ],
)
def test_what_is_fixed_is_built_for_the_size(model: str, size: int, settings: dict[str, int]) -> None:
    assert size_settings(model, size) == settings


@newer("test_coatnet")
def test_the_network_is_timms_for_that_size() -> None:
    torch.manual_seed(0)
    ours = build("test_coatnet", 32)
    torch.manual_seed(0)
    theirs = timm.create_model("test_coatnet", num_classes=0, img_size=32)
    state = theirs.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in ours.state_dict().items())
    assert ours(torch.zeros(1, 3, 32, 32)).shape == (1, 128)


@newer("test_coatnet")
def test_to_try_a_size_draws_nothing() -> None:
    sizes._try.cache_clear()
    before = torch.get_rng_state()
    size_settings("test_coatnet", 96)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("model", "size", "taken"),
    [
        pytest.param("test_coatnet", 100, "64, 96, 128 and 160", marks=newer("test_coatnet")),
        ("efficientformer_l1", 128, "224"),
        ("inception_v3", 32, "96 and 299"),
    ],
)
def test_a_size_that_it_does_not_take_is_said_with_those_that_it_takes(model: str, size: int, taken: str) -> None:
    assert refusal(size_settings, model, size) == (
        f"{model} takes no images of {size} pixels; of the sizes near it, it takes {taken}"
    )


@newer("gemma4_vit_167m_enc")
def test_a_network_without_a_representation_is_refused() -> None:
    assert refusal(build, "gemma4_vit_167m_enc", 768) == (
        "gemma4_vit_167m_enc has no representation: its output is not one vector for each image"
    )


@newer("test_coatnet")
def test_a_network_that_computes_while_it_is_built_is_tried_on_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[tuple[int, str]] = []
    real = sizes._is_vector

    def is_vector(model: str, size: int, settings: dict[str, Any], device: str) -> bool:
        tried.append((size, device))
        if device == "meta":
            raise RuntimeError("Tensor.item() cannot be called on meta tensors")
        return real(model, size, settings, device)

    monkeypatch.setattr(sizes, "_is_vector", is_vector)
    sizes._try.cache_clear()
    assert size_settings("test_coatnet", 64) == {"img_size": 64}
    assert tried == [(64, "meta"), (64, "meta"), (160, "meta"), (160, "meta"), (160, "cpu"), (64, "cpu"), (64, "cpu")]
    sizes._try.cache_clear()


def test_one_that_cannot_be_built_at_all_is_said_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def is_vector(*arguments: Any) -> bool:
        raise ValueError("no\nway")

    monkeypatch.setattr(sizes, "_is_vector", is_vector)
    sizes._try.cache_clear()
    assert refusal(size_settings, "test_vit", 64) == "test_vit cannot be built: ValueError: no way"
    sizes._try.cache_clear()


def test_the_size_of_the_pretraining() -> None:
    assert pretrained_size("test_vit") == 160
    assert pretrained_size("tf_efficientnet_lite0.in1k") == 224


ONE = "cannot learn from a batch of one image of"
REST = "pixels: its batch norms need more than one value for each channel; set batch to 2 or more"


@pytest.mark.parametrize(
    ("check", "text"),
    [
        (lambda: check_one_image("test_resnet", 32), f"test_resnet {ONE} 32 {REST}"),
        (lambda: check_one_image("resnest14d", 64), f"resnest14d {ONE} 64 {REST}"),  # on pooled features: at any size
    ],
)
def test_batch_norm_has_no_statistics_of_one_value(check: Callable[[], None], text: str) -> None:
    assert refusal(check) == text


@pytest.mark.parametrize(("model", "size"), [("test_resnet", 64), ("test_vit", 32)])
def test_batch_norm_of_many_positions_and_layer_norm_take_one_image(model: str, size: int) -> None:
    check_one_image(model, size)


def test_shapes_take_no_memory_where_a_network_can_be_built_without() -> None:
    torch.manual_seed(0)
    drawn = torch.rand(1)
    torch.manual_seed(0)
    rates = shapes_of(lambda: nn.Linear(2, int(torch.linspace(1, 3, 2)[1].item())))
    assert {name: (tuple(value.shape), value.device.type) for name, value in rates.items()} == {
        "weight": ((3, 2), "meta"),
        "bias": ((3,), "meta"),
    }
    computed = shapes_of(lambda: nn.Linear(2, int(torch.ones(3).sum().item()), bias=False))
    assert [(tuple(value.shape), value.device.type) for value in computed.values()] == [((3, 2), "cpu")]
    assert torch.equal(torch.rand(1), drawn)
