"""The way back from fine-tuned weights to those that the run started from: WiSE-FT (Wortsman et al., 2022b)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from ..config import Config
from ..models.network import Network
from ..reporter import Reporter
from ..runs.checkpoint import read_tensors
from ..runs.record import ALPHA
from .averaging import interpolate
from .evaluation import SCORES

__all__ = ["ALPHAS", "START_FILE", "evaluations_between", "safest", "walk", "wise_ft"]

ALPHAS = tuple(number / 10 for number in range(11))
"""Shares α of the way back: at 0 the fine-tuned weights, at 1 those of the start."""

START_FILE = "start.safetensors"
"""The network before the first step; in the run's folder until the run is finished, so that resuming fits no head."""


def walk(
    network: Network, start: Mapping[str, Tensor], fine_tuned: Mapping[str, Tensor], alphas: Iterable[float]
) -> Iterator[float]:
    """Each α in turn, while ``network`` has the weights α · ``start`` + (1 − α) · ``fine_tuned``."""
    for alpha in alphas:
        network.load_state_dict(interpolate(start, fine_tuned, alpha))
        yield alpha


def evaluations_between(config: Config) -> int:
    """Number of evaluations of ``wise_ft`` in a run of ``config``."""
    return len(ALPHAS) - 2 if config.wise_ft else 0


def wise_ft(
    network: Network,
    folder: Path,
    log: Sequence[Mapping[str, Any]],
    score: Callable[[], dict[str, float]],
    reporter: Reporter,
) -> list[dict[str, float]]:
    """WiSE-FT on a trained run: evaluate between its start and its final weights, and leave the best in ``network``.

    Args:
        network: the run's network; its weights are replaced.
        folder: the run's folder, with ``START_FILE`` and ``final.safetensors``.
        log: the run's log, whose first and last evaluations are those at α = 1 and α = 0.
        score: function that evaluates ``network``: ``iid_accuracy`` and ``ood_accuracy``.
        reporter: asked before each evaluation whether to stop.

    Returns:
        The accuracies at each of ``ALPHAS``, with ``alpha``; ``network`` has the weights of the ``safest``.

    Raises:
        Interrupted: the reporter asks to stop.
    """
    device = network.head.weight.device
    start, final = (
        {name: tensor.to(device) for name, tensor in read_tensors(folder / file, "model")[0].items()}
        for file in (START_FILE, "final.safetensors")
    )
    found: dict[float, Mapping[str, Any]] = {ALPHAS[0]: log[-1], ALPHAS[-1]: log[0]}
    for alpha in walk(network, start, final, ALPHAS[1:-1]):
        reporter.raise_if_stopped(f"stopped after step {log[-1]['step']} of {log[-1]['step']}")
        found[alpha] = score()
    curve = [{ALPHA: alpha, **{name: found[alpha][name] for name in SCORES}} for alpha in ALPHAS]
    network.load_state_dict(interpolate(start, final, safest(curve)[ALPHA]))
    return curve


def safest(curve: Iterable[dict[str, float]]) -> dict[str, float]:
    """The entry of best i.i.d. accuracy; in a tie that of the largest α.

    Pretrained weights lose least on domains that i.i.d. accuracy knows nothing of: the nearest to them is the safest.
    """
    return max(curve, key=lambda entry: (entry["iid_accuracy"], entry[ALPHA]))
