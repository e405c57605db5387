"""Presets of one's own, and sweeps of them that take seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

import largedrop as ld
from largedrop.experiments.preset import read_preset
from largedrop.experiments.sweep import SweepPlan, plan_sweep

CPU = torch.device("cpu")

PLAIN = 'title = "Mine"\n'
"""A preset of nothing but its title, and the start of others."""


def written(folder: Path, text: str, name: str = "mine.toml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


TOML = """
title = "Tiny"
test_domains = [{domains}]
[settings]
model = "test_efficientnet"
weights = "random"
size = 32
batch = 4
optimizer = "sgd"
{settings}
[grid]
dropout = [{rates}]
{grid}
"""
SHORT = "steps = 2\neval_every = 1"


BOTH = '"photo", "ink"'


def preset(
    folder: Path, name: str = "tiny", rates: str = "0, 0.9", grid: str = "", settings: str = SHORT, domains: str = BOTH
) -> Path:
    path = folder / f"{name}.toml"
    path.write_text(TOML.format(rates=rates, grid=grid, settings=settings, domains=domains))
    return path


def planned(data: ld.Dataset, root: Path, folder: str = "out", **options: str) -> SweepPlan:
    read = read_preset(preset(root, **options))
    return plan_sweep(read, "full", data, root / folder, device=CPU, precision="float32")


def varied(configs: Any) -> list[tuple[int, float, str, float]]:
    return [(config.seed, config.lr, config.test_domain, config.dropout) for config in configs]
