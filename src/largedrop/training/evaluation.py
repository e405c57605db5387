"""A network's outputs on images: logits, and the representation that they are read from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..data.augment import training_view
from ..data.dataset import Dataset, IntArray
from ..data.views import evaluation_view, normalise
from ..models.network import Network

__all__ = ["accuracy", "autocast", "logits", "representations"]

BATCH = 64
Progress = Callable[[int], None]
"""Called with the number of images that were done since the last call."""


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """Mixed precision where ``precision`` is ``bfloat16``, nothing where it is ``float32``."""
    return nullcontext() if precision == "float32" else torch.autocast(device.type, torch.bfloat16)


def logits(
    network: Network,
    data: Dataset,
    indices: IntArray,
    precision: str,
    progress: Progress | None = None,
    view: int = 0,
) -> npt.NDArray[np.float16]:
    """The network's outputs on some images, (len(indices), classes).

    float16, as they are stored: accuracies are computed from what is stored, so that a report and a run never disagree.
    ``view`` 0 is the evaluation view; any other number is a training view, the same for the same number.
    """
    return _outputs(network, network.forward, data, indices, precision, progress, view).to(torch.float16).numpy()


def representations(
    network: Network,
    data: Dataset,
    indices: IntArray,
    precision: str,
    progress: Progress | None = None,
    view: int = 0,
) -> Tensor:
    """Φ(x) of some images, float32 (len(indices), units), on the processor.

    ``view`` 0 is the evaluation view; any other number is a training view, the same for the same number.
    """
    return _outputs(network, network.represent, data, indices, precision, progress, view)


def accuracy(outputs: npt.NDArray[np.floating], labels: IntArray) -> float:
    """Share of the images whose largest logit is their label's; the lowest class wins a tie.

    Args:
        outputs: (n, classes).
        labels: (n,).
    """
    return float(np.mean(outputs.argmax(axis=1) == labels))


def _outputs(
    network: Network,
    function: Callable[[Tensor], Tensor],
    data: Dataset,
    indices: IntArray,
    precision: str,
    progress: Progress | None,
    view: int = 0,
) -> Tensor:
    device = network.head.weight.device
    spec = network.spec
    parts = []
    with _evaluating(network), torch.inference_mode(), autocast(precision, device):
        for start in range(0, len(indices), BATCH):
            chosen = indices[start : start + BATCH]
            images = [data.images[int(index)] for index in chosen]
            pixels = training_view(images, spec.size, view, start) if view else evaluation_view(images, spec.size)
            batch = normalise(pixels.to(device), spec.mean, spec.std)
            parts.append(function(batch).to(torch.float32).cpu())
            if progress is not None:
                progress(len(chosen))
    return torch.cat(parts)


@contextmanager
def _evaluating(network: Network) -> Iterator[None]:
    mode = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(mode)
