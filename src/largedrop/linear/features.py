"""Features of frozen networks on disk: computed once for each network, dataset, size and view, then memory-mapped.

<cache>/features/<key>/features.bin   float16 (images, features), one image after the other
                       entry.json     the key, the taps, and checksums
                 .pieces-<key>/       the finished pieces of features that are being computed, and who is at it
"""

from __future__ import annotations

import hashlib
import json
import shutil
import zlib
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..config import Config
from ..data.dataset import Dataset
from ..data.entries import cache_errors, cache_folder, install, look_again, pieces, sweep
from ..data.views.batches import Views
from ..errors import BusyError, UserError
from ..files import read_json, replacing, write_stored
from ..lease import Lease, holding, is_lease
from ..models.fast.folding import fold_for_evaluation
from ..models.pretrained import find_weights
from ..models.taps import REPRESENTATION, Taps, find_taps, tapped
from ..models.tracing import evaluating
from ..reporter import SILENT, Reporter
from ..runs.checkpoint import read_tensors, write_tensors
from ..training.evaluation import BATCH, outputs
from ..training.setup import create_network

__all__ = ["FeatureStore", "Features", "split_model_name"]

_FORMAT = 1
"""Version of the files, the views and the taps; to be raised when any of them changes."""

_PIECE = 16 * BATCH
"""Number of images in a piece, at most one of which is lost when the computation is interrupted."""

_WHAT = "the features"
"""Name of the entries in messages about the cache."""

Half = npt.NDArray[np.float16]


@dataclass(frozen=True, eq=False)
class Features:
    """The features of all images of a dataset in one view.

    Attributes:
        values: features, (images, sum(taps.widths)), memory-mapped; changes are not written to disk.
        taps: taps of the columns; the last tap is the representation.
    """

    values: Half
    taps: Taps

    @property
    def representation(self) -> Half:
        """Φ(x), the input of a linear probe: the columns of the last tap, (images, width)."""
        return self.values[:, self.taps.slices[-1]]


def split_model_name(model: str) -> tuple[str, ...]:
    """The networks of ``a+b``, whose features are concatenated (Zhang & Bottou, 2023); one for a plain name.

    >>> split_model_name("tf_efficientnet_lite0+tf_efficientnet_lite1")
    ('tf_efficientnet_lite0', 'tf_efficientnet_lite1')

    Raises:
        UserError: a part is empty, or the same network is named twice.
    """
    parts = tuple(part.strip() for part in model.split("+"))
    for part in parts:
        if not part:
            raise UserError(f"model '{model}': a name is missing; several networks are written as 'a+b'")
        if parts.count(part) > 1:
            raise UserError(f"model '{model}' names '{part}' twice, which would repeat its features")
    return parts


class FeatureStore:
    """Features of frozen pretrained networks, kept on disk, for linear methods.

    The key of an entry has all that it depends on: the model, its weights' digest, the images' fingerprint, their size,
    the precision, the view and the number of taps. Notes tell when there are features of other weights or images, when
    a file is damaged (which is then computed again), and when another process computes the same features. Interrupted
    computations are resumed after the last complete piece of 1,024 images.

    float16 represents values up to 65,504, to 3 digits. Pretrained networks' features are below some hundreds; values
    out of range are refused.

    Args:
        views: views of the dataset, on the device to compute on.
        folder: folder of the cache; ``data.entries.cache_folder()`` where None.
        reporter: receives the number of images that a network has processed, and notes.
    """

    def __init__(self, data: Dataset, views: Views, folder: Path | None = None, reporter: Reporter = SILENT) -> None:
        self.data, self.views = data, views
        self.folder = (Path(folder).absolute() if folder is not None else cache_folder()) / "features"
        self.reporter = reporter
        self._open: dict[str, Features] = {}
        self._said: set[str] = set()

    def features(self, config: Config, view: int = 0, count: int = 3) -> Features:
        """The features of every image, from disk or computed.

        For several networks (``a+b``), each tap is the concatenation of the networks' taps, counted from the last, so
        that the last tap has all representations.

        Args:
            config: config, of which ``model``, ``weights``, ``weights_digest`` (joined by ``+`` for several networks;
                computed where empty), ``size``, ``precision`` and, for random weights, ``seed`` are used.
            view: 0 for the evaluation view, k ≥ 1 for the k-th training view, as in ``training.evaluation.outputs``.
            count: largest number of taps.

        Raises:
            UserError: the network is not available or has no linear model, features are not finite or too large, or
                the cache cannot be written.
        """
        parts = [self._single(part, view, count) for part in self._configs(config)]
        return parts[0][1] if len(parts) == 1 else self._joined(parts)

    def _configs(self, config: Config) -> list[Config]:
        models = split_model_name(config.model)
        if len(models) > 1 and config.weights not in ("pretrained", "random"):
            raise UserError(
                f"--weights {config.weights}: one file cannot contain {len(models)} networks, {config.model}"
            )
        digests = config.weights_digest.split("+") if config.weights_digest else []
        digests = digests or [find_weights(model, config.weights).digest for model in models]
        if len(digests) != len(models):
            raise UserError(f"{config.model} are {len(models)} networks, but the config has {len(digests)} weights")
        return [
            replace(config, model=model, weights_digest=digest, block_dropout=0.0)
            for model, digest in zip(models, digests, strict=True)
        ]

    def _single(self, config: Config, view: int, count: int) -> tuple[dict[str, Any], Features]:
        own = config.feature_key
        own["weights"] = own.pop("weights_digest")
        key = {"format": _FORMAT, "images": self.data.fingerprint, "view": view, "taps": count, **own}
        return key, self._entry(key, lambda folder: self._compute(config, view, count, folder))

    def _joined(self, parts: list[tuple[dict[str, Any], Features]]) -> Features:
        found = [features for _, features in parts]
        columns = _side_by_side([features.taps for features in found])
        names, widths = [], []
        for column in columns:
            taps = [(parts[part][0]["model"], found[part].taps, tap) for part, tap in column]
            last = all(tap == len(own) - 1 for _, own, tap in taps)
            names.append(REPRESENTATION if last else "+".join(f"{model}/{own.names[tap]}" for model, own, tap in taps))
            widths.append(sum(own.widths[tap] for _, own, tap in taps))

        def write(folder: Path) -> Taps:
            for start in range(0, len(self.data), _PIECE):
                rows = slice(start, start + _PIECE)
                values = [found[part].values[rows, found[part].taps.slices[tap]] for c in columns for part, tap in c]
                _write_piece(_piece_path(folder, start), np.concatenate(values, axis=1))
            return Taps(tuple(names), tuple(widths))

        return self._entry({"format": _FORMAT, "joined": [key for key, _ in parts]}, write)

    def _compute(self, config: Config, view: int, count: int, folder: Path) -> Taps:
        """Write the missing pieces into ``folder``."""
        device, n = self.views.device, len(self.data)
        network = create_network(config, self.data.classes).to(device)
        example = torch.zeros((1, 3, config.size, config.size), device=device)
        taps = find_taps(network.backbone, example, count)

        def read(images: Tensor) -> Tensor:
            return torch.cat(tapped(network.backbone, images, taps), dim=1)

        # In evaluation mode every batch norm can be folded, frozen or not.
        with evaluating(network), fold_for_evaluation(network):
            for first in range(0, n, _PIECE):
                chosen = np.arange(first, min(first + _PIECE, n), dtype=np.int64)
                path = _piece_path(folder, first)
                if _piece(path, len(chosen), sum(taps.widths)) is not None:
                    self.reporter.skip(len(chosen))
                    continue
                found = outputs(network, read, self.views, chosen, config.precision, self.reporter, view, first)
                _write_piece(path, _halved(found.numpy(), taps, config.model))
        return taps

    def _entry(self, key: dict[str, Any], fill: Callable[[Path], Taps]) -> Features:
        """The entry of ``key``, from memory, from disk, or from the pieces that ``fill`` writes into a folder."""
        name = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:40]
        path = self.folder / name
        found = self._open.get(name) or self._known(path, key)
        if found is None:
            with ExitStack() as held:
                with cache_errors(_WHAT, self.folder):
                    self.folder.mkdir(parents=True, exist_ok=True)
                    sweep(self.folder)  # also a link of this name
                    lease = held.enter_context(holding(pieces(path), self._wait))
                    look_again(self.folder)
                # Another process may have computed it meanwhile.
                found = self._known(path, key) or self._build(path, key, fill, lease)
        self._open[name] = found
        return found

    def _known(self, path: Path, key: dict[str, Any]) -> Features | None:
        try:
            return _load(path, len(self.data), key) if path.exists() else None
        except ValueError as error:
            if str(error) not in self._said:
                self.reporter.note(f"{error}; they are computed again")
            self._said.add(str(error))
            return None

    def _wait(self, _: BusyError) -> None:
        self.reporter.note("another process is computing these features; waiting for it")

    def _build(self, path: Path, key: dict[str, Any], fill: Callable[[Path], Taps], lease: Lease) -> Features:
        self._tell_outdated(key)
        work = lease.path.parent
        taps = fill(work)
        lease.check()
        with cache_errors(_WHAT, self.folder):
            whole = work / "entry"
            shutil.rmtree(whole, ignore_errors=True)  # of a killed process
            whole.mkdir()
            self._assemble(work, whole, key, taps)
            found = install(whole, path, partial(_load, images=len(self.data), key=key))
            for other in work.iterdir():
                if not is_lease(other):
                    shutil.rmtree(other) if other.is_dir() else other.unlink()
            return found

    def _assemble(self, work: Path, whole: Path, key: dict[str, Any], taps: Taps) -> None:
        """Make an entry in ``whole`` from the pieces in ``work``."""
        check = 0
        with replacing(whole / "features.bin") as temporary, open(temporary, "wb") as file:
            for start in range(0, len(self.data), _PIECE):
                content = read_tensors(_piece_path(work, start), "features")[0]["values"].numpy().tobytes()
                check = zlib.crc32(content, check)
                file.write(content)
        header = {"key": key, "data": self.data.name, "check": check, "rows": len(self.data)}
        write_stored(whole / "entry.json", {**header, **asdict(taps)})

    def _tell_outdated(self, key: dict[str, Any]) -> None:
        """Note that there are features whose key differs from ``key`` in the weights or the images only."""
        for path in self.folder.glob("[!.]*/entry.json"):
            try:
                header = read_json(path)
                old, name = dict(header["key"]), header["data"]
            except (UserError, KeyError, TypeError, ValueError):
                continue  # damaged; noted when it is loaded
            changed = [part for part in key if old.get(part) != key[part]]
            if name == self.data.name and "model" in key and changed and set(changed) <= {"weights", "images"}:
                self.reporter.note(
                    f"the stored features of {key['model']} for {name} are of other {' and '.join(changed)}; "
                    "computing them again"
                )
                return


def _side_by_side(taps: list[Taps]) -> list[list[tuple[int, int]]]:
    """For each tap of the concatenated networks, in order, its parts (network, tap)."""
    backwards = zip_longest(*([(part, tap) for tap in reversed(range(len(own)))] for part, own in enumerate(taps)))
    return [[pair for pair in column if pair is not None] for column in backwards][::-1]


def _halved(values: npt.NDArray[np.float32], taps: Taps, model: str) -> Half:
    for name, columns in zip(taps.names, taps.slices, strict=True):
        if not np.isfinite(values[:, columns]).all():
            raise UserError(f"the features of {model} at {name} contain NaN or infinity; try --precision float32")
        largest = float(np.abs(values[:, columns]).max())
        if largest > float(np.finfo(np.float16).max):
            raise UserError(f"the features of {model} at {name} must be at most 65504 (float16), not {largest:.3g}")
    return values.astype(np.float16)


def _piece_path(folder: Path, start: int) -> Path:
    return folder / f"{start:09d}.safetensors"


def _part(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"


def _write_piece(path: Path, values: Half) -> None:
    with cache_errors(_WHAT, path.parent.parent):
        write_tensors(path, {"values": torch.from_numpy(values)}, "features", {"part": _part(path)})


def _piece(path: Path, rows: int, width: int) -> Half | None:
    """A piece of an interrupted computation; None where it is missing, damaged or has another shape."""
    try:
        tensors, header = read_tensors(path, "features")
        values: Half = tensors["values"].numpy()
        if header["part"] != _part(path):
            return None
    except (UserError, KeyError):
        return None
    return values if values.shape == (rows, width) and values.dtype == np.float16 else None


def _load(path: Path, images: int, key: Mapping[str, Any]) -> Features:
    """Open an entry.

    Raises:
        ValueError: the entry is damaged.
    """
    try:
        header = read_json(path / "entry.json")
        taps = Taps(tuple(map(str, header["names"])), tuple(map(int, header["widths"])), str(header["last"]))
        taps = replace(taps, apart=bool(header.get("apart", False)))
        size = (path / "features.bin").stat().st_size
        if (
            header["key"] != json.loads(json.dumps(key))
            or header["rows"] != images
            or size != 2 * images * sum(taps.widths)
        ):
            raise ValueError("truncated")
        values = np.memmap(path / "features.bin", np.float16, "c", shape=(images, sum(taps.widths)))
        if zlib.crc32(values.data) != header["check"]:
            raise ValueError("changed")
        return Features(values, taps)
    except (OSError, UserError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"the stored features in {path} are damaged") from error
