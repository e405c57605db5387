"""What each fast path of a GPU keeps of the plain one's numbers, and what it is worth: parts of ``gpu.py``."""

from __future__ import annotations

import argparse
import statistics
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import largedrop as ld
from largedrop.data.random import torch_seed
from largedrop.data.views.batches import HostViews, ResidentViews
from largedrop.fast_paths import FastPaths
from largedrop.models.fast.folding import fold_batchnorm, speed_up
from largedrop.models.network import Network, Spec
from largedrop.models.pretrained import Weights, create_backbone, find_weights
from largedrop.training.evaluation import BATCH_PIXELS
from largedrop.training.objectives import OBJECTIVES, make_objective
from largedrop.training.objectives.erm import ERM
from largedrop.training.resolve import resolve
from largedrop.training.setup import make_optimizer, set_learning_rate
from largedrop.training.step import TrainingStep

Found = dict[str, Any]
CLASSES = tuple(str(number) for number in range(7))
SIZE = 96
AGREE_STEPS = 12
"""Steps of the comparisons of paths, some of them before a step is recorded."""


def network(model: str, size: int, masks: int, device: torch.device) -> Network:
    """A network with its packaged weights where it has any, else random ones whose last γ of a branch is not 0."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        try:
            weights = find_weights(model)
        except ld.UserError:
            weights = Weights("random", None, "random")
        backbone, units = create_backbone(model, weights, size)
        for layer in backbone.modules():
            if isinstance(layer, nn.BatchNorm2d) and not layer.weight.any():
                nn.init.constant_(layer.weight, 0.1)
        spec = Spec(model, "random", CLASSES, size, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), dropout=0.9)
        made = Network(backbone, units, spec, masks)
    return made.to(device).to(memory_format=torch.channels_last).train()  # type: ignore[call-overload, no-any-return]


def config_of(data: ld.Dataset, device: torch.device, **settings: Any) -> Any:
    """A config of the default recipe with few steps."""
    given = {"test_domain": data.domains[0], "size": SIZE, "steps": AGREE_STEPS, "eval_every": AGREE_STEPS}
    return resolve(data, device, recipe="robust", **{**given, **settings})


def timed(function: Callable[[], object], repeats: int) -> float:
    """Median seconds of a call over three blocks of ``repeats``, after one block that does not count."""
    found = []
    for _ in range(4):
        torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(repeats):
            function()
        torch.cuda.synchronize()
        found.append((time.perf_counter() - began) / repeats)
    return statistics.median(found[1:])


@contextmanager
def failures(found: Found, name: str) -> Iterator[None]:
    """Record what fails in the block, and go on."""
    try:
        yield
    except Exception as error:  # noqa: BLE001  # every part is tried
        found[name] = {"failed": f"{type(error).__name__}: {error}"}
        traceback.print_exc()


def views(options: argparse.Namespace, device: torch.device) -> Found:
    """Views from images in the GPU's memory against those of the processor: the same levels, and their times."""
    data = ld.open_dataset("emoji")
    resident, host = ResidentViews(data, device), HostViews(data, device)
    spec = Spec("x", "random", CLASSES, 96, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), dropout=0.9)
    found: Found = {}
    for count in (32, 96):
        chosen = np.random.default_rng(0).integers(len(data), size=count)
        pairs = {
            "training": (resident.training(chosen, spec, 0, 1), host.training(chosen, spec, 0, 1)),
            "evaluation": (resident.evaluation(chosen, spec), host.evaluation(chosen, spec)),
        }
        for name, (one, two) in pairs.items():
            found[f"{name}_{count}_levels_apart"] = float((one - two).abs().max() * 127.5)
        for name, side in (("resident", resident), ("host", host)):
            seconds = timed(partial(side.training, chosen, spec, 0, 1), 20)
            found[f"{name}_{count}_ms"] = round(1e3 * seconds, 2)
    return found


def agreement(options: argparse.Namespace, device: torch.device) -> Found:
    """Steps by each path from the same start: the largest differences of losses and of weights, over the update."""
    found: Found = {}
    for precision in ("float32", "bfloat16"):
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
        paths = {
            "eager": (False, False),
            "eager again": (False, False),
            "recorded": (True, False),
            "folded": (False, True),
            "folded and recorded": (True, True),
        }
        runs = {name: steps_by(precision, "erm", *path, device) for name, path in paths.items()}
        base_losses, start, base = runs["eager"]
        for name, (losses, _, weights) in runs.items():
            found[f"{precision} {name}"] = apart(base_losses, start, base, losses, weights)
        alike = [torch.equal(one, two) for one, two in zip(runs["folded"][2], runs["folded and recorded"][2])]  # noqa: B905
        found[f"{precision} folded: recorded bit for bit"] = all(alike)
    return found


def objectives(options: argparse.Namespace, device: torch.device) -> Found:
    """A recorded step against one that is not, for every objective that can be recorded."""
    found: Found = {}
    for name, kind in OBJECTIVES.items():
        if kind.recordable:
            plain, recorded = (steps_by("bfloat16", name, graph, True, device) for graph in (False, True))
            found[name] = apart(plain[0], plain[1], plain[2], recorded[0], recorded[2])
    return found


def steps_by(
    precision: str, objective: str, recorded: bool, folded: bool, device: torch.device
) -> tuple[list[float], list[Tensor], list[Tensor]]:
    """Losses of some steps of the loop, and all weights before and after them."""
    data = ld.open_dataset("emoji")
    resident = ResidentViews(data, device)
    module = network("tf_efficientnet_lite0", SIZE, 16, device)
    config = config_of(data, device, precision=precision, lr=1e-4, objective=objective)
    optimizer = make_optimizer(config, module)
    chosen = make_objective(objective, config.penalty)
    with torch.random.fork_rng(devices=[device]):
        torch.manual_seed(1)
        chosen.bind(module, optimizer)
    if folded:
        speed_up(module, FastPaths(folded=True))
    start = [each.detach().clone() for each in module.parameters()]
    step = TrainingStep(
        module, optimizer, precision, lambda each: resident.finish(each, module.spec), chosen, 4, print, recorded
    )
    rng = np.random.default_rng(0)
    for number in range(AGREE_STEPS):
        torch.manual_seed(torch_seed("step", 0, number))
        set_learning_rate(optimizer, config, number)
        images = rng.integers(len(data), size=32)
        labels = torch.from_numpy(data.labels[images] % len(CLASSES))
        step(resident.inputs(images, module.spec, 0, number), labels, number)
    return [loss for loss, _ in step.read()], start, [each.detach().clone() for each in module.parameters()]


def apart(
    losses: list[float], start: list[Tensor], weights: list[Tensor], other_losses: list[float], other: list[Tensor]
) -> Found:
    """The largest difference of the losses, and the distance of the weights over that from the start."""
    moved = sum(float((one - two).square().sum()) for one, two in zip(weights, start, strict=True)) ** 0.5
    between = sum(float((one - two).square().sum()) for one, two in zip(weights, other, strict=True)) ** 0.5
    largest = max(abs(one - two) for one, two in zip(losses, other_losses, strict=True))
    return {"loss": largest, "weights": between / moved, "first_loss": other_losses[0], "last_loss": other_losses[-1]}


def speed(options: argparse.Namespace, device: torch.device) -> Found:
    """Milliseconds of a step on a resident batch by each path, the memory it takes, and images/s of an evaluation."""
    found: Found = {}
    cases = [(options.model, options.size, options.batch)] if options.model else SPEEDS
    for model, size, batch in cases:
        for precision, recorded, folded, layout in PATHS:
            name = f"{model} {size} px x{batch} {precision} {layout}"
            name += f"{' recorded' if recorded else ''}{' folded' if folded else ''}"
            with failures(found, name):
                found[name] = step_time(model, size, batch, precision, recorded, folded, layout, device)
                print(f"  {name}: {found[name]}", flush=True)
    return found


SPEEDS = [("tf_efficientnet_lite0", 96, 24), ("tf_efficientnet_lite0", 224, 96), ("resnet50", 224, 96)]
PATHS = [
    ("bfloat16", True, True, "NHWC"),
    ("bfloat16", True, False, "NHWC"),
    ("bfloat16", False, True, "NHWC"),
    ("bfloat16", False, False, "NHWC"),
    ("bfloat16", True, False, "NCHW"),
    ("float32", True, False, "NHWC"),
    ("float32", False, False, "NCHW"),
]


def step_time(
    model: str, size: int, batch: int, precision: str, recorded: bool, folded: bool, layout: str, device: torch.device
) -> Found:
    """The time and the memory of one path."""
    torch.backends.cudnn.allow_tf32 = True
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    module = network(model, size, 16, device)
    shape = torch.channels_last if layout == "NHWC" else torch.contiguous_format
    module.to(memory_format=shape)  # type: ignore[call-overload]
    rate = torch.tensor(1e-5, device=device)
    optimizer = torch.optim.AdamW(module.parameters(), rate, fused=True, capturable=True)
    if folded:
        fold_batchnorm(module, torch.zeros((1, 3, size, size), device=device))
    else:
        freeze(module)
    step = TrainingStep(module, optimizer, precision, lambda each: each, ERM(), note=print, record=recorded)
    images = torch.randn(batch, 3, size, size, device=device).contiguous(memory_format=shape)
    labels = torch.randint(len(CLASSES), (batch,), device=device)

    def once() -> None:
        step(images, labels)
        if step.due:
            step.read()

    for _ in range(5):
        once()
    seconds = timed(once, 20)
    found = {"ms": round(1e3 * seconds, 2), "images_per_s": round(batch / seconds)}
    found["peak_gib"] = round(torch.cuda.max_memory_allocated(device) / 2**30, 2)
    if not recorded:
        module.eval()
        count = BATCH_PIXELS["cuda"] // size**2
        many = torch.randn(count, 3, size, size, device=device).contiguous(memory_format=shape)
        with torch.inference_mode(), torch.autocast("cuda", torch.bfloat16, enabled=precision == "bfloat16"):
            found["evaluated_per_s"] = round(len(many) / timed(partial(module, many), 3))
    return found


def freeze(module: nn.Module) -> None:
    """Batch norms with their running statistics, as folding has them."""
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.eval()
