"""Checkpoints: the same network back bit for bit, one line for whatever else the file is, and nothing unpickled."""

from __future__ import annotations

import copy
import json
import os
import pickle
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tests.helpers import newer
from torch import Tensor

from largedrop.errors import UserError
from largedrop.models.network import Network, Spec
from largedrop.models.sizes import build, representation_units
from largedrop.runs.checkpoint import load_model, read_tensors, save_model, write_tensors

SPEC = Spec(
    model="test_efficientnet",
    weights="random",
    classes=("blue", "green", "red"),
    size=32,
    mean=(0.5, 0.25, 0.125),
    std=(0.5, 0.5, 0.25),
    dropout=0.9,
    freeze_batchnorm=True,
)


def small(seed: int = 0) -> Network:
    torch.manual_seed(seed)
    backbone = timm.create_model(SPEC.model, pretrained=False, num_classes=0)
    return Network(backbone, representation_units(backbone), SPEC)


@pytest.fixture(scope="module")
def network() -> Network:
    return small().to(memory_format=torch.channels_last)  # type: ignore[call-overload]


@pytest.fixture
def path(network: Network, tmp_path: Path) -> Path:
    save_model(tmp_path / "model.safetensors", network, {"step": 7})
    return tmp_path / "model.safetensors"


def refusal(path: Path | str) -> str:
    with pytest.raises(UserError) as caught:
        load_model(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def rewrite(path: Path, tensors: dict[str, Tensor] | None = None, **header: Any) -> None:
    """Write ``path`` anew with other tensors or another header."""
    found, old = read_tensors(path, "model")
    new = {name: value for name, value in {**old, **header}.items() if value is not None and name != "crc32"}
    write_tensors(path, tensors or found, "model", new)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_a_loaded_model_is_scripted_traced_exported_copied_and_pickled(path: Path, tmp_path: Path) -> None:
    loaded = load_model(path)
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.jit.script(loaded).save(tmp_path / "scripted.pt")
    torch.save(loaded, tmp_path / "pickled.pt")
    with torch.no_grad():
        expected = loaded(images)
        others = [
            torch.jit.load(tmp_path / "scripted.pt"),
            torch.jit.trace(loaded, images),
            torch.export.export(loaded, (images,)).module(),
            copy.deepcopy(loaded),
            torch.load(tmp_path / "pickled.pt", weights_only=False),
        ]
        for other in others:
            torch.testing.assert_close(other(images), expected)
    assert others[3].classes == others[4].classes == SPEC.classes
    assert others[3].about == {"step": 7}


@newer("test_coatnet")
@pytest.mark.parametrize("size", [64, 96])
def test_a_network_of_a_fixed_size_comes_back_at_the_size_of_its_header(size: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    backbone = build("test_coatnet", size)
    network = Network(backbone, representation_units(backbone), replace(SPEC, model="test_coatnet", size=size)).eval()
    save_model(tmp_path / "model.safetensors", network, {})
    loaded = load_model(tmp_path / "model.safetensors")
    images = torch.stack([loaded.transform(np.full((size, size, 3), 99, np.uint8))])
    assert torch.equal(loaded(images), network(images))


@newer("test_coatnet")
def test_a_header_with_a_size_that_the_network_does_not_take(path: Path) -> None:
    header = read_tensors(path, "model")[1]["spec"]
    rewrite(path, spec={**header, "model": "test_coatnet", "size": 100})
    assert (
        refusal(path)
        == "test_coatnet takes no images of 100 pixels; of the sizes near it, it takes 64, 96, 128 and 160"
    )


def test_the_network_comes_back_bit_for_bit(network: Network, path: Path) -> None:
    loaded = load_model(str(path))
    assert type(loaded) is Network
    assert not any(module.training for module in loaded.modules())
    assert loaded.spec == SPEC
    assert loaded.classes == ("blue", "green", "red")
    ours, theirs = network.state_dict(), loaded.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[name], theirs[name]) and ours[name].dtype == theirs[name].dtype for name in ours)


def test_the_logits_are_bit_identical(path: Path) -> None:
    batch = torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        assert torch.equal(small().eval()(batch), load_model(path)(batch))


def test_the_transform_is_that_of_the_spec(path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    view = load_model(path).transform(Image.fromarray(pixels))
    mean, std = np.array(SPEC.mean), np.array(SPEC.std)
    np.testing.assert_allclose(view.numpy(), ((pixels / 255 - mean) / std).transpose(2, 0, 1), atol=1e-6)


def test_other_weights_can_be_saved(network: Network, tmp_path: Path) -> None:
    doubled = {name: tensor * 2 for name, tensor in network.state_dict().items()}
    save_model(tmp_path / "double", network, {}, doubled)
    assert torch.equal(load_model(tmp_path / "double").head.weight, network.head.weight * 2)


def test_the_header_says_what_the_file_is(path: Path) -> None:
    tensors, header = read_tensors(path, "model")
    assert re.fullmatch("[0-9a-f]{8}", header.pop("crc32"))
    assert header == {
        "kind": "model",
        "version": 2,
        "spec": json.loads(json.dumps(SPEC.to_json())),
        "versions": {"torch": torch.__version__, "timm": timm.__version__},
        "about": {"step": 7},
    }
    assert tensors.keys() == load_file(path).keys()


def test_the_temperature_is_in_the_header(path: Path) -> None:
    assert load_model(path).temperature is None
    rewrite(path, about={"temperature": 2})
    assert load_model(path).temperature == 2.0
    for value in (0, -1.5, "warm", True):
        rewrite(path, about={"temperature": value})
        said = refusal(path)
        assert said == f"{path} is damaged: the temperature in its header must be a number above 0, not {value!r}"


def test_tensors_of_any_layout_come_back(tmp_path: Path) -> None:
    shared = torch.arange(24.0).reshape(2, 3, 4)
    tensors = {"turned": shared.permute(2, 0, 1), "same": shared, "half": shared[0].half(), "count": torch.tensor(3)}
    write_tensors(tmp_path / "file", tensors, "outputs", {"λ": [1]})
    found, header = read_tensors(tmp_path / "file", "outputs")
    assert header == {"kind": "outputs", "version": 2, "crc32": header["crc32"], "λ": [1]}
    for name, tensor in tensors.items():
        assert torch.equal(found[name], tensor)
        assert found[name].dtype == tensor.dtype


def test_a_missing_file(tmp_path: Path) -> None:
    assert refusal(tmp_path / "none") == f"no checkpoint {tmp_path / 'none'}"
    assert refusal(tmp_path).startswith(f"{tmp_path} is a folder, not a checkpoint")


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 200, 0.5, -1])
def test_a_truncated_file(path: Path, length: float) -> None:
    content = path.read_bytes()
    end = int(length * len(content)) if isinstance(length, float) else length
    path.write_bytes(content[:end])
    assert refusal(path).startswith(f"{path} is damaged or not a safetensors file: ")


def test_a_file_with_something_after_its_end(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")
    assert refusal(path).startswith(f"{path} is damaged or not a safetensors file: ")


@pytest.mark.parametrize(
    "metadata", [None, {"format": "pt"}, {"largedrop": "{"}, {"largedrop": "[1]"}, {"largedrop": '{"kind": "model"}'}]
)
def test_a_foreign_file(tmp_path: Path, metadata: dict[str, str] | None) -> None:
    path = tmp_path / "foreign.safetensors"
    save_file({"head.weight": torch.zeros(3, 4)}, path, metadata=metadata)
    assert refusal(path) == f"{path} was not written by largedrop: its header does not describe a network"


def test_another_kind(tmp_path: Path) -> None:
    write_tensors(tmp_path / "file", {"iid": torch.zeros(2)}, "outputs", {})
    assert refusal(tmp_path / "file") == f"{tmp_path / 'file'} is a largedrop file of the kind 'outputs', not 'model'"


def test_a_newer_version(path: Path) -> None:
    rewrite(path, version=3)
    assert refusal(path) == f"{path} was written by a newer largedrop (format 3, this one reads 2)"


def test_any_wrong_byte_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_tensors(path, {"iid": torch.arange(12.0).half(), "ood": torch.ones(3, 2)}, "outputs", {"step": 7})
    content = path.read_bytes()
    for place in range(len(content)):
        for change in (1, 0x20, 0x80):
            path.write_bytes(content[:place] + bytes([content[place] ^ change]) + content[place + 1 :])
            with pytest.raises(UserError, match=r"^[^\n]*$"):
                read_tensors(path, "outputs")
    path.write_bytes(content)
    assert read_tensors(path, "outputs")[0]["iid"].tolist() == list(range(12))


def test_a_checksum_that_is_gone_is_missed(path: Path) -> None:
    _, header = read_tensors(path, "model")
    del header["crc32"]
    save_file(load_file(path), path, metadata={"largedrop": json.dumps(header)})
    assert refusal(path) == f"{path} is damaged: its checksum is not that of its content"


def test_a_file_of_another_run(network: Network, path: Path) -> None:
    save_model(path, network, {"run": "0123456789ab"})
    assert load_model(path, run="0123456789ab").spec == SPEC
    with pytest.raises(
        UserError,
        match=r"is of another run: of the config 0123456789ab, not ba9876543210; remove .* and train it again$",
    ):
        load_model(path, run="ba9876543210")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"size": 10**9}, "size must be from 1 to 4096, not 1000000000"),
        ({"size": 1e300}, "size must be from 1 to 4096, not 1e+300"),
        ({"std": [0.5, 0.0, 0.5]}, "std must be three numbers above 0, not [0.5, 0.0, 0.5]"),
        ({"dropout": 1}, "dropout must be in [0, 1), not 1"),
        ({"classes": "abc"}, "classes must be a list of names"),
    ],
)
def test_a_header_that_describes_no_network(path: Path, changes: dict[str, Any], reason: str) -> None:
    rewrite(path, spec={**SPEC.to_json(), **changes})
    assert refusal(path) == f"{path} is damaged: its header does not describe a network ({reason})"


def test_no_memory_is_taken_for_a_network_that_does_not_fit(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[torch.device] = []

    def watched(*arguments: Any, **options: Any) -> Any:
        made.append(torch.empty(0).device)
        return create(*arguments, **options)

    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", watched)
    for model in ("vit_giant_patch14_dinov2", "eva_giant_patch14_224"):  # a billion weights
        rewrite(path, spec={**SPEC.to_json(), "model": model})
        assert refusal(path).startswith(f"the weights in {path} do not fit its network {model}: there is no backbone.")
    rewrite(path, spec={**SPEC.to_json(), "classes": [str(number) for number in range(100_000)]})
    assert refusal(path).endswith("head.weight is F32 [3, 256], not F32 [100000, 256]")
    assert {device.type for device in made} == {"meta"}


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert refusal(tmp_path / "pipe") == f"{tmp_path / 'pipe'} cannot be read: it is no regular file"


def test_timm_alone_loads_the_backbone(path: Path) -> None:
    # As in docs/guide/model.md.
    state = load_file(path)
    model = timm.create_model("test_efficientnet", pretrained=False, num_classes=3)
    names = {"head.weight": "classifier.weight", "head.bias": "classifier.bias"}
    model.load_state_dict({names.get(name, name.removeprefix("backbone.")): state[name] for name in state})
    batch = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        torch.testing.assert_close(model.eval()(batch), load_model(path)(batch))


@pytest.mark.parametrize("name", ["model", "weights", "classes", "size", "mean", "std", "dropout", "freeze_batchnorm"])
def test_a_header_that_lacks_a_field(path: Path, name: str) -> None:
    spec = {key: value for key, value in SPEC.to_json().items() if key != name}
    rewrite(path, spec=spec)
    assert refusal(path) == f"{path} is damaged: its header lacks a field of the network ('{name}')"


def test_a_header_without_a_network(path: Path) -> None:
    rewrite(path, spec=None)
    assert refusal(path) == f"{path} is damaged: its header lacks a field of the network ('spec')"


@pytest.mark.parametrize("model", ["hf-hub:someone/something", "local-dir:/tmp", "test_efficientnot"])
def test_only_architectures_that_timm_has_are_built(path: Path, model: str) -> None:
    rewrite(path, spec={**SPEC.to_json(), "model": model})
    assert refusal(path).startswith(f"unknown model '{model}'; ")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            lambda tensors: {**tensors, "head.bias": torch.zeros(2)},
            "head.bias is F32 [2], not F32 [3]",
        ),
        (
            lambda tensors: {name: tensor for name, tensor in tensors.items() if name != "head.bias"},
            "there is no head.bias",
        ),
        (lambda tensors: {**tensors, "more": torch.zeros(1)}, "the network has no more"),
        (lambda tensors: {**tensors, "head.bias": torch.zeros(3).half()}, "head.bias is F16 [3], not F32 [3]"),
        (lambda tensors: {"head.bias": torch.zeros(3)}, "there is no backbone.conv_stem.weight"),
    ],
)
def test_weights_that_do_not_fit(path: Path, change: Any, reason: str) -> None:
    rewrite(path, change(read_tensors(path, "model")[0]))
    assert refusal(path) == f"the weights in {path} do not fit its network test_efficientnet: {reason}"


class Payload:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("write", [pickle.dump, torch.save])
def test_nothing_is_unpickled(tmp_path: Path, write: Any) -> None:
    path = tmp_path / "model.pt"
    with path.open("wb") as file:
        write(Payload(tmp_path / "made"), file)
    assert refusal(path) == f"{path} is a pickle, which is not opened, since that can run code"
    assert not (tmp_path / "made").exists()
    if write is pickle.dump:
        pickle.loads(path.read_bytes())  # noqa: S301  # the payload is live
        assert (tmp_path / "made").exists()


def test_a_file_that_cannot_be_written(network: Network, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "model"
    with pytest.raises(UserError) as caught:
        save_model(path, network, {})
    assert str(caught.value) == f"cannot write {path}: {tmp_path / 'file'} is a file; rename it or remove it"


def test_a_header_that_json_cannot_hold_leaves_the_old_file(network: Network, path: Path) -> None:
    before = path.read_bytes()
    with pytest.raises(ValueError, match="not JSON compliant"):
        save_model(path, network, {"loss": float("nan")})
    assert path.read_bytes() == before


def test_the_name_and_the_step_of_a_checkpoint(network: Network, tmp_path: Path) -> None:
    path, digest = tmp_path / "best.safetensors", "0123456789ab"
    save_model(path, network, {"run": digest, "checkpoint": "best", "step": 4})
    assert load_model(path, run=digest, step=4).about["step"] == 4
    with pytest.raises(UserError, match=f"is of step 4 of its run, not of 6; remove {tmp_path} and train it again$"):
        load_model(path, run=digest, step=6)
    for name in ("mine", "final"):
        shutil.copy(path, tmp_path / f"{name}.safetensors")
        assert load_model(tmp_path / f"{name}.safetensors").about["step"] == 4
    (tmp_path / "result.json").write_text('{"model": "final.safetensors"}')
    assert load_model(tmp_path / "mine.safetensors").about["step"] == 4  # a copy of one's own
    with pytest.raises(UserError, match=f"is the checkpoint 'best' of its run, not 'final'; remove {tmp_path} and"):
        load_model(tmp_path / "final.safetensors")


@pytest.mark.parametrize("second", [0x00, 0x02, 0x04, 0x27])
def test_a_damaged_file_is_no_pickle(path: Path, second: int) -> None:
    content = path.read_bytes()
    path.write_bytes(bytes([0x80, second]) + content[2:])
    with pytest.raises(UserError, match="is damaged"):
        load_model(path)
