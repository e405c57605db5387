"""Advice on the dropout rate before fine-tuning, from linear heads under dropout on frozen features.

Each training domain is held out in turn (``advice_curves``). The rule: of the rates that gain more than one standard
error over no dropout, keep those within one standard error of the best, and take the one nearest to the paper's 0.9. It
is the one-standard-error rule of Breiman et al. (1984), towards more regularisation. Some fine-tunings were known when
it was written, but no number in it was fitted to them; docs/studies/working-point.md compares it with later ones.

The standard errors are over the held-out domains, paired, since the rate is for a new domain.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from ..config import ABOUT, Config
from ..data.dataset import Dataset
from ..data.views.batches import open_views
from ..errors import check_type, several
from ..linear.features import FeatureStore
from ..reporter import SILENT, Relay, Reporter
from ..runs.estimate import Estimate, percentage_points
from ..training.device import choose_device
from ..training.resolve import resolve
from .advice_curves import RATES, SEEDS, Curves, Point, Weighing, check_rates, measure

__all__ = ["DEFAULT_RATE", "Advice", "advise", "interval_text", "recommend"]

DEFAULT_RATE = 0.9
"""The paper's rate, best or close to it on its four datasets of 10,000 to 25,000 images (section 4.1.1, figure 3)."""


@dataclass(frozen=True, eq=False, repr=False)
class Advice:
    """A recommended dropout rate, with its reason and the curves that it is based on.

    Attributes:
        rate: the rate of ``--dropout auto``.
        verdict: ``use`` (dropout gains), ``avoid`` (dropout loses at every rate), or ``cannot tell``.
        reason: one or two sentences.
        curves: the measured curves.
        about: dataset, network and views, as JSON types.
    """

    rate: float
    verdict: str
    reason: str
    curves: Curves
    about: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"<Advice {self.rate:g}, {self.verdict}: {self.reason}>"

    @property
    def point(self) -> Point | None:
        """The measurement at ``rate``; None where that rate was not measured."""
        return next((point for point in self.curves.points if point.rate == self.rate), None)


def advise(
    data: Dataset,
    *,
    test_domain: str | Sequence[str] | None = None,
    left_out: str = "",
    model: str = Config.model,
    size: int = 128,
    weights: str = "pretrained",
    precision: str = "auto",
    rates: Iterable[float] = RATES,
    seeds: Iterable[int] = SEEDS,
    balance: bool = Config.balance,
    class_weights: str = Config.class_weights,
    select_by: str = Config.select_by,
    device: str | torch.device = "auto",
    reporter: Reporter = SILENT,
) -> Advice:
    """The dropout rate that does best on domains that were held out of training, by linear heads on frozen features.

    Args:
        data: the dataset.
        test_domain: name of the test domain, whose images are not used, or names of several; with None, all domains are
            training domains.
        left_out: name of another domain whose images are not used; empty for none.
        model: name of the network, or several as ``a+b``.
        size: side of the images, in pixels.
        weights: initial weights, as in ``Config.weights``.
        precision: precision, as in ``Config.precision``, or ``auto``.
        rates: dropout rates λ; 0 is added.
        seeds: seeds of the i.i.d. splits.
        balance: whether the classes of each domain count equally in the heads' loss, as in ``Config.balance``.
        class_weights: weights of the classes in it, as in ``Config.class_weights``.
        select_by: which accuracy is measured, as in ``Config.select_by``.
        device: device that computes the features, or its name, as in ``finetune``.
        reporter: receives the work, 2 · len(data) in total, and notes about the features.

    Raises:
        UserError: unknown domains, rates out of range, features that cannot be computed, or too few images.
    """
    check_type(data, Dataset, "data must be a dataset from open_dataset")
    check_type(rates, Iterable, "rates must be several dropout rates")
    tested = () if test_domain is None else several(test_domain, "test_domain must be the name of a domain, or names")
    chosen = check_rates(rates)
    on = device if isinstance(device, torch.device) else choose_device(device)
    weighing = Weighing(balance, class_weights, select_by)
    weighing.check()
    config = resolve(
        data,
        on,
        recipe="short",
        fit="probe",
        test_domain=tested,
        left_out=left_out,
        model=model,
        size=size,
        weights=weights,
        precision=precision,
    )
    config.split_of(data)  # refuses what training would
    seen = Relay(reporter)
    features = FeatureStore(data, open_views(data, on, reporter), reporter=seen).features(config, count=1)
    reporter.skip(len(data) - seen.done)  # the features that were on disk
    curves = measure(
        data,
        features.representation,
        unseen=config.unseen,
        rates=chosen,
        seeds=seeds,
        weighing=weighing,
        reporter=reporter,
    )
    depends = [name for name, about in ABOUT.items() if about.group == "data" or about.features]
    about = {name: getattr(config, name) for name in depends if name != "seed"}  # the splits have their own seeds
    return recommend(curves, about | (asdict(weighing) if weighing != Weighing() else {}))


def recommend(curves: Curves, about: Mapping[str, Any] | None = None) -> Advice:
    """Apply the rule of this module to measured curves."""

    def made(rate: float, verdict: str, reason: str) -> Advice:
        return Advice(rate, verdict, reason, curves, about or {})

    if len(curves.held_out) < 2:
        there = len(curves.train_domains)
        why = (
            "there is one training domain only, so none can be held out"
            if there == 1
            else f"of {there} training domains only {len(curves.held_out)} can be held out"
        )
        return made(
            DEFAULT_RATE,
            "cannot tell",
            f"{why}, and i.i.d. accuracy does not say what a new domain needs: the rate is the paper's, by its own "
            "experiments and not by these data.",
        )
    measured = {point.rate: point for point in curves.points[1:]}
    gains = {rate: (point.gain.mean, point.gain.error or 0.0) for rate, point in measured.items() if point.gain}
    supported = [rate for rate, (mean, error) in gains.items() if mean > error]
    if supported:
        rate = _nearest(_as_good_as_best(curves, supported))
        return made(rate, "use", f"{_told(measured[rate])}.")
    harmless = [rate for rate, (mean, error) in gains.items() if mean >= -error]
    if not harmless:
        least = max(gains, key=lambda rate: gains[rate][0])
        return made(
            0.0, "avoid", f"every rate loses more than one standard error; least does {_told(measured[least])}."
        )
    rate = _nearest(harmless)
    return made(
        rate,
        "cannot tell",
        f"no rate gains more than one standard error; {_told(measured[rate])}. The rate is the nearest to the paper's "
        f"{DEFAULT_RATE:g} that does not lose more than one either.",
    )


def _as_good_as_best(curves: Curves, rates: Sequence[float]) -> list[float]:
    """The ``rates`` within one standard error of the best, paired by held-out domain."""
    means = {rate: curves.ood[curves.rates.index(rate)].mean(1) for rate in rates}
    best = max(rates, key=lambda rate: float(means[rate].mean()))
    found = []
    for rate in rates:
        behind = Estimate.of((means[best] - means[rate]).tolist())
        if behind is not None and behind.mean <= (behind.error or 0.0):
            found.append(rate)
    return found


def _nearest(rates: Sequence[float]) -> float:
    """The rate nearest to 0.9; in a tie, the lower."""
    return min(rates, key=lambda rate: (round(abs(rate - DEFAULT_RATE), 9), rate))


def _told(point: Point) -> str:
    n = point.gain.n if point.gain else 0
    return (
        f"at {point.rate:g} linear heads gain {percentage_points(point.gain)} percentage points on held-out domains "
        f"(mean ± standard error over {n} domains; {interval_text(point.gain)}), above 0 on {point.above} of {n}"
    )


def interval_text(gain: Estimate | None) -> str:
    """The 95 % confidence interval of the mean gain over domains, by Student's t, in percentage points."""
    if gain is None or gain.error is None:
        return "no interval from one domain"
    half = _student(gain.n - 1) * gain.error
    ends = [f"{100 * end:+.1f}".replace("-", "−") for end in (gain.mean - half, gain.mean + half)]
    return f"95 % interval {ends[0]} to {ends[1]}"


def _student(freedom: int) -> float:
    """The 97.5 % quantile of Student's t."""
    exact = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
    if freedom <= len(exact):
        return exact[freedom - 1]
    return 1.95996 + 2.3723 / freedom + 2.8225 / freedom**2  # Cornish and Fisher's expansion
