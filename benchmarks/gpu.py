"""What a GPU shows: the doctor's report, figure 2 at its small scale, and what each fast path is worth and keeps.

One command does all that fits ten minutes; the package need not be installed. Each part prints its results as it has
them and goes on where another failed; all of them are in the JSON file at the end, with the doctor's report and figure
2's beside it. ``--parts`` names some of the parts, which are the functions below, in another order.

    python benchmarks/gpu.py --output gpu/gpu.json
    python benchmarks/gpu.py --output gpu/gpu.json --data path/to/PACS --parts about doctor figure_2
    python benchmarks/gpu.py --output gpu/gpu.json --parts speed --model resnet50 --size 224 --batch 96

``--data`` is figure 2's, the embedded emoji without it, which all other parts use.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from torch import Tensor, nn

import largedrop as ld
from largedrop.data.random import torch_seed
from largedrop.data.views.batches import HostViews, ResidentViews, open_views
from largedrop.errors import Interrupted
from largedrop.fast_paths import FastPaths, fast_paths, only
from largedrop.files import read_json, write_json
from largedrop.models.fast.folding import fold_batchnorm, speed_up
from largedrop.models.network import Network, Spec
from largedrop.models.pretrained import Weights, create_backbone, find_weights
from largedrop.reporter import Reporter
from largedrop.training.evaluation import logits
from largedrop.training.features import FeatureCache
from largedrop.training.loop import train
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


def about(options: argparse.Namespace, device: torch.device) -> Found:
    """Versions, the card, and its two ceilings."""
    card = torch.cuda.get_device_properties(device)
    one, two = torch.randn(2, 8192, 8192, device=device).to(torch.bfloat16)
    large = torch.empty(1 << 30, dtype=torch.uint8, device=device)
    other = torch.empty_like(large)
    product, copy = timed(lambda: torch.mm(one, two), 20), timed(lambda: other.copy_(large), 20)
    return {
        "gpu": card.name,
        "memory_gib": round(card.total_memory / 2**30, 1),
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "timm": timm.__version__,
        "cudnn": torch.backends.cudnn.version(),  # type: ignore[no-untyped-call]
        "tflops_bfloat16": round(2 * 8192**3 / product / 1e12),
        "copy_tb_per_s": round(2 * 2**30 / copy / 1e12, 2),
    }


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


def repeats(options: argparse.Namespace, device: torch.device) -> Found:
    """Whole short runs: twice the same, one that is cut and goes on, and the memory that is kept after each."""
    data = ld.open_dataset("emoji")
    features = FeatureCache(open_views(data, device))
    config = config_of(data, device, steps=120, eval_every=40)
    found: Found = {"allocated_mib": [], "seconds": []}
    finals = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(3):
            began = time.perf_counter()
            run = train(config, data, Path(folder) / str(number), features=features)
            found["seconds"].append(round(time.perf_counter() - began, 2))
            finals.append((run.folder / "final.safetensors").read_bytes()[-(1 << 20) :])
            del run
            found["allocated_mib"].append(torch.cuda.memory_allocated(device) >> 20)
        cut = Path(folder) / "cut"
        try:
            train(config, data, cut, features=features, reporter=_Stops(60))
        except Interrupted:
            found["cut"] = True
        run = train(config, data, cut, features=features)
        resumed = (run.folder / "final.safetensors").read_bytes()[-(1 << 20) :]
    gc.collect()
    found["allocated_mib"].append(torch.cuda.memory_allocated(device) >> 20)
    found["twice the same bits"] = finals[0] == finals[1] == finals[2]
    found["resumed with the same bits"] = resumed == finals[0]
    return found


class _Stops(Reporter):
    """Asks to stop after some steps."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def stopped(self) -> bool:
        self.left -= 1
        return self.left < 0


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
        many = torch.randn((16 << 20) // size**2, 3, size, size, device=device).contiguous(memory_format=shape)
        with torch.inference_mode(), torch.autocast("cuda", torch.bfloat16, enabled=precision == "bfloat16"):
            found["evaluated_per_s"] = round(len(many) / timed(partial(module, many), 3))
    return found


def freeze(module: nn.Module) -> None:
    """Batch norms with their running statistics, as folding has them."""
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.eval()


def run(options: argparse.Namespace, device: torch.device) -> Found:
    """A whole run of the default recipe on emoji, plain and by the paths that the doctor chose, and its parts."""
    data = ld.open_dataset("emoji")
    chosen = fast_paths(device)
    found: Found = {"chosen": chosen.names}
    with tempfile.TemporaryDirectory() as folder:
        for seed, name in enumerate(("plain", "first", "second")):
            config = config_of(data, device, steps=600, eval_every=100, seed=seed)
            with only(FastPaths() if name == "plain" else chosen):
                began = time.perf_counter()
                features = FeatureCache(open_views(data, device))
                opened = time.perf_counter() - began
                done = train(config, data, Path(folder) / name, features=features)
            found[name] = {"seconds": round(time.perf_counter() - began, 2), "views": round(opened, 2)}
            found[name]["head"] = round(read_json(done.folder / "result.json")["probe"]["seconds"], 2)
            found[name]["iid, ood"] = done.model_scores
        module = network("tf_efficientnet_lite0", SIZE, 1, device)
        indices = np.arange(len(data), dtype=np.int64)
        seconds = timed(lambda: logits(module, features.views, indices, "bfloat16"), 1)
        found["evaluated_per_s"] = round(len(data) / seconds)
    return found


def jobs(options: argparse.Namespace, device: torch.device) -> Found:
    """Default runs on emoji, each in a process of its own: seconds of a run, and these over the runs at a time."""
    found: Found = {}
    for count in options.jobs:
        with tempfile.TemporaryDirectory() as folder, failures(found, f"{count} jobs"):
            command = [sys.executable, "-m", "largedrop", "compare", "emoji", "--dropout", "0.9", "--size", "96"]
            command += ["--test-domains", "openmoji", "--seeds", str(count), "--jobs", str(count), "--device", "cuda"]
            began = time.perf_counter()
            done = subprocess.run([*command, "--output", folder], capture_output=True, text=True, timeout=300)
            whole = time.perf_counter() - began
            times = [read_json(path)["methods"]["fine-tuning"]["seconds"] for path in Path(folder).rglob("result.json")]
            each = statistics.mean(times)
            found[f"{count} jobs"] = {"seconds": round(whole, 1), "of a run": each, "by jobs": round(each / count, 2)}
            if done.returncode:
                found[f"{count} jobs"]["failed"] = (done.stdout + done.stderr)[-2000:]
            print(f"  {count} jobs: {found[f'{count} jobs']}", flush=True)
    return found


def doctor(options: argparse.Namespace, device: torch.device) -> Found:
    """The doctor's report, which the runs after it go by; where it ends with 2, what it says is printed."""
    path = options.output.parent / "doctor.json"
    code = command(["doctor", "--device", str(device), "--output", str(path)], 400)
    return {"code": code, **(read_json(path) if path.is_file() else {})}


def figure_2(options: argparse.Namespace, device: torch.device) -> Found:
    """Figure 2 at its small scale, by the paths that the doctor has chosen, as far as ``--minutes`` go."""
    report = options.output.parent / "figure-2"
    with tempfile.TemporaryDirectory() as folder:
        sweep = ["sweep", "paper-figure-2", "--scale", "small", "--data", options.data, "--device", str(device)]
        began = time.perf_counter()
        code = command([*sweep, "--jobs", str(options.jobs[-1]), "--output", folder], 60 * options.minutes)
        seconds = time.perf_counter() - began
        runs = [read_json(path) for path in Path(folder).rglob("runs/*/result.json")]
        command(["report", f"{folder}/runs", "--output", str(report)], 120)
    each = [run["methods"]["fine-tuning"]["seconds"] for run in runs]
    found: Found = {"code": code, "seconds": round(seconds, 1), "runs": len(runs)}
    return (
        {**found, "seconds_of_a_run": statistics.median(each), "fast_paths": runs[0]["fast_paths"]} if runs else found
    )


def command(arguments: list[str], seconds: float) -> int | None:
    """The exit code of ``largedrop``; None where it is stopped after so many seconds, for which it saves."""
    environment = {**os.environ, "PYTHONPATH": str(Path(ld.__file__).parents[1])}
    process = subprocess.Popen([sys.executable, "-m", "largedrop", *arguments], env=environment)
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.terminate()
        process.wait()
        return None


@contextmanager
def failures(found: Found, name: str) -> Iterator[None]:
    """Record what fails in the block, and go on."""
    try:
        yield
    except Exception as error:  # noqa: BLE001  # every part is tried
        found[name] = {"failed": f"{type(error).__name__}: {error}"}
        traceback.print_exc()


PARTS: Mapping[str, Callable[[argparse.Namespace, torch.device], Found]] = {
    part.__name__: part for part in (about, doctor, figure_2, repeats, run, speed, views, agreement, objectives, jobs)
}


def main() -> None:
    """Do the parts, and write what they found."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--output", type=Path, default=Path("gpu.json"))
    options.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    options.add_argument("--model", help="of part speed, with --size and --batch")
    options.add_argument("--size", type=int, default=224)
    options.add_argument("--batch", type=int, default=96)
    options.add_argument("--jobs", type=int, nargs="+", default=[1, 12], help="runs side by side; figure_2: the last")
    options.add_argument("--data", default="emoji", help="of part figure_2")
    options.add_argument("--minutes", type=float, default=4.0, help="of part figure_2")
    chosen = options.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("this benchmark needs a GPU")
    device = torch.device("cuda", torch.cuda.current_device())
    found: Found = {}
    for name in chosen.parts:
        began = time.perf_counter()
        print(f"{name} …", flush=True)
        with failures(found, name):
            found[name] = PARTS[name](chosen, device)
            if name not in ("speed", "jobs"):
                print(json.dumps(found[name], indent=1), flush=True)
        print(f"{name}: {time.perf_counter() - began:.1f} s", flush=True)
        write_json(chosen.output, found)


if __name__ == "__main__":
    main()
