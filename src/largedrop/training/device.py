"""The device and the precision to compute with."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

import torch

from ..errors import UserError, check_type, one_of

__all__ = ["CPU", "choose_device", "choose_precision", "default_jobs", "exact"]

CPU = torch.device("cpu")

AMPERE = (8, 0)
"""Compute capability from which on a GPU multiplies in bfloat16; AMD's that torch supports report 9 and more."""


def choose_device(name: str = "auto", jobs: int = 1) -> torch.device:
    """``auto`` is the GPU where there is one, else the processor.

    A GPU gets its number, that of torch's current one by default, and becomes the current one: CUDA's functions that
    name no device would else wake another.

    Args:
        name: ``auto``, ``cpu``, ``cuda`` or ``cuda:1``.
        jobs: number of processes; several are distributed over all GPUs, and ``cuda`` then stays without a number.

    Raises:
        UserError: this machine has no such device.
    """
    check_type(name, str, "device must be a name such as 'cpu' or 'cuda:0'")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    kind = name.split(":")[0]
    if kind not in ("cpu", "cuda"):
        raise UserError(f"unknown device '{name}'; {one_of(name, ['auto', 'cpu', 'cuda', 'cuda:0'])}")
    if kind == "cuda" and not torch.cuda.is_available():
        raise UserError(f"device '{name}': this machine has no GPU that torch {torch.__version__} can use")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"unknown device '{name}'; {one_of(name, ['auto', 'cpu', 'cuda', 'cuda:0'])}") from None
    if kind == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"device '{name}': this machine has {torch.cuda.device_count()} GPU(s)")
    if kind == "cuda" and (jobs == 1 or name != kind):
        device = torch.device("cuda", torch.cuda.current_device()) if name == kind else device
        torch.cuda.set_device(device)
    return device


def default_jobs(name: str) -> int:
    """The number of runs side by side on a device as in ``choose_device``: one for each GPU, else one."""
    return max(1, torch.cuda.device_count()) if name in ("auto", "cuda") else 1


def choose_precision(name: str, device: torch.device) -> str:
    """``auto`` is bfloat16 where the device multiplies in it (AMX, AVX-512 BF16, a GPU since Ampere), else float32.

    Raises:
        UserError: the precision is unknown, or the GPU lacks it.
    """
    if name not in ("auto", "float32", "bfloat16"):
        raise UserError(f"unknown precision '{name}'; {one_of(str(name), ['auto', 'float32', 'bfloat16'])}")
    # Not ``is_bf16_supported``, which asks the current GPU.
    has = torch.cuda.get_device_capability(device) >= AMPERE if device.type == "cuda" else _processor_has_bfloat16()
    if name == "bfloat16" and device.type == "cuda" and not has:
        raise UserError(f"precision 'bfloat16': {torch.cuda.get_device_name(device)} has none; use float32")
    if name == "auto":
        return "bfloat16" if has else "float32"
    return name


def exact() -> AbstractContextManager[None]:
    """Within the block float32 is float32: a GPU would round the inputs of its convolutions to ten bits (TF32)."""
    cudnn = torch.backends.cudnn
    return cudnn.flags(enabled=True, benchmark=cudnn.benchmark, deterministic=cudnn.deterministic, allow_tf32=False)


def _processor_has_bfloat16() -> bool:
    capabilities = getattr(torch.cpu, "get_capabilities", None)  # since torch 2.11 or so
    if capabilities is not None:
        found = capabilities()
        return bool(found.get("amx_bf16") or found.get("avx512_bf16"))
    information = Path("/proc/cpuinfo")
    flags = information.read_text(encoding="utf-8").split() if information.exists() else []
    return "amx_bf16" in flags or "avx512_bf16" in flags
