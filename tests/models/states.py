"""State dicts of timm's networks, and files of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

State = dict[str, Tensor]


def saved(path: Path, state: State) -> str:
    save_file({key: value.contiguous().clone() for key, value in state.items()}, path)
    return str(path)


def state_of(name: str, **settings: Any) -> State:
    torch.manual_seed(7)
    state: State = timm.create_model(name, **settings).state_dict()
    return state
