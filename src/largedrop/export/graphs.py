"""A network as a graph in one file: ONNX, compared by ONNX Runtime, and torch.export."""

from __future__ import annotations

import contextlib
import io
import json
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from ..errors import UserError
from ..files import write_bytes
from ..models.network import Network
from .deployed import Deployed, agree, described, inputs_of, sample_views

__all__ = ["write_onnx", "write_program"]

_OLDEST_TORCH = (2, 7)
"""The exporters of 2.5 and 2.6 fail, with onnxscript of their time and with later ones."""

_MOST_BYTES = 2_000_000_000
"""Weights that one ONNX file can hold."""


def write_onnx(
    network: Network, path: Path, *, bare: bool = False, images: Sequence[str | Path] | None = None
) -> float:
    """Write a network as ONNX, float32, for batches of any number of images; it is compared by ONNX Runtime first.

    Args:
        network: the network, on the processor.
        path: path of the file.
        bare: whether inputs are already normalised.
        images: images to compare on; emoji where None.

    Returns:
        The largest difference of a probability from the network's.

    Raises:
        UserError: a package is missing, the network cannot be written as ONNX, or ONNX Runtime gives other numbers.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError('ONNX needs onnx, onnxscript and onnxruntime: pip install "largedrop[onnx]"') from error
    if tuple(map(int, torch.__version__.split(".")[:2])) < _OLDEST_TORCH:
        raise UserError(f"ONNX is written by torch 2.7 or later, and this is {torch.__version__}")
    if sum(each.numel() * each.element_size() for each in network.state_dict().values()) > _MOST_BYTES:
        raise UserError(f"{network.spec.model} is too large for an ONNX file, which holds 2 GB")
    views = sample_views(network, images)
    module, inputs = Deployed(network, bare), inputs_of(network, views, bare)
    options: dict[str, Any] = {
        "input_names": ["images"],
        "output_names": ["logits", "probabilities"],
        "dynamic_shapes": {"images": {0: torch.export.Dim("batch")}},
        "dynamo": True,
        "verbose": False,
    }
    with _quiet(), _told(network, "written as ONNX"):
        program: Any = torch.onnx.export(module, (_example(inputs),), **options)
        program.model.metadata_props.update(described(network, bare))
        buffer = io.BytesIO()
        buffer.write(program.model_proto.SerializeToString())
    session = onnxruntime.InferenceSession(buffer.getvalue(), providers=["CPUExecutionProvider"])
    with torch.inference_mode():
        ours = module(inputs)[1].numpy()
    theirs = session.run(["probabilities"], {"images": inputs.numpy()})[0]
    apart = agree("ONNX Runtime", ours, theirs)
    write_bytes(path, buffer.getvalue())
    return apart


def write_program(
    network: Network, path: Path, *, bare: bool = False, images: Sequence[str | Path] | None = None
) -> float:
    """Write a network by ``torch.export``, for ``torch.export.load``; arguments and result as in ``write_onnx``.

    Class names and the rest are in its extra file ``largedrop.json``.

    Raises:
        UserError: the network cannot be exported, or the file gives other numbers.
    """
    views = sample_views(network, images)
    module, inputs = Deployed(network, bare), inputs_of(network, views, bare)
    buffer = io.BytesIO()
    shapes = {"images": {0: torch.export.Dim("batch")}}
    with _quiet(), _told(network, "exported"):
        program = torch.export.export(module, (_example(inputs),), dynamic_shapes=shapes)
        told = json.dumps(described(network, bare), ensure_ascii=False)
        torch.export.save(program, buffer, extra_files={"largedrop.json": told})
        content = buffer.getvalue()
        again: Any = torch.export.load(io.BytesIO(content)).module()
    with torch.inference_mode():
        apart = agree("the exported program", module(inputs)[1], again(inputs)[1])
    write_bytes(path, content)
    return apart


def _example(inputs: torch.Tensor) -> torch.Tensor:
    """Two images: of one, exporters would take the number for a constant."""
    return inputs[:1].expand(2, *inputs.shape[1:]).contiguous()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporters' warnings about themselves."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def _told(network: Network, done: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # exporters raise anything at an operator that they lack
        first = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__).strip()
        raise UserError(f"{network.spec.model} cannot be {done}: {first[:200]}") from error
