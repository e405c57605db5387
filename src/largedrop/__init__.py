"""Fine-tune pretrained vision networks with very large dropout (Zhang & Bottou, 2024).

>>> import largedrop as ld
>>> [name for name in ld.__all__ if name.islower()][:3]
['average_weights', 'finetune', 'fold_batchnorm']
"""

from __future__ import annotations

__version__ = "0.1.0"

from .api import finetune
from .config import Config
from .data import Dataset, open_dataset
from .errors import CollapseError, UserError
from .models.dropout import RepresentationDropout, set_dropout
from .models.folding import fold_batchnorm
from .training.averaging import average_weights
from .training.checkpoint import load_model
from .training.run import Run

__all__ = [
    "CollapseError",
    "Config",
    "Dataset",
    "RepresentationDropout",
    "Run",
    "UserError",
    "average_weights",
    "finetune",
    "fold_batchnorm",
    "load_model",
    "open_dataset",
    "set_dropout",
]
