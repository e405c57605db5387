"""Streams of random numbers: a function of purpose and numbers alone, and different for different ones."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
import torch

from largedrop.data.random import generator, torch_seed

STREAM, SEED = 17398804110542507386, 3024019570381957545

KEYS = [
    ("augment", (0, 0)),
    ("augment", (0, 1)),
    ("augment", (1, 0)),
    ("augment", (0,)),
    ("augment", ()),
    ("augment", (0, 0, 0)),
    ("order", (0, 0)),
    ("order", (00, 10)),
    ("order", (1, 0, 0)),
    ("order", (10, 0)),
    ("order", (-1, 0)),
    ("", (2**70,)),
]


def test_streams_differ_by_purpose_and_numbers() -> None:
    assert len({tuple(generator(purpose, *numbers).random(4)) for purpose, numbers in KEYS}) == len(KEYS)
    assert len({torch_seed(purpose, *numbers) for purpose, numbers in KEYS}) == len(KEYS)


@pytest.mark.parametrize(("purpose", "numbers"), KEYS)
def test_the_same_key_is_the_same_stream(purpose: str, numbers: tuple[int, ...]) -> None:
    assert generator(purpose, *numbers).random(8).tolist() == generator(purpose, *numbers).random(8).tolist()
    assert torch_seed(purpose, *numbers) == torch_seed(purpose, *numbers)


def test_numpys_integers_are_the_same_as_pythons() -> None:
    assert generator("x", np.int64(3)).random() == generator("x", 3).random()  # type: ignore[arg-type]
    assert torch_seed("x", np.int32(3)) == torch_seed("x", 3)  # type: ignore[arg-type]


def test_another_process_has_the_same_streams() -> None:
    code = (
        "from largedrop.data.random import generator, torch_seed;"
        "print(generator('augment', 1, 2).integers(2**60), torch_seed('mask', 7))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert said == [str(generator("augment", 1, 2).integers(2**60)), str(torch_seed("mask", 7))]


def test_streams_are_the_ones_that_runs_on_disk_were_made_with() -> None:
    assert generator("augment", 1, 2).bit_generator.random_raw() == STREAM
    assert torch_seed("mask", 7) == SEED


def test_torch_seeds_are_in_range_and_spread_over_it() -> None:
    seeds = [torch_seed("mask", number) for number in range(2000)]
    assert len(set(seeds)) == 2000
    assert all(0 <= seed < 2**63 for seed in seeds)
    share = np.mean([seed >= 2**62 for seed in seeds])
    assert abs(share - 0.5) < 5 * math.sqrt(0.25 / 2000)
    torch.Generator().manual_seed(max(seeds))


def test_neighbouring_streams_are_uncorrelated() -> None:
    streams = np.array([generator("augment", 0, step).random(500) for step in range(40)]) - 0.5
    products = (streams[1:] * streams[:-1]).mean()
    assert abs(products) < 5 * (1 / 12) / math.sqrt(39 * 500)
