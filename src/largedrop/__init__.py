"""Fine-tune pretrained vision networks with very large dropout (Zhang & Bottou, 2024).

>>> import largedrop as ld
>>> [name for name in ld.__all__ if name.islower()][:3]
['advise', 'average_weights', 'check']
"""

from __future__ import annotations

import getpass
import os
import tempfile
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from ._version import __version__ as __version__

if TYPE_CHECKING:
    from .analysis.advice import Advice, advise
    from .analysis.check import Diagnosis, check
    from .api import Compared, compare, finetune
    from .callbacks.lightning import LightningCallback as LightningCallback
    from .callbacks.transformers import TransformersCallback as TransformersCallback
    from .config import Config
    from .data import Dataset, open_dataset
    from .errors import CollapseError, UserError
    from .estimator import ImageClassifier as ImageClassifier
    from .models.batchnorm import update_batchnorm
    from .models.block_dropout import set_block_dropout
    from .models.dropout import RepresentationDropout, set_dropout
    from .models.fast.folding import fold_batchnorm
    from .models.heads import parameter_groups
    from .prediction.evaluate import Evaluation, evaluate
    from .prediction.predict import Prediction, predict
    from .runs.checkpoint import load_model
    from .runs.run import Run
    from .training.along import TrajectoryAverage
    from .training.averaging import average_weights, interpolate
    from .training.soup import greedy_soup

# Three of these need an extra, and are not in __all__: ImageClassifier, LightningCallback, TransformersCallback.
_MODULES = {
    "Advice": "analysis.advice",
    "CollapseError": "errors",
    "Compared": "api",
    "Config": "config",
    "Dataset": "data",
    "Diagnosis": "analysis.check",
    "Evaluation": "prediction.evaluate",
    "ImageClassifier": "estimator",
    "LightningCallback": "callbacks.lightning",
    "Prediction": "prediction.predict",
    "RepresentationDropout": "models.dropout",
    "Run": "runs.run",
    "TrajectoryAverage": "training.along",
    "TransformersCallback": "callbacks.transformers",
    "UserError": "errors",
    "advise": "analysis.advice",
    "average_weights": "training.averaging",
    "check": "analysis.check",
    "compare": "api",
    "evaluate": "prediction.evaluate",
    "finetune": "api",
    "fold_batchnorm": "models.fast.folding",
    "greedy_soup": "training.soup",
    "interpolate": "training.averaging",
    "load_model": "runs.checkpoint",
    "open_dataset": "data",
    "parameter_groups": "models.heads",
    "predict": "prediction.predict",
    "set_block_dropout": "models.block_dropout",
    "set_dropout": "models.dropout",
    "update_batchnorm": "models.batchnorm",
}

__all__ = [
    "Advice",
    "CollapseError",
    "Compared",
    "Config",
    "Dataset",
    "Diagnosis",
    "Evaluation",
    "Prediction",
    "RepresentationDropout",
    "Run",
    "TrajectoryAverage",
    "UserError",
    "advise",
    "average_weights",
    "check",
    "compare",
    "evaluate",
    "finetune",
    "fold_batchnorm",
    "greedy_soup",
    "interpolate",
    "load_model",
    "open_dataset",
    "parameter_groups",
    "predict",
    "set_block_dropout",
    "set_dropout",
    "update_batchnorm",
]


def _place_caches() -> None:
    """Of a user whom nobody knows, as in some containers, torch cannot name the cache without which torchvision is not
    imported; without a home folder numba would make one of the name ``~``.
    """
    chosen = os.environ.get("LARGEDROP_CACHE") or os.environ.get("XDG_CACHE_HOME") or tempfile.gettempdir()
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", f"{Path(chosen).absolute()}/torchinductor_{os.getuid()}")
    try:
        Path.home()
    except RuntimeError:
        if chosen != tempfile.gettempdir():  # into which others write
            os.environ.setdefault("NUMBA_CACHE_DIR", f"{Path(chosen).absolute()}/numba")
            os.environ.setdefault("MPLCONFIGDIR", f"{Path(chosen).absolute()}/matplotlib")
        else:  # without it matplotlib to 3.10 is not imported; where it cannot be written, it makes one of its own
            os.environ.setdefault("MPLCONFIGDIR", os.devnull)


_place_caches()


def __getattr__(name: str) -> object:
    """Import a public name on first use: torch takes seconds to import, and ``largedrop --help`` does not need it."""
    if name not in _MODULES:
        raise AttributeError(f"module 'largedrop' has no attribute '{name}'")
    value: object = getattr(import_module(f".{_MODULES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
