"""Why very large dropout helps, in its smallest form: logistic regression on redundant features.

One of 20 features is loud and always right; nineteen are quieter and often wrong, but right together. Each is read by
five units, as a wide network has it. Plain SGD learns the loud one and stops there; dropout learns them all. At test
time the loud one stops telling the classes apart. Prints the table of docs/why.md, writes its numbers as JSON, and its
picture.

    python studies/why.py --output docs/images/why.png --json why.json
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional as F

from ending import exit_with
from largedrop.data.random import torch_seed
from largedrop.files import write_json
from largedrop.models.dropout import RepresentationDropout
from largedrop.report.drawing.panels import panels_of
from largedrop.report.drawing.style import save_figure
from largedrop.runs.estimate import Estimate

FEATURES = 20
UNITS = 5
"""That read each feature."""
STRENGTH = torch.tensor([3.0, *(0.2 ** (place / (FEATURES - 2)) for place in range(FEATURES - 1))])
"""s of every feature: 3 for the first, then falling from 1 to 0.2."""
NOISE = torch.tensor([0.25] + [1.5] * (FEATURES - 1))
"""σ of every feature: alone the first is right in 99.997 % of the cases, each of the others in 75 %."""
TRAIN, TEST, BATCH, STEPS, RATE = 1000, 5000, 64, 2000, 0.01
DROPOUTS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98)
SHOWN = (0.0, 0.5, 0.9)
DECAYS = (0.01, 0.1, 1.0)
STOPS = (2, 20, 200)
LOGGED = (1, 2, 4, 7, 12, 20, 35, 60, 100, 200, 350, 600, 1000, 1400, 2000)
COLOURS = {0.0: "#0072B2", 0.5: "#E69F00", 0.9: "#D55E00"}
TESTS = ("i.i.d.", "shuffled", "removed", "flipped")


@dataclass(frozen=True)
class Outcome:
    """What a training led to.

    Attributes:
        accuracy: by test, (logged steps, seeds).
        loss: on the training data without dropout, (logged steps, seeds).
        part: each feature's part of the evidence, w s / Σ w s over its units, (seeds, features).
    """

    accuracy: dict[str, Tensor]
    loss: Tensor
    part: Tensor

    def at(self, test: str, place: int = -1) -> Estimate:
        """Accuracy over the seeds after the last (or another) logged step."""
        return Estimate.of(self.accuracy[test][place].tolist())


def sample(seeds: int, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Features x = s (y + σ ε), (seeds, count, features), and labels y of −1 and 1, (seeds, count)."""
    labels = 2.0 * torch.randint(2, (seeds, count), generator=generator) - 1
    noise = torch.randn(seeds, count, FEATURES, generator=generator)
    return STRENGTH * (labels[..., None] + NOISE * noise), labels


def shifted(inputs: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
    """The test data, and what becomes of it when the strongest feature no longer tells the classes apart."""
    sets = {test: inputs.clone() for test in TESTS}
    order = torch.randperm(inputs.shape[1], generator=generator)
    sets["shuffled"][..., 0] = inputs[:, order, 0]
    sets["removed"][..., 0] = 0
    sets["flipped"][..., 0] *= -1
    return sets


def train(seeds: int, units: int, dropout: float = 0.0, decay: float = 0.0, standardise: bool = False) -> Outcome:
    """SGD on the logistic loss from zero, for all seeds at once; always the same data and batches for a seed.

    Args:
        seeds: trained side by side.
        units: that read each feature.
        dropout: λ on the units.
        decay: L2 weight decay.
        standardise: give every unit a standard deviation of 1 first.
    """
    generator = torch.Generator().manual_seed(torch_seed("why"))
    inputs, labels = sample(seeds, TRAIN, generator)
    held_out, truth = sample(seeds, TEST, generator)
    sets = shifted(held_out, generator)
    scale = inputs.std(dim=1, keepdim=True) if standardise else torch.ones(())
    inputs, sets = inputs / scale, {test: values / scale for test, values in sets.items()}
    # A unit is a copy of its feature, so the sum over a feature's units is all that the logit needs.
    weight, bias = torch.zeros(seeds, FEATURES * units, 1), torch.zeros(seeds, 1, 1)
    layer = RepresentationDropout(dropout)
    accuracy: dict[str, list[Tensor]] = {test: [] for test in TESTS}
    losses = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch_seed("why: masks"))
        for step in range(1, STEPS + 1):
            chosen = torch.randint(TRAIN, (BATCH,), generator=generator)
            batch = layer(inputs[:, chosen].repeat_interleave(units, dim=-1))
            signs = labels[:, chosen, None]
            error = -signs * torch.sigmoid(-signs * (batch @ weight + bias))
            weight = weight - RATE * (batch.transpose(1, 2) @ error / BATCH + decay * weight)
            bias = bias - RATE * error.mean(dim=1, keepdim=True)
            if step in LOGGED:
                summed = weight.view(seeds, FEATURES, units).sum(dim=2, keepdim=True)
                margin = labels[..., None] * (inputs @ summed + bias)
                losses.append(F.softplus(-margin).mean(dim=(1, 2)))
                for test, values in sets.items():
                    right = truth[..., None] * (values @ summed + bias) > 0
                    accuracy[test].append(right.double().mean(dim=(1, 2)))
    part = STRENGTH * summed[..., 0] / (scale[:, 0] if standardise else 1)
    return Outcome(
        {test: torch.stack(values) for test, values in accuracy.items()},
        torch.stack(losses),
        part / part.sum(dim=1, keepdim=True),
    )


def figure_of(outcomes: dict[float, Outcome], seeds: int) -> Figure:
    """Three panels: what each feature counts for, accuracies over rates, and training."""
    titles = [
        "1. How much each feature is relied on",
        "2. When the strongest feature fails",
        "3. While training",
    ]
    figure, (parts, rates, curves) = panels_of(titles, "", width=4.1, height=3.3, legend=0.2)
    _draw_parts(parts, outcomes)
    _draw_rates(rates, outcomes)
    _draw_curves(curves, outcomes)
    figure.supxlabel(
        f"Logistic regression on {FEATURES} redundant features, each read by {UNITS} units. Mean over {seeds} seeds; "
        "bands of ± one standard error are narrower than the lines.",
        fontsize=9,
        color="#555555",
    )
    return figure


def _draw_parts(axes: Axes, outcomes: dict[float, Outcome]) -> None:
    places = np.arange(1, FEATURES + 1)
    for dropout, marker in zip(SHOWN, ("o", "s", "D"), strict=True):
        height = 100 * outcomes[dropout].part.mean(dim=0).numpy()
        name = "no dropout" if dropout == 0 else f"dropout {dropout:g}"
        axes.plot(places, height, color=COLOURS[dropout], marker=marker, markersize=4.5, linewidth=1.5, label=name)
    axes.set_xlabel("feature, the strongest first")
    axes.set_ylabel("part of the evidence (%)")
    axes.set_xticks([1, 5, 10, 15, 20])
    axes.set_yscale("log")
    axes.set_yticks([0.3, 1, 3, 10, 30, 100], ["0.3", "1", "3", "10", "30", "100"])
    axes.yaxis.minorticks_off()
    axes.axhline(100 / FEATURES, color="#999999", linewidth=0.9, linestyle=":")
    axes.text(FEATURES, 100 / FEATURES * 1.08, "all alike", fontsize=8.5, color="#777777", ha="right")
    axes.legend(frameon=False, fontsize=9)


def _draw_rates(axes: Axes, outcomes: dict[float, Outcome]) -> None:
    places = np.arange(len(DROPOUTS))
    looks = {
        "i.i.d.": ("as in training", "#444444", "o", "-"),
        "shuffled": ("strongest shuffled", "#CC3377", "D", "-"),
        "flipped": ("strongest reversed", "#7755AA", "s", "--"),
    }
    for test, (name, colour, marker, line) in looks.items():
        found = [outcomes[dropout].at(test) for dropout in DROPOUTS]
        mean = 100 * np.array([each.mean for each in found])
        half = 100 * np.array([each.error or 0.0 for each in found])
        axes.plot(places, mean, color=colour, marker=marker, markersize=4.5, linewidth=1.5, linestyle=line, label=name)
        axes.fill_between(places, mean - half, mean + half, color=colour, alpha=0.2, linewidth=0)
    axes.axhline(50, color="#999999", linewidth=0.9, linestyle=":")
    axes.set_xticks(places, [f"{dropout:g}" for dropout in DROPOUTS])
    axes.set_xlabel("dropout rate")
    axes.set_ylabel("test accuracy (%)")
    axes.set_ylim(0, 103)
    axes.text(len(DROPOUTS) - 1, 45, "guessing", fontsize=8.5, color="#777777", ha="right")
    axes.legend(frameon=False, fontsize=9, loc="lower right")


def _draw_curves(axes: Axes, outcomes: dict[float, Outcome]) -> None:
    for dropout in SHOWN:
        found = outcomes[dropout]
        mean = 100 * found.accuracy["shuffled"].mean(dim=1).numpy()
        half = 100 * found.accuracy["shuffled"].std(dim=1).numpy() / found.loss.shape[1] ** 0.5
        name = "no dropout" if dropout == 0 else f"dropout {dropout:g}"
        axes.plot(LOGGED, mean, color=COLOURS[dropout], linewidth=1.7, label=f"{name}: shuffled")
        axes.fill_between(LOGGED, mean - half, mean + half, color=COLOURS[dropout], alpha=0.2, linewidth=0)
    plain = outcomes[0.0]
    left = 100 * (plain.loss / np.log(2)).mean(dim=1).numpy()
    axes.plot(LOGGED, left, color=COLOURS[0.0], linewidth=1.4, linestyle=":", label="no dropout: loss that is left")
    axes.set_xscale("log")
    axes.set_xticks([1, 10, 100, 1000], ["1", "10", "100", "1000"])
    axes.set_xlabel("SGD steps")
    axes.set_ylabel("accuracy, or part of the loss (%)")
    axes.set_ylim(0, 103)
    axes.legend(frameon=False, fontsize=9, loc="upper right", bbox_to_anchor=(1.03, 0.5))
    axes.xaxis.minorticks_off()


def shown(found: Estimate) -> str:
    """In %, with its standard error."""
    return f"{100 * found.mean:.1f} ± {100 * (found.error or 0):.1f}"


def row(name: str, outcome: Outcome, place: int = -1) -> dict[str, Any]:
    """Print a line of the table and return it."""
    strongest = None if place != -1 else Estimate.of(outcome.part[:, 0].tolist())
    cells = [*(shown(outcome.at(test, place)) for test in TESTS), "" if strongest is None else shown(strongest)]
    print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
    scores = {test: vars(outcome.at(test, place)) for test in TESTS}
    return {"name": name, **scores, "strongest": None if strongest is None else vars(strongest)}


def main() -> None:
    """Train everything, print the table, draw the figure."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--seeds", type=int, default=20)
    options.add_argument(
        "--units", type=int, default=UNITS, help="that read each feature; the figure is of the default"
    )
    options.add_argument("--output", type=Path, help="figure, as PNG and SVG")
    options.add_argument("--json", type=Path)
    chosen = options.parse_args()
    print(f"| training | {' | '.join(TESTS)} | strongest feature's part |\n|{' --- |' * (len(TESTS) + 2)}")
    seeds, units = chosen.seeds, chosen.units
    outcomes = {dropout: train(seeds, units, dropout) for dropout in DROPOUTS}
    rows = [row(f"dropout {dropout:g}", outcome) for dropout, outcome in outcomes.items()]
    for place, step in enumerate(LOGGED):
        if step in STOPS:
            rows.append(row(f"no dropout, stopped after {step} steps", outcomes[0.0], place))
    rows += [row(f"weight decay {decay:g}", train(seeds, units, decay=decay)) for decay in DECAYS]
    for decay in (0.0, *DECAYS):
        rows.append(row(f"standardised features, weight decay {decay:g}", train(seeds, units, 0.0, decay, True)))
    losses = {f"{dropout:g}": outcomes[dropout].loss.mean(dim=1).tolist() for dropout in SHOWN}
    if chosen.json:
        write_json(
            chosen.json, {"seeds": seeds, "units": units, "rows": rows, "steps": LOGGED, "training_loss": losses}
        )
    if chosen.output:
        for path in save_figure(figure_of(outcomes, seeds), chosen.output):
            print(path)


if __name__ == "__main__":
    exit_with(main)
