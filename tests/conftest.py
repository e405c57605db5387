"""What the tests share: a toy dataset of three domains, and a config for a tiny network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import largedrop as ld

TINY: dict[str, Any] = {
    "model": "test_efficientnet",
    "weights": "random",
    "size": 32,
    "steps": 6,
    "batch": 4,
    "eval_every": 2,
    "lr": 1e-3,
    "optimizer": "sgd",
    "precision": "float32",
}
"""A fine-tuning of a second: 0.1 million weights, no pretrained ones, float32 so that every machine has it."""


@pytest.fixture(autouse=True)
def _threads() -> None:
    """One thread: tiny networks gain nothing from more, which would only wait for each other on busy cores.

    Before every test, since the number changes a run's last bits: one that leaves another would break others.
    """
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the user's cache."""
    monkeypatch.setenv("LARGEDROP_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of three domains × three classes × six images of 32 × 32, told apart by their colour."""
    return make_toy(tmp_path_factory.mktemp("toy"))


@pytest.fixture
def data(toy: Path) -> ld.Dataset:
    """The toy folder, opened."""
    return ld.open_dataset(toy)


def make_toy(root: Path, images: int = 6) -> Path:
    """Draw the toy dataset into ``root``: noise, coloured by class and tinted by domain."""
    rng = np.random.default_rng(0)
    for shade, domain in enumerate(("ink", "oil", "photo")):
        for channel, name in enumerate(("red", "green", "blue")):
            folder = root / domain / name
            folder.mkdir(parents=True)
            for number in range(images):
                pixels = rng.integers(0, 60, (32, 32, 3))
                pixels[..., channel] += 120
                pixels += 30 * shade
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
    return root
