"""The methods: one table of their names, markers, colours and explanations."""

from __future__ import annotations

from dataclasses import dataclass, replace

__all__ = ["METHODS", "PLAIN", "Method", "checkpoint_method", "method_of", "order"]


@dataclass(frozen=True)
class Method:
    """A way to make predictions from trained weights, and its appearance in reports.

    Attributes:
        name: name in records, tables and file names.
        label: name in sentences and titles.
        marker: matplotlib's marker.
        colour: colour, ``#rrggbb``.
        line: matplotlib's line style of the cloud's outline.
        explanation: one or two sentences for readers of a report.
        across: whether it combines final checkpoints of several trajectories (section 4.1, "all trajectories").
        fit: ``Config.fit`` of the runs whose checkpoint of best i.i.d. accuracy it is; None for averages.
    """

    name: str
    label: str
    marker: str
    colour: str
    line: str
    explanation: str
    across: bool = False
    fit: str | None = None


# Okabe and Ito's colours, which the common kinds of colour blindness keep apart; the markers are the paper's. Some who
# cannot tell green from red see ensembles and weight averages in one grey, so their outlines differ. A method across
# trajectories looks like the method along one: in the clouds of figure 2 it is a single hollow marker.
METHODS = {
    method.name: method
    for method in (
        Method(
            name="fine-tuning",
            label="fine-tuning",
            marker="D",
            colour="#D55E00",
            line="-",
            explanation="All weights of the pretrained network trained, with dropout at the given rate on the "
            "representation (what the last layer reads); rate 0, with cross-entropy alone, is plain fine-tuning, the "
            "baseline.",
            fit="all",
        ),
        Method(
            name="ensemble",
            label="ensemble",
            marker="^",
            colour="#009E73",
            line="--",
            explanation="The mean of the outputs of the checkpoints along one training.",
        ),
        Method(
            name="weight-average",
            label="weight average",
            marker="*",
            colour="#B0579A",
            line=":",
            explanation="One network whose weights are the mean of the checkpoints along one training.",
        ),
        Method(
            name="swad",
            label="SWAD",
            marker="X",
            colour="#5B5EA6",
            line="-",
            explanation="One network whose weights are the mean over all steps of one training from where the i.i.d. "
            "loss stops falling to where it rises (stochastic weight averaging, densely).",
        ),
        Method(
            name="ema",
            label="exponential average",
            marker="v",
            colour="#7A9A01",
            line="--",
            explanation="One network whose weights are the mean over all steps of one training, each step weighing "
            "less than the next by a constant factor.",
        ),
        Method(
            name="wise-ft",
            label="WiSE-FT",
            marker="<",
            colour="#56B4E9",
            line="--",
            explanation="One network whose weights lie between those that the training started from and those that it "
            "ended with; alpha, the share of the way back, is chosen by the same rule as other settings (weight-space "
            "ensembles for fine-tuning).",
        ),
        Method(
            name="way-back",
            label="way back",
            marker="h",
            colour="#1B1B1B",
            line=":",
            explanation="The network that a training hands over: the weights of a checkpoint or an average along it, "
            "moved a fixed share of the way back to those that it started from.",
        ),
        Method(
            name="ensemble-across",
            label="ensemble across trajectories",
            marker="^",
            colour="#009E73",
            line="--",
            explanation="The mean of the outputs of the last checkpoints of several trainings, which differ in "
            "settings such as the learning rate.",
            across=True,
        ),
        Method(
            name="weight-average-across",
            label="weight average across trajectories",
            marker="*",
            colour="#B0579A",
            line=":",
            explanation="One network whose weights are the mean of the last checkpoints of several trainings from the "
            "same pretrained weights, which differ in settings such as the learning rate.",
            across=True,
        ),
        Method(
            name="greedy-soup",
            label="greedy soup",
            marker="P",
            colour="#B8860B",
            line="-",
            explanation="As weight-average-across, of some of the checkpoints only: in the order of their i.i.d. "
            "accuracy, each is kept if the i.i.d. accuracy of the mean does not fall.",
            across=True,
        ),
        Method(
            name="linear-fine-tuning",
            label="linear fine-tuning",
            marker="p",
            colour="#8C564B",
            line="-",
            explanation="A new last layer trained on a weighted sum of what the frozen network's last residual blocks "
            "give, and the weights of that sum, one for each channel.",
            fit="linear",
        ),
        Method(
            name="linear-probe",
            label="linear probe",
            marker="s",
            colour="#6B6B6B",
            line="-",
            explanation="Only a new last layer trained, on the frozen network's representation.",
            fit="probe",
        ),
    )
}
"""Methods by name, in the order of every table."""

PLAIN = replace(METHODS["fine-tuning"], label="plain fine-tuning", marker="o", colour="#0072B2")
"""Fine-tuning at rate 0, the baseline of gains, with its label and colour."""


def method_of(name: str, dropout: float) -> Method:
    """The method ``name``, or ``PLAIN`` for fine-tuning at ``dropout`` 0."""
    return PLAIN if name == PLAIN.name and dropout == 0 else METHODS[name]


def checkpoint_method(fit: str) -> Method:
    """The method of a run's checkpoint of best i.i.d. accuracy, by ``Config.fit``."""
    return next(method for method in METHODS.values() if method.fit == fit)


def order(name: str) -> int:
    """The index of the method ``name`` in every table."""
    return list(METHODS).index(name)
