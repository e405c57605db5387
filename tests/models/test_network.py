"""The network in two parts, what a checkpoint records of it, and how images come to it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import timm
import torch
from PIL import Image
from tests.helpers import refusal
from torch import Tensor, nn

from largedrop.models.heads import parameter_groups
from largedrop.models.network import Network, Spec, Transform

SPEC = Spec(
    model="test_efficientnet",
    weights="random",
    classes=("cat", "dog", "Łódź"),
    size=32,
    mean=(0.1, 0.2, 0.3),
    std=(0.5, 0.25, 0.125),
    dropout=0.9,
)


def network(**changes: object) -> Network:
    torch.manual_seed(0)
    backbone = timm.create_model("test_efficientnet", num_classes=0)
    return Network(backbone, backbone.num_features, replace(SPEC, **changes))  # type: ignore[arg-type]


def images(count: int = 4) -> Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("spec", [SPEC, replace(SPEC, freeze_batchnorm=False, dropout=0.0, classes=("a",))])
def test_spec_survives_json(spec: Spec) -> None:
    assert Spec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


@pytest.mark.parametrize(
    ("field", "value"), [("mean", [0.1, 0.2]), ("std", [1, 1]), ("std", [1, 1, 1, 1]), ("size", "x"), ("classes", 3)]
)
def test_spec_with_a_field_of_the_wrong_kind_is_refused(field: str, value: object) -> None:
    with pytest.raises((TypeError, ValueError)):
        Spec.from_json({**SPEC.to_json(), field: value})


@pytest.fixture
def pixels() -> npt.NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (48, 40, 3)).astype(np.uint8)


def test_an_array_a_picture_and_a_path_are_the_same_to_the_transform(
    pixels: npt.NDArray[np.uint8], tmp_path: Path
) -> None:
    path = tmp_path / "picture.png"
    Image.fromarray(pixels).save(path)
    views = [Transform(SPEC)(given) for given in (pixels, Image.fromarray(pixels), path, str(path))]
    assert views[0].shape == (3, 32, 32)
    assert views[0].dtype == torch.float32
    assert all(torch.equal(view, views[0]) for view in views)


def test_transform_of_an_image_of_the_right_size_is_its_normalised_pixels(pixels: npt.NDArray[np.uint8]) -> None:
    square = pixels[:32, :32]
    expected = (square / 255 - np.array(SPEC.mean)) / np.array(SPEC.std)
    np.testing.assert_allclose(network().transform(square).permute(1, 2, 0).numpy(), expected, rtol=1e-5, atol=1e-5)


def test_transform_makes_a_grey_picture_rgb() -> None:
    grey = Image.new("L", (20, 10), 51)
    view = Transform(replace(SPEC, mean=(0, 0, 0), std=(1, 1, 1)))(grey)
    torch.testing.assert_close(view, torch.full((3, 32, 32), 0.2))


def test_transform_of_arrays_is_right_or_refused(pixels: npt.NDArray[np.uint8]) -> None:
    transform = Transform(SPEC)
    grey = pixels[..., 0]
    expected = transform(Image.fromarray(grey))
    assert torch.equal(transform(grey), expected)
    assert torch.equal(transform(grey[..., None]), expected)
    assert torch.equal(transform(pixels[:, ::-1]), transform(np.ascontiguousarray(pixels[:, ::-1])))
    alpha = np.dstack([pixels, np.full((48, 40), 255, np.uint8)])
    assert torch.equal(transform(alpha), transform(pixels))
    alpha[..., 3] = 0
    assert torch.equal(transform(alpha), transform(np.full_like(pixels, 255)))
    taken = "an image is a path, a Pillow image, or a uint8 array (height, width, 3) with values of 0 to 255, not "
    refused: list[tuple[Any, str]] = [
        (
            pixels / 255,
            "an array of float64 (48 × 40 × 3); of fractions make (255 * image).round().astype('uint8')",
        ),
        (pixels.astype(np.uint16), "an array of uint16 (48 × 40 × 3)"),
        (pixels > 9, "an array of bool (48 × 40 × 3)"),
        (np.moveaxis(pixels, 2, 0), "an array of 3 × 48 × 40; its channels come first: np.moveaxis(image, 0, 2)"),
        (pixels[None], "an array of 1 × 48 × 40 × 3"),
        (pixels[:0], "an array of 0 × 40 × 3"),
        (torch.from_numpy(pixels), "a Tensor"),
        (None, "a NoneType"),
    ]
    for given, said in refused:
        assert refusal(transform, given) == taken + said


def test_transform_of_a_file_that_is_no_image_says_which(tmp_path: Path) -> None:
    path = tmp_path / "empty.png"
    path.touch()
    assert refusal(Transform(SPEC), path) == f"{path}: the file is empty"


def test_forward_is_the_head_of_the_dropped_out_representation() -> None:
    net = network().eval()
    x = images()
    assert torch.equal(net(x), nn.functional.linear(net.backbone(x), net.head.weight, net.head.bias))
    assert torch.equal(net.represent(x), net.backbone(x))
    assert net(x).shape == (4, 3)
    net.train()
    torch.manual_seed(1)
    dropped = nn.functional.dropout(net.represent(x), 0.9)
    torch.manual_seed(1)
    assert torch.equal(net(x), net.head(dropped))


def test_state_dict_has_two_parts() -> None:
    net = network()
    assert {key.split(".")[0] for key in net.state_dict()} == {"backbone", "head"}
    assert net.classes == ("cat", "dog", "Łódź")


def statistics(net: Network) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in net.state_dict().items() if "running" in key or "batches" in key}


def test_frozen_batch_norms_keep_their_statistics_while_scale_and_shift_learn() -> None:
    net = network().train()
    before = statistics(net)
    assert before
    net(images()).square().sum().backward()
    after = statistics(net)
    assert all(torch.equal(before[key], after[key]) for key in before)
    norms = [child for child in net.modules() if isinstance(child, nn.BatchNorm2d)]
    assert len(norms) == 13
    assert not any(norm.training for norm in norms)
    assert net.training
    assert net.dropout.training
    assert net.backbone.training
    learned = [part.grad for norm in norms for part in (norm.weight, norm.bias)]
    assert all(gradient is not None and gradient.any() for gradient in learned)


def test_batch_norms_that_are_not_frozen_learn_their_statistics() -> None:
    net = network(freeze_batchnorm=False).train()
    before = statistics(net)
    net(images())
    after = statistics(net)
    assert not any(torch.equal(before[key], after[key]) for key in before)


def test_evaluation_mode_reaches_every_module() -> None:
    assert not any(child.training for child in network(freeze_batchnorm=False).train().eval().modules())


def test_parameter_groups_have_every_parameter_once_at_its_rate() -> None:
    net = network()
    rates = {id(part): group["lr"] for group in parameter_groups(net, 1e-3, 10.0) for part in group["params"]}
    listed = [id(part) for group in parameter_groups(net, 1e-3, 10.0) for part in group["params"]]
    assert len(listed) == len(set(listed)) == len(list(net.parameters()))
    for name, part in net.named_parameters():
        assert rates[id(part)] == pytest.approx(1e-2 if name.startswith("head.") else 1e-3)


def test_frozen_backbone_parameters_are_in_no_group() -> None:
    net = network()
    for part in net.backbone.parameters():
        part.requires_grad_(False)
    body, head = parameter_groups(net, 1e-3, 1.0)
    assert body["params"] == []
    assert [id(part) for part in head["params"]] == [id(net.head.weight), id(net.head.bias)]
