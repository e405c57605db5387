"""The way back from fine-tuned weights to those that the run started from: WiSE-FT (Wortsman et al., 2022b)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from ..config import Config
from ..models.network import Network
from ..reporter import Reporter
from ..runs.checkpoint import TEMPERATURE, read_tensors
from ..runs.record import ALPHA
from ..runs.run import START_FILE
from .averaging import interpolate
from .evaluation import scores_in

__all__ = ["ALPHAS", "evaluations_after", "keeps_start", "move_back", "safest", "walk", "wise_ft"]

ALPHAS = tuple(number / 10 for number in range(11))
"""Shares α of the way back: at 0 the fine-tuned weights, at 1 those of the start."""


def walk(
    network: Network, start: Mapping[str, Tensor], fine_tuned: Mapping[str, Tensor], alphas: Iterable[float]
) -> Iterator[float]:
    """Each α in turn, while ``network`` has the weights α · ``start`` + (1 − α) · ``fine_tuned``."""
    for alpha in alphas:
        network.load_state_dict(interpolate(start, fine_tuned, alpha))
        yield alpha


def keeps_start(config: Config) -> bool:
    """Whether a run of ``config`` needs its start at the end: to go back to it, or to hand it over."""
    return config.head == "warm" and (config.wise_ft or config.way_back > 0 or config.hand_over != "best")


def evaluations_after(config: Config) -> int:
    """Number of evaluations of ``wise_ft`` and ``move_back`` in a run of ``config``."""
    return (len(ALPHAS) - 2 if config.wise_ft else 0) + (config.way_back > 0)


def wise_ft(
    network: Network,
    folder: Path,
    log: Sequence[Mapping[str, Any]],
    score: Callable[[], dict[str, Any]],
    selecting: str,
    reporter: Reporter,
) -> list[dict[str, Any]]:
    """WiSE-FT on a trained run: evaluate between its start and its final weights, and leave the best in ``network``.

    Args:
        network: the run's network; its weights are replaced.
        folder: the run's folder, with ``START_FILE`` and ``final.safetensors``.
        log: the run's log, whose first and last evaluations are those at α = 1 and α = 0.
        score: function that evaluates ``network``, as ``evaluation.scores``.
        selecting: name of the score that selects.
        reporter: asked before each evaluation whether to stop.

    Returns:
        The accuracies and the temperature at each of ``ALPHAS``, with ``alpha``; ``network`` has the weights of the
        ``safest``.

    Raises:
        Interrupted: the reporter asks to stop.
    """
    start, final = _weights(folder / START_FILE, network), _weights(folder / "final.safetensors", network)
    found: dict[float, Mapping[str, Any]] = {ALPHAS[0]: log[-1], ALPHAS[-1]: log[0]}
    for alpha in walk(network, start, final, ALPHAS[1:-1]):
        reporter.raise_if_stopped(f"stopped after step {log[-1]['step']} of {log[-1]['step']}")
        found[alpha] = score()
    curve = [{ALPHA: alpha, **scores_in(found[alpha], TEMPERATURE)} for alpha in ALPHAS]
    network.load_state_dict(interpolate(start, final, safest(curve, selecting)[ALPHA]))
    return curve


def move_back(network: Network, folder: Path, name: str, alpha: float) -> None:
    """Give ``network`` the weights of the checkpoint ``name`` in ``folder``, moved α of the way back to the start."""
    network.load_state_dict(
        interpolate(_weights(folder / START_FILE, network), _weights(folder / f"{name}.safetensors", network), alpha)
    )


def _weights(path: Path, network: Network) -> dict[str, Tensor]:
    """A checkpoint's weights, on the network's device."""
    device = network.head.weight.device
    return {name: tensor.to(device) for name, tensor in read_tensors(path, "model")[0].items()}


def safest(curve: Iterable[dict[str, Any]], selecting: str = "iid_accuracy") -> dict[str, Any]:
    """The entry of best i.i.d. score, of the name ``selecting``; in a tie that of the largest α.

    Pretrained weights lose least on domains that i.i.d. accuracy knows nothing of: the nearest to them is the safest.
    """
    return max(curve, key=lambda entry: (entry[selecting], entry[ALPHA]))
