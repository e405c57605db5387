"""Checkpoints: safetensors files with a JSON header, written whole, and read without unpickling."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..errors import UserError
from ..files import replacing
from ..models.network import Network, Spec
from ..models.pretrained import check_model
from ..models.sizes import build

__all__ = ["load_model", "read_tensors", "save_model", "write_tensors"]

VERSION = 1

TEMPERATURE = "temperature"
"""Key, in what a checkpoint's header says about it, of the temperature that calibrates its probabilities."""


def write_tensors(path: Path, tensors: dict[str, Tensor], kind: str, header: dict[str, Any]) -> None:
    """Write named tensors and a JSON header to ``path`` whole.

    Args:
        tensors: tensors by name, on any device and in any layout; stored contiguous.
        kind: kind of file, checked when it is read.
        header: further fields of the header, as JSON types.

    Raises:
        UserError: the file cannot be written.
    """
    metadata = {"largedrop": json.dumps({"kind": kind, "version": VERSION, **header}, allow_nan=False)}
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    with replacing(path) as temporary:
        try:
            save_file(plain, temporary, metadata=metadata)
        except SafetensorError as error:
            raise UserError(f"cannot write {path}: {error}") from error


def read_tensors(path: Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and header of a file from ``write_tensors``.

    Raises:
        UserError: the file is missing, damaged, of another program or kind, or of a newer version.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no checkpoint {path}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a mapping)
    except (SafetensorError, OSError) as error:
        if _is_pickle(path):
            raise UserError(f"{path} is a pickle, which is not opened, since that can run code") from error
        raise UserError(f"{path} is damaged or not a safetensors file: {error}") from error
    try:
        header = json.loads(metadata["largedrop"])
        found, version = str(header["kind"]), int(header["version"])
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{path} was not written by largedrop: its header does not describe a network") from None
    if version > VERSION:
        raise UserError(f"{path} was written by a newer largedrop (format {version}, this one reads {VERSION})")
    if found != kind:
        raise UserError(f"{path} is a largedrop file of the kind '{found}', not '{kind}'")
    return tensors, header


def _is_pickle(path: Path) -> bool:
    """Whether a file that safetensors cannot read begins as one of ``pickle``, or of ``torch.save`` (a zip file)."""
    with path.open("rb") as file:
        return file.read(2).startswith((b"PK", b"\x80"))


def save_model(path: Path, network: Network, about: dict[str, Any], state: dict[str, Tensor] | None = None) -> None:
    """Write a network for ``load_model``.

    Args:
        about: config, step, accuracies and the like, as JSON types.
        state: weights to write; where None, the network's own.
    """
    write_tensors(path, state or network.state_dict(), "model", {"spec": network.spec.to_json(), "about": about})


def load_model(path: str | Path) -> Network:
    """Load a fine-tuned network: a plain ``nn.Module`` in evaluation mode, with ``.classes`` and ``.transform``.

    ``model(model.transform(image)[None])`` gives the logits, (1, classes); divided by ``.temperature``, where that is
    not None, their softmax is calibrated (on held-out images of the training domains).

    Raises:
        UserError: the file is missing, damaged, of another program or kind, or of a newer version.
    """
    path = Path(path)
    tensors, header = read_tensors(path, "model")
    try:
        spec = Spec.from_json(header["spec"])
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise UserError(f"{path} is damaged: its header lacks a field of the network ({error})") from error
    check_model(spec.model)  # a name such as hf-hub:… would make timm go to the network
    try:
        backbone = build(spec.model, spec.size)
        network = Network(backbone, int(tensors["head.weight"].shape[1]), spec)
        network.load_state_dict(tensors)
    except (RuntimeError, KeyError, IndexError) as error:
        raise UserError(f"the weights in {path} do not fit its network {spec.model}: {misfit(error)}") from error
    about = header.get("about")
    network.about = about if isinstance(about, dict) else {}
    network.temperature = _temperature(network.about.get(TEMPERATURE), path)
    return network.eval()


def _temperature(value: Any, path: Path) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise UserError(f"{path} is damaged: the temperature in its header must be a number above 0, not {value!r}")
    return float(value)


def misfit(error: Exception) -> str:
    """The first error in torch's message about a state dict, in at most 161 characters."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # torch puts a heading above its list of errors.
    first = next((line for line in lines if not line.startswith("Error(s) in loading")), type(error).__name__)
    return first if len(first) <= 160 else f"{first[:160]}…"
