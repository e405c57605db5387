"""Checkpoints: safetensors files with a JSON header and a checksum, written whole, and read without unpickling."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..errors import DamagedError, UserError, check_type
from ..files import NO_FILE, UNKNOWN_CRC, parse_json, read_json, replacing, tensors_crc
from ..models.network import Network, Spec
from ..models.pretrained import check_model
from ..models.sizes import build, representation_units, shapes_of
from .run import BEST_FILE, Run

__all__ = [
    "CHECKPOINT",
    "TEMPERATURE",
    "StoredTensors",
    "check_handed_over",
    "kept_by",
    "load_model",
    "open_tensors",
    "read_tensors",
    "save_model",
    "write_tensors",
]

VERSION = 2
"""Version of the files: from 2 on they have a checksum."""

TEMPERATURE = "temperature"
"""Key, in what a checkpoint's header says about it, of the temperature that calibrates its probabilities."""

CHECKPOINT = "checkpoint"
"""Key, there, of the name that a run gave it, which is its file's without the suffix."""

TYPES = {
    **{torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.bool: "BOOL"},
    **{torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8"},
}
"""Safetensors' names of types."""


def write_tensors(path: Path, tensors: Mapping[str, Tensor], kind: str, header: Mapping[str, Any]) -> None:
    """Write named tensors and a JSON header to ``path`` whole, with a checksum (CRC-32) of the whole file.

    Args:
        tensors: tensors by name, on any device and in any layout; stored contiguous.
        kind: kind of file, checked when it is read.
        header: further fields of the header, as JSON types; ``run`` is the digest of the config of the file's run.

    Raises:
        UserError: the file cannot be written.
    """
    about = {"kind": kind, "version": VERSION, "crc32": UNKNOWN_CRC, **header}
    metadata = {"largedrop": json.dumps(about, allow_nan=False)}
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    with replacing(path) as temporary:
        try:
            save_file(plain, temporary, metadata=metadata)
        except SafetensorError as error:
            raise UserError(f"cannot write {path}: {error}") from error
        found, start = tensors_crc(temporary)
        with open(temporary, "rb+") as file:
            file.seek(start)
            file.write(found.encode())


@dataclass(frozen=True)
class StoredTensors:
    """A file from ``write_tensors``, whose bytes are those that were written; its tensors are not in memory yet.

    Attributes:
        header: the JSON header.
        shapes: type, by safetensors' name, and shape of each tensor.
    """

    path: Path
    header: dict[str, Any]
    shapes: dict[str, tuple[str, tuple[int, ...]]]

    @property
    def run(self) -> str:
        """Digest of the config of the file's run; empty where the file is of none, or of an older version."""
        return str(self.header.get("run") or self._about.get("run") or "")

    @property
    def checkpoint(self) -> str:
        """Name that its run gave a checkpoint; empty as above."""
        return str(self._about.get(CHECKPOINT) or "")

    def check_name(self) -> None:
        """Raise DamagedError where it is another checkpoint of its run than its name says."""
        if self.checkpoint not in ("", self.path.stem):
            raise DamagedError(f"{self.path} is the checkpoint '{self.checkpoint}' of its run, not '{self.path.stem}'")

    @property
    def step(self) -> Any:
        """Step that a checkpoint says it is of; None where it says none."""
        return self._about.get("step")

    @property
    def _about(self) -> dict[str, Any]:
        about = self.header.get("about")
        return about if isinstance(about, dict) else {}

    def load(self) -> dict[str, Tensor]:
        """The tensors by name, on the processor."""
        with safe_open(self.path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in self.shapes}


def open_tensors(path: Path, kind: str, run: str = "", step: int | None = None) -> StoredTensors:
    """Open and check a file from ``write_tensors``; files of before there were checksums are opened without.

    Args:
        run: digest of the config of the run that it must be of, as which of its checkpoints the name says; of any
            run, and of any name, where empty.
        step: step that a checkpoint must be of (``Run.step_of``); any where None.

    Raises:
        DamagedError: the file is missing, damaged, or of another program, kind, run, checkpoint or step.
        UserError: it cannot be read, or is of a newer version.
    """
    path = Path(path)
    try:
        crc = tensors_crc(path)[0]  # first: what cannot be read is then not taken for damaged
    except IsADirectoryError:
        advice = "" if run else "; Run.open(a run's folder).model names one"
        raise DamagedError(f"{path} is a folder, not a checkpoint{advice}") from None
    except (FileNotFoundError, NotADirectoryError):
        raise DamagedError(f"no checkpoint {path}") from None
    except OSError as error:
        kind_of_error = DamagedError if error.errno in NO_FILE else UserError
        raise kind_of_error(f"{path} cannot be read: {error.strerror or error}") from error
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            parts = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  (not a mapping)
            shapes = {name: (str(part.get_dtype()), tuple(part.get_shape())) for name, part in parts.items()}
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    except SafetensorError as error:
        if _is_pickle(path):
            raise DamagedError(f"{path} is a pickle, which is not opened, since that can run code") from error
        raise DamagedError(f"{path} is damaged or not a safetensors file: {error}") from error
    try:
        header = parse_json(metadata["largedrop"].encode(), "its header")
        found, version = str(header["kind"]), int(header["version"])
    except (UserError, KeyError, TypeError, ValueError):
        raise DamagedError(f"{path} was not written by largedrop: its header does not describe a network") from None
    if version > VERSION:
        raise UserError(f"{path} was written by a newer largedrop (format {version}, this one reads {VERSION})")
    if ("crc32" in header or version > 1) and crc != header.get("crc32"):
        raise DamagedError(f"{path} is damaged: its checksum is not that of its content")
    if found != kind:
        raise DamagedError(f"{path} is a largedrop file of the kind '{found}', not '{kind}'")
    stored = StoredTensors(path, header, shapes)
    if run and stored.run not in ("", run):
        raise DamagedError(f"{path} is of another run: of the config {stored.run}, not {run}")
    if run:
        stored.check_name()
    if step is not None and stored.step not in (None, step):
        raise DamagedError(f"{path} is of step {stored.step} of its run, not of {step}")
    return stored


@contextmanager
def kept_by(folder: Path) -> Iterator[None]:
    """Add what to do to the error that a file of the finished run in ``folder`` is damaged."""
    try:
        yield
    except DamagedError as error:
        raise DamagedError(f"{error}; remove {folder} and train it again") from error


def check_handed_over(run: Run) -> None:
    """Check that the file of the model that a finished run hands over is there and what it was.

    Raises:
        UserError: it is not.
    """
    path = run.existing_model()
    with kept_by(run.folder):
        open_tensors(path, "model" if run.config.fit == "all" else "linear", run.digest, run.step_of(path))


def read_tensors(
    path: Path, kind: str, run: str = "", step: int | None = None
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and header of a file; arguments and errors as in ``open_tensors``."""
    stored = open_tensors(path, kind, run, step)
    return stored.load(), stored.header


def _is_pickle(path: Path) -> bool:
    """Whether a file that safetensors cannot read begins as one of ``pickle``, or of ``torch.save`` (a zip file).

    The length of safetensors' header may have the same first bytes, and after it comes a brace.
    """
    with path.open("rb") as file:
        start = file.read(9)
    return start.startswith(b"PK") or (start[:1] == b"\x80" and start[1:2] in b"\2\3\4\5" and start[8:] != b"{")


def save_model(path: Path, network: Network, about: dict[str, Any], state: dict[str, Tensor] | None = None) -> None:
    """Write a network for ``load_model``.

    Args:
        about: config, step, accuracies and the like, as JSON types.
        state: weights to write; where None, the network's own.
    """
    versions = {"torch": torch.__version__, "timm": timm.__version__}
    header = {"spec": network.spec.to_json(), "versions": versions, "about": about}
    write_tensors(path, state or network.state_dict(), "model", header)


def load_model(path: str | Path, *, run: str = "", step: int | None = None) -> Network:
    """Load a fine-tuned network: a plain ``nn.Module`` in evaluation mode, with ``.classes`` and ``.transform``.

    ``model(model.transform(image)[None])`` gives the logits, (1, classes); divided by ``.temperature``, where that is
    not None, their softmax is calibrated (on held-out images of the training domains).

    The file's bytes, and the names, types and shapes of its tensors, are checked before memory is taken for them.

    Args:
        run: digest of the config of the run that it must be of (``Config.digest``); of any where empty.
        step: step that it must be of (``Run.step_of``); any where None.

    Raises:
        UserError: the file is missing, damaged, of another program, kind, run or step, or of a newer version; or a
            finished run has another of its checkpoints in place of the model that it hands over.
    """
    check_type(path, (str, Path), "a model is loaded from the path of a checkpoint")
    path = Path(path)
    with kept_by(path.parent) if run else nullcontext():
        stored = open_tensors(path, "model", run, step)
    if not run and stored.run and _is_handed_over(path):
        with kept_by(path.parent):
            stored.check_name()
    try:
        spec = Spec.from_json(stored.header["spec"])
    except KeyError as error:
        raise UserError(f"{path} is damaged: its header lacks a field of the network ({error})") from error
    except (TypeError, ValueError) as error:
        raise UserError(f"{path} is damaged: its header does not describe a network ({error})") from error
    check_model(spec.model)  # a name such as hf-hub:… would make timm go to the network
    about = stored.header.get("about")
    temperature = _temperature(about.get(TEMPERATURE) if isinstance(about, dict) else None, stored.path)
    try:
        if wrong := _misfit(stored.shapes, shapes_of(lambda: _built(spec))):
            raise UserError(f"the weights in {path} do not fit its network {spec.model}: {wrong}")
        network = _built(spec)
        network.load_state_dict(stored.load())
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"the weights in {path} do not fit its network {spec.model}: {misfit(error)}") from error
    network.about = about if isinstance(about, dict) else {}
    network.temperature = temperature
    return network.eval()


def _is_handed_over(path: Path) -> bool:
    """Whether a checkpoint lies where a finished run has the model that it hands over (``Run.model``)."""
    with suppress(UserError):
        return bool(read_json(path.parent / "result.json").get("model", BEST_FILE) == path.name)
    return False


def _built(spec: Spec) -> Network:
    backbone = build(spec.model, spec.size)
    return Network(backbone, representation_units(backbone), spec)


def _misfit(stored: Mapping[str, tuple[str, tuple[int, ...]]], expected: Mapping[str, Tensor]) -> str:
    """The first thing in which stored tensors are not those of a network; empty where there is none."""
    for name, tensor in expected.items():
        if name not in stored:
            return f"there is no {name}"
        wanted, found = (TYPES[tensor.dtype], tuple(tensor.shape)), stored[name]
        if found != wanted:
            return f"{name} is {found[0]} {list(found[1])}, not {wanted[0]} {list(wanted[1])}"
    return next((f"the network has no {name}" for name in stored if name not in expected), "")


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
