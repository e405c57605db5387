"""A training step with batch norm folded into the convolutions against one without: time, and peak memory.

Both channels last and in the precision that the machine computes in, with frozen statistics; all else is the same.
Memory is what a network, its gradients and momentum, a batch and two steps add to a fresh process at most.

    python benchmarks/folding.py --model resnet50 --size 224 --batch 32
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch

from largedrop.models.fast.folding import fold_batchnorm
from largedrop.runtime import keep_freed_memory
from largedrop.training.device import choose_device, choose_precision
from timing import alternate, parser, report
from training_step import network, stepper


def build(model: str, size: int, batch: int, device: torch.device, precision: str, fold: bool) -> Callable[[], None]:
    """One side's step on a resident batch."""
    images = torch.randn(batch, 3, size, size, device=device).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(7, (batch,), device=device)
    module = network(model, size).to(device)
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if fold:
        fold_batchnorm(module, images[:1])
    return stepper(module, images, labels, precision, fused=True)


def peak(model: str, size: int, batch: int, device: str, precision: str, fold: bool) -> int:
    """Bytes that two steps add at most to a process of their own (its resident set), or to the GPU's memory."""
    if device != "cpu":
        step = build(model, size, batch, torch.device(device), precision, fold)
        step(), step()
        return torch.cuda.max_memory_allocated()
    before = memory("VmRSS")
    step = build(model, size, batch, torch.device(device), precision, fold)
    step(), step()
    return memory("VmHWM") - before


def memory(field: str) -> int:
    """This process's resident set now (VmRSS) or at most (VmHWM), in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))


def main() -> None:
    """Time both, and print the ratio of the times and of the peaks."""
    options = parser(__doc__, rounds=5)
    options.add_argument("--model", default="resnet50")
    options.add_argument("--size", type=int, default=224)
    options.add_argument("--batch", type=int, default=32)
    options.add_argument("--device", default="cpu")
    options.add_argument("--precision", default="auto", help="auto, float32 or bfloat16")
    chosen = options.parse_args()
    torch.set_num_threads(chosen.threads)
    device = choose_device(chosen.device)
    keep_freed_memory()
    precision = choose_precision(chosen.precision, device)
    sides = [(chosen.model, chosen.size, chosen.batch, chosen.device, precision, fold) for fold in (True, False)]
    ours, theirs = (build(*side[:3], device, *side[4:]) for side in sides)
    found = alternate(ours, theirs, chosen.rounds, device, chosen.processor_time)
    peaks = []
    for side in sides:  # each in a process of its own, so that neither sees what the other left
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            peaks.append(pool.submit(peak, *side).result())
    what = {"model": chosen.model, "size": chosen.size, "batch": chosen.batch, "precision": precision}
    used = {
        "memory_ratio": round(peaks[0] / peaks[1], 3),
        "ours_peak_bytes": peaks[0],
        "theirs_peak_bytes": peaks[1],
    }
    report("folding", {**what, **found, **used}, chosen.json, device)


if __name__ == "__main__":
    main()
