"""Weights in other names, and of a network for another size of image, fitted into a network."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tests.helpers import newer, refusal
from tests.models.states import State, saved, state_of
from timm.layers.pos_embed import resample_abs_pos_embed

from largedrop.models.fitting import _resampled, plain_names
from largedrop.models.network import Network, Spec
from largedrop.models.pretrained import Weights, create_backbone, find_weights
from largedrop.models.sizes import build, representation_units
from largedrop.runs.checkpoint import save_model, write_tensors


def own(path: Path, model: str, size: int) -> State:
    """Write a checkpoint of a network for ``size``, and return its backbone's state dict."""
    torch.manual_seed(7)
    backbone = build(model, size)
    spec = Spec(model, "random", ("a", "b"), size, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), 0.9)
    save_model(path, Network(backbone, representation_units(backbone), spec), {})
    state: State = backbone.state_dict()
    return state


def loaded(model: str, path: Path | str, size: int) -> State:
    state: State = create_backbone(model, find_weights(model, str(path)), size)[0].state_dict()
    return state


@pytest.mark.parametrize(
    ("names", "plain"),
    [
        (["a.w", "b"], ["a.w", "b"]),
        (["module.a.w", "module.b"], ["a.w", "b"]),
        (["module._orig_mod.model.a.w", "module._orig_mod.model.b"], ["a.w", "b"]),
        (["a._orig_mod.w", "b"], ["a.w", "b"]),  # a part was compiled
        (["n_averaged", "module.a.w"], ["a.w"]),
        (["backbone.a.w", "head.weight", "head.bias"], ["a.w"]),
        (["module.backbone.a.w", "module.head.weight", "module.other"], ["a.w", "other"]),
        (["model.a.w", "loss.weight"], ["model.a.w", "loss.weight"]),  # not all: what it is of is not clear
        ([], []),
    ],
)
def test_prefixes_are_taken_off(names: list[str], plain: list[str]) -> None:
    assert list(plain_names(dict.fromkeys(names, torch.zeros(1)), ["a.w", "b"])) == plain


def test_a_prefix_that_is_the_networks_own_name_stays() -> None:
    state = {"model.a": torch.zeros(1), "backbone.b": torch.zeros(1)}
    assert list(plain_names(state, ["model.a", "backbone.b"])) == list(state)


@pytest.mark.parametrize("prefix", ["module.", "model.", "_orig_mod.", "module._orig_mod.", "model.module."])
def test_a_file_with_a_prefix_loads(prefix: str, tmp_path: Path) -> None:
    state = state_of("test_resnet", num_classes=5)
    path = saved(tmp_path / "x.safetensors", {f"{prefix}{key}": value for key, value in state.items()})
    assert all(torch.equal(value, state[key]) for key, value in loaded("test_resnet", path, 32).items())


@pytest.mark.parametrize("model", ["test_resnet", "test_vit"])
def test_a_checkpoint_of_a_run_is_a_start(model: str, tmp_path: Path) -> None:
    state = own(tmp_path / "best.safetensors", model, 32)
    found = loaded(model, tmp_path / "best.safetensors", 32)
    assert found.keys() == state.keys()
    assert all(torch.equal(found[key], state[key]) for key in state)
    weights = find_weights(model, str(tmp_path / "best.safetensors"))
    assert weights.source == "file best.safetensors"
    assert weights.normalisation(model) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


def test_a_file_that_has_no_network_or_another_one_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    own(path, "test_vit", 32)
    assert refusal(find_weights, "test_resnet", str(path)) == (
        f"--weights: {path} is a checkpoint of test_vit, not of test_resnet; set model to test_vit"
    )
    write_tensors(path, {"a": torch.zeros(1)}, "state", {})
    assert refusal(find_weights, "test_resnet", str(path)) == (
        f"--weights: {path} is a largedrop file of the kind 'state', which has no network"
    )
    save_file({"a": torch.zeros(1)}, path, {"largedrop": "{}"})
    assert refusal(find_weights, "test_resnet", str(path)) == f"--weights: the header of {path} is damaged ('kind')"


@pytest.mark.parametrize("classes", [5, 0])
def test_position_embeddings_are_resampled_as_timm_does_it(classes: int, tmp_path: Path) -> None:
    state = state_of("deit_tiny_patch16_224", num_classes=classes)
    found = loaded("deit_tiny_patch16_224", saved(tmp_path / "x.safetensors", state), 64)
    expected = resample_abs_pos_embed(state["pos_embed"], [4, 4], num_prefix_tokens=1)
    assert found["pos_embed"].shape == (1, 17, 192)
    torch.testing.assert_close(found["pos_embed"], expected)
    assert torch.equal(found["blocks.0.attn.qkv.weight"], state["blocks.0.attn.qkv.weight"])


@pytest.mark.parametrize("model", [pytest.param(name, marks=newer(name)) for name in ("test_coatnet", "test_maxvit")])
def test_a_checkpoint_goes_on_at_another_size(model: str, tmp_path: Path) -> None:
    state = own(tmp_path / "best.safetensors", model, 64)
    found = loaded(model, tmp_path / "best.safetensors", 96)
    changed = {key for key in state if state[key].shape != found[key].shape}
    assert changed
    assert all(torch.equal(found[key], state[key]) for key in state.keys() - changed)
    assert found.keys() == state.keys()


def test_weights_of_the_hub_are_resampled_like_those_of_a_file(tmp_path: Path) -> None:
    path = Path(saved(tmp_path / "model.safetensors", state_of("deit_tiny_patch16_224")))
    hub, _ = create_backbone("deit_tiny_patch16_224", Weights("hub timm/deit", path, ""), 64)
    file = loaded("deit_tiny_patch16_224", path, 64)
    assert hub.state_dict().keys() == file.keys()
    assert all(torch.equal(value, file[key]) for key, value in hub.state_dict().items())
    assert hub(torch.zeros(1, 3, 64, 64)).shape == (1, 192)


@pytest.mark.parametrize("kind", ["timm", "own"])
def test_what_cannot_be_resampled_is_said_with_its_size(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    size = 224 if kind == "timm" else 64
    own(path, "gmlp_ti16_224", 64) if kind == "own" else saved(path, state_of("gmlp_ti16_224"))
    weights = find_weights("gmlp_ti16_224", str(path))
    assert refusal(create_backbone, "gmlp_ti16_224", weights, 32) == (
        f"the weights in {path} are of gmlp_ti16_224 for images of {size} pixels and cannot be resampled for 32: "
        f"set size to {size}, or take random weights"
    )


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ((1, 16, 8), (1, 4, 8)),
        ((1, 17, 8), (1, 5, 8)),  # a class token
        ((1, 21, 8), (1, 9, 8)),  # and four registers
        ((1, 4, 4, 8), (1, 2, 2, 8)),  # channels last (VOLO)
        ((1, 8, 4, 4), (1, 8, 2, 2)),  # channels first (Visformer)
    ],
)
def test_embeddings_that_timm_leaves_are_resampled_in_place(old: tuple[int, ...], new: tuple[int, ...]) -> None:
    tensor = torch.full(old, 3.0)
    if len(old) == 3:
        tensor[:, : old[1] - 16] = 7.0  # what has no position stays as it is
    found = _resampled("pos_embed", tensor, {"pos_embed": torch.zeros(new)})
    expected = torch.full(new, 3.0)
    if len(old) == 3:
        expected[:, : new[1] - 4] = 7.0
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("key", "old", "new"),
    [("weight", (1, 16, 8), (1, 4, 8)), ("pos_embed", (1, 16, 8), (1, 4, 9)), ("pos_embed", (1, 7, 8), (1, 5, 8))],
)
def test_anything_else_is_left_alone(key: str, old: tuple[int, ...], new: tuple[int, ...]) -> None:
    tensor = torch.zeros(old)
    assert _resampled(key, tensor, {key: torch.zeros(new)}) is tensor
