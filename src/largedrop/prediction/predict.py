"""``predict``: the classes of new images, and how sure a model is of them.

Threads decode images and make their views ahead of the network, and only so many that memory stays bounded.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..data.ahead import in_order
from ..data.images import bound_for, decode, pillow_settings
from ..data.views.host import normalise, resize
from ..errors import UserError, check_type, plain
from ..models.fast.folding import Folding, fold_for_evaluation
from ..models.network import Network
from ..reporter import SILENT, Reporter
from ..runtime import keep_freed_memory
from ..training.device import choose_device, choose_precision, exact
from ..training.evaluation import autocast
from .ensemble import Model, not_calibrated, open_networks
from .images import Fetched, Image, find_images, place_of

__all__ = ["BATCH", "Prediction", "predict", "predictions", "probabilities", "ready"]

BATCH = 64
"""Number of images that go through the network together."""

MOST = 10**7
"""Largest number of them."""

Views = dict[int, npt.NDArray[np.uint8]]
"""An image, (size, size, 3), for each size that a network needs."""


@dataclass(frozen=True)
class Prediction:
    """What is predicted of one image.

    Attributes:
        path: path of the image.
        label: name of the most probable class; None where the model is too unsure, or the image cannot be read.
        top: the most probable classes with their probabilities, the most probable first; empty where the image cannot
            be read.
        error: why the image cannot be read, in one line; None where it can.
    """

    path: str
    label: str | None
    top: tuple[tuple[str, float], ...] = ()
    error: str | None = None

    @property
    def unsure(self) -> bool:
        """Whether the image was read and the model was too unsure of its class."""
        return self.label is None and self.error is None


def predict(
    model: Model | Sequence[Model],
    images: str | Path | Iterable[str | Path],
    *,
    top: int = 1,
    unsure_below: float = 0.0,
    calibrated: bool = True,
    batch: int = BATCH,
    device: str = "auto",
    precision: str = "float32",
    columns: Mapping[str, str] | None = None,
    progress: Callable[[float], None] | None = None,
) -> list[Prediction]:
    """Predict the classes of images.

    Args:
        model: a run, its folder or a checkpoint file; of several, the mean of their probabilities.
        images: files, folders (with all images below them) and patterns such as ``photos/*.jpg``; tables (CSV, JSON
            lines, Parquet) of which the column ``path`` is read, relative to the table; tar archives and Hugging Face's
            datasets, as ``open_dataset`` takes them.
        top: number of classes that are given for each image.
        unsure_below: the ``label`` is None where the largest probability is below this.
        calibrated: whether logits are divided by the model's temperature, which was fitted on held-out images of the
            training domains; the members of an ensemble each by their own, before the mean. It changes no model's
            ranking of the classes, and may change an ensemble's.
        batch: number of images that go through the network together; it changes nothing but time and memory.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:1``.
        precision: ``float32``, ``bfloat16``, or ``auto``, which is bfloat16 where the device has it.
        columns: ``{"path": name}`` where a table's column of paths is not named ``path`` or ``file_name``.
        progress: called with the number of images since the last call.

    Returns:
        One prediction for each image, in the order of ``find_images``. Probabilities are the softmax of the logits over
        the temperature. In float32 they are those of ``load_model`` to about 1e-5.

    Raises:
        UserError: an argument is invalid; a model or an image is not there. Images that cannot be decoded raise
            nothing: their predictions have an ``error``.

    Warns:
        UserWarning: a model has no temperature, so its probabilities are not calibrated.
    """
    found_images = find_images([images] if isinstance(images, (str, Path)) else images, columns=columns)
    networks = open_networks(model)
    if calibrated and (note := not_calibrated(networks)):
        warnings.warn(note, stacklevel=2)
    reporter = SILENT if progress is None else _Caller(progress)
    chosen = choose_device(device)
    found = predictions(
        networks,
        found_images,
        top=top,
        unsure_below=unsure_below,
        calibrated=calibrated,
        batch=batch,
        device=chosen,
        precision=precision,
        reporter=reporter,
    )
    return list(found)


def predictions(
    networks: Sequence[Network],
    images: Sequence[Image],
    *,
    top: int,
    unsure_below: float,
    calibrated: bool,
    batch: int,
    device: torch.device,
    precision: str,
    reporter: Reporter = SILENT,
) -> Iterator[Prediction]:
    """As ``predict``, of networks from ``open_networks``, one after the other as they are computed.

    Args:
        networks: the networks, which are moved to ``device``.
        reporter: receives the number of images.

    Raises:
        UserError: ``top``, ``unsure_below`` or ``batch`` is out of range, or a network gives no numbers.
    """
    top, batch, unsure_below = plain(top), plain(batch), plain(unsure_below)
    check_type(top, int, "top must be a whole number")
    check_type(batch, int, "batch must be a whole number")
    check_type(unsure_below, (int, float), "unsure_below must be a number")
    classes = networks[0].classes
    if not 1 <= top <= len(classes):
        raise UserError(f"the model has {len(classes)} classes, so the {top} most probable cannot be given")
    if not 1 <= batch <= MOST:
        raise UserError(f"batch must be a whole number from 1 to {MOST:,}, not {batch}")
    if not 0 <= unsure_below <= 1:
        raise UserError(f"unsure_below must be in [0, 1], not {unsure_below:g}")
    precision = choose_precision(precision, device)
    return _predictions(networks, images, top, unsure_below, calibrated, batch, device, precision, reporter)


def _predictions(
    networks: Sequence[Network],
    images: Sequence[Image],
    top: int,
    unsure_below: float,
    calibrated: bool,
    batch: int,
    device: torch.device,
    precision: str,
    reporter: Reporter,
) -> Iterator[Prediction]:
    if device.type == "cpu":
        keep_freed_memory()
    sizes = sorted({network.spec.size for network in networks})
    names = networks[0].classes
    bits, *others = sorted({network.spec.bits for network in networks})
    if others:
        raise UserError(f"the models were trained on 16-bit images with values of {bits} and of {others[0]} bits")
    with ExitStack() as stack:
        for network in networks:
            stack.enter_context(ready(network, device))
        stack.enter_context(pillow_settings())
        views = stack.enter_context(closing(in_order(partial(_views, sizes, bits), images, ahead=2 * batch)))
        rest = iter(images)
        while chunk := list(islice(rest, batch)):
            decoded = list(islice(views, len(chunk)))
            read = [each for each in decoded if not isinstance(each, str)]
            found: Iterator[npt.NDArray[np.float64]] = iter(())
            if read:
                found = iter(probabilities(networks, _stacked(read, sizes), device, precision, calibrated))
            for path, each in zip(map(str, chunk), decoded, strict=True):
                if isinstance(each, str):
                    yield Prediction(path, None, error=each)
                    continue
                values = next(found)
                if not np.isfinite(values).all():
                    raise UserError(f"the model gives no probabilities for {path}: its weights or outputs overflow")
                order = np.argsort(-values, kind="stable")[:top]  # in a tie, the lowest class
                ranked = tuple((names[index], float(values[index])) for index in order)
                yield Prediction(path, None if ranked[0][1] < unsure_below else ranked[0][0], ranked)
            reporter.advance(len(chunk))


def ready(network: Network, device: torch.device) -> Folding:
    """Put a network on its device, in the form in which it predicts fastest; the end of the block undoes the form."""
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    network.eval()
    return fold_for_evaluation(network)


def probabilities(
    networks: Sequence[Network],
    views: Mapping[int, Tensor],
    device: torch.device,
    precision: str,
    calibrated: bool = True,
) -> npt.NDArray[np.float64]:
    """The mean over the networks of the softmax of their logits over their temperature, (n, classes).

    Args:
        networks: the networks, on ``device`` and in evaluation mode.
        views: the images by the side of the views, uint8 (n, 3, size, size).
        calibrated: whether the temperatures are used where there are some.
    """
    total = torch.zeros((), dtype=torch.float64)
    with torch.inference_mode(), autocast(precision, device), exact():
        for network in networks:
            spec = network.spec
            logits = network(normalise(views[spec.size].to(device), spec.mean, spec.std))
            temperature = (network.temperature or 1.0) if calibrated else 1.0
            total = total + torch.softmax(logits.cpu().to(torch.float64) / temperature, dim=1)
    return (total / len(networks)).numpy()


def _views(sizes: Sequence[int], bits: int, image: Image) -> Views | str:
    """An image at each size, or the reason why it cannot be read."""
    place = place_of(image)
    if isinstance(image, Fetched) and not image.path.is_file():
        return "there is nothing at this address, or it cannot be fetched"
    decoded: dict[int, npt.NDArray[np.uint8]] = {}
    views = {}
    try:
        for size in sizes:
            bound = bound_for([size])
            if bound not in decoded:
                decoded[bound] = decode(place, bound, **({"bits": bits} if bits < 16 else {}))
            views[size] = resize(decoded[bound], size).permute(1, 2, 0).numpy()
    except UserError as error:
        return str(error).removeprefix(f"{place}: ")
    return views


def _stacked(images: Sequence[Views], sizes: Sequence[int]) -> dict[int, Tensor]:
    # Copied by numpy: torch would wake its threads for it.
    return {size: torch.from_numpy(np.stack([image[size] for image in images])).permute(0, 3, 1, 2) for size in sizes}


class _Caller(Reporter):
    """Calls a function with the work."""

    def __init__(self, progress: Callable[[float], None]) -> None:
        self.progress = progress

    def advance(self, work: float) -> None:
        self.progress(work)
