"""A scikit-learn classifier of images, over arrays of their paths."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt

from .api import finetune
from .config import DEFAULT_RECIPE
from .data.dataset import Dataset
from .data.listing import make_listing, open_listing
from .data.table import Columns, list_rows
from .errors import UserError, visible
from .models.network import Network
from .prediction.predict import BATCH, predictions
from .runs.checkpoint import load_model
from .training.device import choose_device

try:
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.utils import check_consistent_length, check_random_state, column_or_1d
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import check_is_fitted
except ImportError as missing:
    raise UserError('ImageClassifier needs scikit-learn 1.6 or later: pip install "largedrop[sklearn]"') from missing

__all__ = ["ImageClassifier"]

_OWN = ("model", "weights", "dropout", "masks", "lr", "steps", "epochs", "batch", "size")
"""Parameters that are settings of ``finetune``; None for the recipe's."""


class InputError(UserError, ValueError):
    """What scikit-learn expects a ``ValueError`` for."""


class ImageClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """``finetune`` as a scikit-learn classifier: ``X`` is an array of paths of images, (n,) or (n, 1).

    It is fitted as ``finetune`` fine-tunes, on all images that it is given but those that are held out to choose the
    checkpoint and to calibrate it; probabilities are those of ``predict``. ``cross_val_score`` with
    ``LeaveOneGroupOut`` over domains scores on domains that are never seen. Decoded images are cached as
    ``open_dataset`` does. Pickles hold the network's weights and refer to no folder.

    Args:
        model: name of the network, as in timm.
        weights: ``pretrained``, ``random``, or a safetensors file.
        recipe: ``robust``, ``short`` or ``paper``: where the settings that are None are from.
        dropout: dropout rate λ in [0, 1).
        masks: dropout masks for each image and step.
        lr: learning rate.
        steps: optimiser steps.
        epochs: passes over the training images, instead of ``steps``.
        batch: images of each domain in a batch.
        size: side of the network's inputs, in pixels.
        settings: further fields of ``Config`` by name, such as ``{"weight_decay": 0.1}``.
        random_state: seed of the held-out images, the head, the views and the masks; or a generator that draws it.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:1``.

    Attributes:
        classes_: the labels, sorted, (classes,).
        network_: the fine-tuned network, as from ``load_model``.
        checkpoint_: the bytes of its checkpoint: in a file, ``load_model`` and ``largedrop predict`` take it.
        result_: accuracies of the run on the held-out images, with its log; ``Run.result``.
    """

    def __init__(
        self,
        model: str = "tf_efficientnet_lite0",
        *,
        weights: str = "pretrained",
        recipe: str = DEFAULT_RECIPE,
        dropout: float | None = None,
        masks: int | None = None,
        lr: float | None = None,
        steps: int | None = None,
        epochs: float | None = None,
        batch: int | None = None,
        size: int | None = None,
        settings: Mapping[str, Any] | None = None,
        random_state: int | np.random.RandomState | None = 0,
        device: str = "auto",
    ) -> None:
        self.model = model
        self.weights = weights
        self.recipe = recipe
        self.dropout = dropout
        self.masks = masks
        self.lr = lr
        self.steps = steps
        self.epochs = epochs
        self.batch = batch
        self.size = size
        self.settings = settings
        self.random_state = random_state
        self.device = device

    def fit(self, X: Any, y: Any, domains: Any = None, groups: Any = None) -> ImageClassifier:  # noqa: N803
        """Fine-tune on images.

        Args:
            X: paths of images, (n,) or (n, 1); relative ones start at the current folder.
            y: their labels, (n,).
            domains: the domain of each, such as its camera or its hospital, (n,); a batch has as many images of each.
                None for one domain.
            groups: what belongs together, (n,): a burst, a video, a patient; on one side of the held-out images.

        Returns:
            The classifier.

        Raises:
            UserError: an argument or an image is invalid; a ``ValueError`` as well where scikit-learn expects one.
            RunError: the run has collapsed or diverged.
        """
        if y is None:
            raise InputError("ImageClassifier requires y to be passed, but the target y is None")
        paths = _paths(X)
        labels = column_or_1d(y, warn=True)
        check_consistent_length(paths, labels, domains, groups)
        try:
            check_classification_targets(labels)
            classes, codes = np.unique(labels, return_inverse=True)
        except TypeError as error:
            raise InputError(f"the labels in y cannot be sorted: {error}") from error
        if len(classes) < 2:
            raise InputError(f"y has only one class, {classes.tolist()[0]!r}; at least two are needed")
        settings = self._settings()
        data = _open(paths, _names(classes.tolist()), codes, domains, groups, 5 * int(settings.get("size", 0)) // 4)
        with TemporaryDirectory(prefix="largedrop-") as folder:
            run = finetune(data, output=Path(folder) / "run", recipe=self.recipe, device=self.device, **settings)
            self.checkpoint_ = run.model.read_bytes()
            self.result_ = run.result
        self.classes_ = classes
        self.network_ = _network(self.checkpoint_)
        return self

    def predict_proba(self, X: Any) -> npt.NDArray[np.float64]:  # noqa: N803
        """The calibrated probability of each class, (n, classes), in the order of ``classes_``.

        Args:
            X: paths of images, (n,) or (n, 1).

        Raises:
            UserError: an image cannot be read.
        """
        check_is_fitted(self)
        paths = _paths(X)
        found = predictions(
            [self.network_],
            paths,
            top=len(self.classes_),
            unsure_below=0.0,
            calibrated=True,
            batch=BATCH,
            device=choose_device(self.device),
            precision="float32",
        )
        column = {name: number for number, name in enumerate(self.network_.classes)}
        result = np.zeros((len(paths), len(column)))
        unread = []
        for row, each in zip(result, found, strict=True):
            unread += [f"{each.path}: {each.error}"] if each.error else []
            row[[column[name] for name, _ in each.top]] = [value for _, value in each.top]
        if unread:
            more = f" (and {len(unread) - 1} more)" if unread[1:] else ""
            raise InputError(f"an image cannot be read: {unread[0]}{more}")
        return result

    def predict(self, X: Any) -> npt.NDArray[Any]:  # noqa: N803
        """The most probable label of each image, (n,).

        Args:
            X: paths of images, (n,) or (n, 1).

        Raises:
            UserError: an image cannot be read.
        """
        probabilities = self.predict_proba(X)
        chosen: npt.NDArray[Any] = self.classes_[probabilities.argmax(axis=1)]
        return chosen

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.one_d_array = tags.input_tags.string = True
        tags.input_tags.two_d_array = False
        return tags

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in super().__getstate__().items() if name != "network_"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "checkpoint_" in state:
            self.network_ = _network(self.checkpoint_)

    def _settings(self) -> dict[str, Any]:
        own = {name: getattr(self, name) for name in _OWN if getattr(self, name) is not None}
        if not isinstance(self.settings or {}, Mapping):
            raise InputError(f"settings are a dictionary, not a {type(self.settings).__name__}")
        more = dict(self.settings or {})
        if twice := [name for name in more if name in (*_OWN, "seed", "recipe", "device")]:
            raise InputError(f"'{twice[0]}' is a parameter of ImageClassifier: leave it out of settings")
        if more.get("fit", "all") != "all":
            raise InputError("a linear fit keeps no network to predict with: leave 'fit' out of settings")
        drawn = self.random_state
        seed = int(drawn) if isinstance(drawn, (int, np.integer)) else int(check_random_state(drawn).randint(2**31 - 1))
        return {**own, **more, "seed": seed}


def _paths(images: Any) -> list[str]:
    """The paths in an array (n,) or (n, 1).

    Raises:
        InputError: it has another shape, is empty, or holds what is no path.
    """
    if isinstance(images, (str, os.PathLike)):
        raise InputError(f"X is an array of paths, not one path ({images})")
    array = np.asarray(images, dtype=object)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise InputError(f"X is an array of paths, (n,) or (n, 1), not of the shape {array.shape}")
    if not len(array):
        raise InputError("X has no images")
    for row, value in enumerate(array):
        if not isinstance(value, (str, os.PathLike)):
            raise InputError(f"X holds paths of images; row {row} is a {type(value).__name__} ({value!r:.40})")
    return [os.fspath(value) for value in array]


def _names(classes: Sequence[Any]) -> list[str]:
    """Names of the classes that sort as these do, and are different whatever the labels are."""
    digits = len(str(len(classes) - 1))
    return [f"{number:0{digits}d} {visible(str(label))}".strip() for number, label in enumerate(classes)]


def _column(values: Any) -> Any:
    """A column as it was given: numpy would make the text 'nan' of a missing name."""
    return column_or_1d(np.asarray(values, dtype=object))


def _open(paths: list[str], names: list[str], codes: Any, domains: Any, groups: Any, bound: int) -> Dataset:
    given: dict[str, Sequence[Any]] = {"path": paths, "label": [names[code] for code in codes]}
    given |= {
        what: [value.item() if isinstance(value, np.generic) else value for value in _column(values)]
        for what, values in (("domain", domains), ("group", groups))
        if values is not None
    }
    columns = Columns("X", {})
    columns(list(given))

    def rows() -> Iterator[tuple[str, dict[str, Any]]]:
        for number, values in enumerate(zip(*given.values(), strict=True)):
            yield f"row {number}", dict(zip(given, values, strict=True))

    source = list_rows("X", rows(), Path.cwd(), columns, [], "images")
    return open_listing(make_listing(source), bound=max(320, bound))


def _network(checkpoint: bytes) -> Network:
    with TemporaryDirectory(prefix="largedrop-") as folder:
        path = Path(folder) / "model.safetensors"
        path.write_bytes(checkpoint)
        return load_model(path)
