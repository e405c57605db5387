"""What a GPU shows: the doctor's report, figure 2 at its small scale, and what each fast path is worth and keeps.

One command does all that fits ten minutes; the package need not be installed. Each part prints its results as it has
them and goes on where another failed; all of them are in the JSON file at the end, with the doctor's report and figure
2's beside it. ``--parts`` names some of the parts, the functions here, in ``gpu_paths.py`` and in
``gpu_commands.py``, in another order.

    python benchmarks/gpu.py --output gpu/gpu.json
    python benchmarks/gpu.py --output gpu/gpu.json --data path/to/PACS --parts about doctor figure_2
    python benchmarks/gpu.py --output gpu/gpu.json --parts speed --model resnet50 --size 224 --batch 96

``--data`` is figure 2's, the embedded emoji without it, which all other parts use.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import timm
import torch

import largedrop as ld
from gpu_commands import commands, environment, memory
from gpu_paths import SIZE, Found, agreement, config_of, failures, network, objectives, speed, timed, views
from largedrop.data.views.batches import open_views
from largedrop.errors import Interrupted
from largedrop.fast_paths import FastPaths, fast_paths, only
from largedrop.files import read_json, write_json
from largedrop.reporter import Reporter
from largedrop.training.batches import step_pixels
from largedrop.training.evaluation import logits
from largedrop.training.features import FeatureCache
from largedrop.training.loop import train


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
    process = subprocess.Popen([sys.executable, "-m", "largedrop", *arguments], env=environment())
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.terminate()
        process.wait()
        return None


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


def run(options: argparse.Namespace, device: torch.device) -> Found:
    """A whole run of the default recipe on emoji, plain and by the paths that the doctor chose, and its parts."""
    data = ld.open_dataset("emoji")
    first = config_of(data, device, steps=600, eval_every=100, seed=0)
    chosen = fast_paths(device, step_pixels(first, first.split_of(data)))
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


PARTS: Mapping[str, Callable[[argparse.Namespace, torch.device], Found]] = {
    part.__name__: part
    for part in (
        about,
        doctor,
        figure_2,
        repeats,
        run,
        speed,
        views,
        agreement,
        objectives,
        jobs,
        commands,
        memory,
    )
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
            if name not in ("speed", "jobs", "commands", "memory"):
                print(json.dumps(found[name], indent=1), flush=True)
        print(f"{name}: {time.perf_counter() - began:.1f} s", flush=True)
        write_json(chosen.output, found)


if __name__ == "__main__":
    main()
