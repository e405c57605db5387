"""A folder as timm reads it from a model hub or from disk, and its upload."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import huggingface_hub
import timm
import torch
from huggingface_hub.errors import HFValidationError
from safetensors.torch import save
from torch import Tensor, nn

from .._version import __version__
from ..errors import UserError, visible
from ..files import write_bytes, write_json, write_text
from ..models.network import Network
from ..models.sizes import size_settings
from .deployed import agree, inputs_of, sample_views

__all__ = ["HUB_FILES", "check_push", "push", "write_timm"]

HUB_FILES = ("config.json", "model.safetensors", "README.md")
"""Files of the folder; no others are uploaded."""


def write_timm(network: Network, folder: Path, card: str, *, images: Sequence[str | Path] | None = None) -> float:
    """Write the folder: timm's config and weights by timm's names, and the model card.

    ``timm.create_model("local-dir:FOLDER", pretrained=True)`` loads it (timm 1.0.16 or newer), and
    ``hf-hub:OWNER/NAME`` once it is pushed.

    Args:
        network: the network, on the processor.
        folder: path of the folder.
        card: text of README.md.
        images: images on which timm's network is compared; emoji where None.

    Returns:
        The largest difference of a probability from the network's.

    Raises:
        UserError: timm's network has no such head or gives other numbers, or a file cannot be written.
    """
    spec = network.spec
    settings = size_settings(spec.model, spec.size)
    name = spec.model.split(".")[0]
    model: nn.Module = timm.create_model(name, num_classes=len(spec.classes), **settings)
    known: dict[str, Any] = dict(getattr(model, "pretrained_cfg", {}))
    state = _timm_state(network, model, known.get("classifier"))
    model.load_state_dict(state)
    inputs = inputs_of(network, sample_views(network, images), bare=True)
    with torch.inference_mode():
        apart = agree("timm's network", network(inputs).softmax(1), model.eval()(inputs).softmax(1))
    config = {
        "architecture": name,
        "num_classes": len(spec.classes),
        "num_features": network.head.in_features,
        "label_names": list(spec.classes),
        **({"model_args": settings} if settings else {}),
        "pretrained_cfg": {
            "tag": "largedrop",
            "custom_load": False,
            "input_size": [3, spec.size, spec.size],
            "fixed_input_size": bool(known.get("fixed_input_size")),
            "interpolation": "bilinear",
            "crop_pct": 1.0,
            "crop_mode": "squash",
            "mean": list(spec.mean),
            "std": list(spec.std),
            "num_classes": len(spec.classes),
            "pool_size": known.get("pool_size"),
            "first_conv": known.get("first_conv"),
            "classifier": known.get("classifier"),
            "label_names": list(spec.classes),
        },
        "largedrop": {"version": __version__, "temperature": network.temperature, "about": dict(network.about)},
    }
    write_json(folder / "config.json", config)
    write_bytes(folder / "model.safetensors", save(state, metadata={"format": "pt"}))
    write_text(folder / "README.md", card)
    return apart


def _timm_state(network: Network, model: nn.Module, classifier: Any) -> dict[str, Tensor]:
    """The weights by timm's names.

    Raises:
        UserError: the network of timm has other weights, so its head is not the last layer on this representation.
    """
    state = {name: tensor.contiguous() for name, tensor in network.backbone.state_dict().items()}
    expected = model.state_dict()
    if isinstance(classifier, str):
        state |= {f"{classifier}.{part}": tensor for part, tensor in network.head.state_dict().items()}
    if not isinstance(classifier, str) or {name: each.shape for name, each in state.items()} != {
        name: each.shape for name, each in expected.items()
    }:
        raise UserError(
            f"timm's {network.spec.model} has another head than a linear layer on its representation, so it cannot be "
            "written as timm's; export ONNX or torch.export instead"
        )
    return state


def check_push(repository: str) -> None:
    """Check what ``push`` needs, before anything is written.

    Raises:
        UserError: ``repository`` is no ``owner/name``, or there is no token.
    """
    try:
        huggingface_hub.utils.validate_repo_id(repository)  # type: ignore[attr-defined]
    except HFValidationError as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"--push takes OWNER/NAME, not '{visible(repository)}' ({reason})") from error
    if repository.count("/") != 1:
        raise UserError(f"--push takes OWNER/NAME, not '{repository}'")
    if not huggingface_hub.get_token():
        raise UserError("the hub needs a token: log in with 'hf auth login', or set HF_TOKEN")


def push(folder: Path, repository: str, *, public: bool = False) -> str:
    """Upload the folder's files to a model repository, which is made if there is none: private, unless ``public``.

    Args:
        repository: ``owner/name``.

    Returns:
        Address of the repository.

    Raises:
        UserError: see ``check_push``; or the hub refuses.
    """
    check_push(repository)
    api = huggingface_hub.HfApi()
    try:
        made = api.create_repo(repository, private=not public, exist_ok=True)
        api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            allow_patterns=list(HUB_FILES),
            commit_message=f"Weights and model card from largedrop {__version__}",
        )
    except Exception as error:  # whatever the HTTP library of this version of huggingface_hub raises
        reason = next((line for line in str(error).splitlines() if line.strip()), "no reason given")
        raise UserError(f"cannot push to {repository} ({type(error).__name__}: {reason})") from error
    return str(made)
