"""Linear training of many settings against a plain loop over each."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tests.helpers import Watch
from torch import Tensor
from torch.nn import functional as F

from largedrop.config import Config, make_config
from largedrop.data.random import torch_seed
from largedrop.data.sampling import batch_indices
from largedrop.errors import Interrupted
from largedrop.linear.problem import Problem
from largedrop.linear.sgd.masks import draw, multiplier
from largedrop.linear.sgd.result import LinearResult
from largedrop.linear.sgd.train import train_linear

SETTING = make_config(
    "paper",
    **{"data": "d", "fingerprint": "f", "test_domain": "t", "fit": "linear", "dropout": 0.5},
    **{
        "lr": 0.05,
        "weight_decay": 1e-2,
        "seed": 3,
        "steps": 25,
        "batch": 5,
        "decay_again_at": 0.8,
        "eval_every": 10,
        "v_start": "last",
    },
)
WIDTHS = ((6, 6, 6), (3, 4, 6))


def make_problem(widths: tuple[int, ...] = WIDTHS[0], *, seed: int = 0, views: int = 1, classes: int = 3) -> Problem:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, 90)
    centres = rng.standard_normal((classes, sum(widths)))
    features = [
        torch.from_numpy(centres[labels] + 1.5 * rng.standard_normal((90, sum(widths)))).half() for _ in range(views)
    ]
    train = (np.arange(0, 31), np.arange(31, 50))
    iid, ood = np.arange(50, 70), np.arange(70, 90)
    tested = np.zeros_like(ood), ("test",)
    return Problem(tuple(features), widths, labels, train, iid, np.repeat([0, 1], [14, 6]), ood, *tested, classes)


def of_iid(values: Tensor) -> Tensor:
    """The mean over the two training domains of what is known of the images that are not trained on."""
    return (values[:14].mean() + values[14:20].mean()) / 2


def plain(problem: Problem, setting: Config) -> tuple[list[Tensor], list[Tensor]]:
    """v, V, b after training in float64 by ``torch.optim.SGD``; logits on the held-out images at every evaluation."""
    widths = problem.widths
    last = widths[-1]
    wide = sum(widths) if len(set(widths)) > 1 else last
    units = wide if setting.fit == "linear" else last
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch_seed("linear head", setting.seed))
        layer = torch.nn.Linear(units, problem.classes).double()
    vs = [torch.full((width,), float(number == len(widths) - 1)).double() for number, width in enumerate(widths)]
    if setting.v_start == "normal":
        drawn = torch.randn(sum(widths), generator=torch.Generator().manual_seed(torch_seed("linear v", setting.seed)))
        vs = [part.double() for part in drawn.split(widths)]
    trained: list[Tensor] = list(layer.parameters())
    if setting.fit == "linear":
        trained += [v.requires_grad_() for v in vs]
    optimizer = torch.optim.SGD(trained, setting.lr, setting.momentum, weight_decay=setting.weight_decay)
    tables = [view.double() for view in problem.views]

    def adapted(features: Tensor) -> Tensor:
        taps = features.split(widths, dim=1)
        if setting.fit == "probe":
            return taps[-1]
        weighted = [v * tap for v, tap in zip(vs, taps, strict=True)]
        return sum(weighted, torch.zeros(())) if wide == last else torch.cat(weighted, 1)

    logits = []
    for step in range(setting.steps):
        if setting.schedule == "cosine":
            warm = round(setting.steps * setting.warmup)
            rest = setting.steps - warm
            factor = (step + 1) / warm if step < warm else (1 + math.cos(math.pi * (step - warm) / rest)) / 2
            optimizer.param_groups[0]["lr"] = setting.lr * factor
        elif step in (round(setting.steps * setting.decay_at + 0.49), round(setting.steps * setting.decay_again_at)):
            optimizer.param_groups[0]["lr"] *= 0.1
        chosen = batch_indices(problem.train, setting.batch, setting.seed, step)
        _, views = problem.batches(setting.batch, setting.seed, step, step + 1)
        x = torch.stack([tables[view][image] for view, image in zip(views[0], chosen, strict=True)])
        mask = np.empty((len(chosen), units))
        multiplier(draw(setting.seed, step, len(chosen), units), setting.dropout, mask)
        x = adapted(x) * torch.from_numpy(mask)
        loss = F.cross_entropy(layer(x), torch.from_numpy(problem.labels[chosen]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step + 1 in setting.evaluations:
            with torch.no_grad():
                logits.append(layer(adapted(tables[0][np.concatenate([problem.iid, problem.ood])])))
    weights = [layer.weight, layer.bias] + ([torch.cat(vs)] if setting.fit == "linear" else [])
    return [weight.detach() for weight in weights], logits


def weights_of(result: LinearResult) -> list[Tensor]:
    model = result.last_model
    return [model.weight, model.bias] + ([] if model.v is None else [model.v.flatten()])


@pytest.mark.parametrize(("fit", "v_start"), [("linear", "last"), ("linear", "normal"), ("probe", "last")])
@pytest.mark.parametrize("widths", WIDTHS)
def test_many_settings_are_trained_as_each_by_torchs_sgd(widths: tuple[int, ...], fit: str, v_start: str) -> None:
    first, second = make_problem(widths), make_problem(widths, seed=1, views=3)
    base = replace(SETTING, fit=fit, v_start=v_start)
    tasks = [
        (problem, replace(base, dropout=rate, lr=lr, weight_decay=decay, seed=seed))
        for problem in (first, second)
        for rate in (0.0, 0.5, 0.75, 0.9)
        for lr, decay in ((0.05, 1e-2), (0.02, 0.0), (0.1, 0.1))
        for seed in (3, 4)
    ]
    results = train_linear(tasks, dtype=torch.float64)
    for (problem, setting), result in zip(tasks, results, strict=True):
        expected, logits = plain(problem, setting)
        for found, wanted in zip(weights_of(result), expected, strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-12)
        assert result.setting == setting
        assert [e.step for e in result.evaluations] == [10, 20, 25]
        for evaluation, output in zip(result.evaluations, logits, strict=True):
            stored, labels = output.half(), torch.from_numpy(problem.labels[50:])
            right = (stored.argmax(1) == labels).double()
            assert evaluation.iid_accuracy == pytest.approx(float(of_iid(right)))
            assert evaluation.ood_accuracy == pytest.approx(float(right[20:].mean()))
            loss = of_iid(F.cross_entropy(output, labels, reduction="none"))
            assert evaluation.iid_loss == pytest.approx(float(loss), rel=1e-9)


@pytest.mark.parametrize("fit", ["linear", "probe"])
@pytest.mark.parametrize(("classes", "width", "batch"), [(3, 6, 5), (7, 400, 48), (23, 6, 5), (65, 40, 5)])
def test_no_bit_depends_on_what_is_trained_beside_it(fit: str, classes: int, width: int, batch: int) -> None:
    """Whether a group is whole, or divided, and of small and of large matrices."""
    problem, other = (make_problem((width,) * 3, seed=seed, classes=classes) for seed in (0, 1))
    base = replace(SETTING, fit=fit, steps=12, batch=batch)
    settings = [replace(base, lr=0.01 * n, dropout=rate) for n in range(1, 24) for rate in (0.0, 0.5, 0.9)]
    together = train_linear([(p, setting) for p in (problem, other) for setting in settings])
    for index in (0, 1, 8, 68):
        (alone,) = train_linear([(problem, settings[index])])
        assert all(map(torch.equal, weights_of(alone), weights_of(together[index])))
        assert alone.evaluations == together[index].evaluations


def test_settings_with_other_batches_can_be_trained_together() -> None:
    problem = make_problem()
    settings = [replace(SETTING, batch=batch, dropout=rate) for batch in (5, 3) for rate in (0.0, 0.5, 0.9)]
    together = train_linear([(problem, one) for one in settings], dtype=torch.float64)
    for setting, result in zip(settings, together, strict=True):
        for found, wanted in zip(weights_of(result), plain(problem, setting)[0], strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-12)


def test_settings_with_other_schedules_can_be_trained_together() -> None:
    problem = make_problem()
    changes: list[dict[str, Any]] = [{}, {"schedule": "cosine"}, {"schedule": "cosine", "warmup": 0.2}]
    settings = [replace(SETTING, decay_again_at=1.0, **change) for change in changes]
    together = train_linear([(problem, one) for one in settings], dtype=torch.float64)
    for setting, result in zip(settings, together, strict=True):
        for found, wanted in zip(weights_of(result), plain(problem, setting)[0], strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-12)


def test_threads_change_no_bit() -> None:
    tasks = [(make_problem(seed=n), replace(SETTING, dropout=rate)) for n in range(3) for rate in (0.0, 0.5, 0.9)]
    one = train_linear(tasks)
    torch.set_num_threads(3)
    three = train_linear(tasks)
    for first, second in zip(one, three, strict=True):
        assert all(map(torch.equal, weights_of(first), weights_of(second)))


def test_float32_is_near_float64() -> None:
    problem = make_problem()
    settings = [replace(SETTING, dropout=rate) for rate in (0.0, 0.5, 0.9)]
    tasks = [(problem, setting) for setting in settings]
    for low, high in zip(train_linear(tasks), train_linear(tasks, dtype=torch.float64), strict=True):
        for found, wanted in zip(weights_of(low), weights_of(high), strict=True):
            torch.testing.assert_close(found.double(), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("widths", WIDTHS)
def test_it_starts_from_the_pretrained_representation(widths: tuple[int, ...]) -> None:
    """With a learning rate of next to nothing, linear fine-tuning ends as it began: v is 1 for the last tap alone."""
    (result,) = train_linear([(make_problem(widths), replace(SETTING, lr=1e-12))])
    v = result.last_model.v
    assert v is not None
    assert v.flatten().round(decimals=5).tolist() == [0.0] * sum(widths[:-1]) + [1.0] * widths[-1]


def test_best_mean_and_ensemble() -> None:
    problem = make_problem()
    setting = replace(SETTING, lr=0.3, eval_every=2)
    (result,) = train_linear([(problem, setting)], keep_logits=True)
    _, logits = plain(problem, setting)
    accuracies = [evaluation.iid_accuracy for evaluation in result.evaluations]
    labels = torch.from_numpy(problem.labels[50:])
    assert len(set(accuracies)) > 1
    assert result.best == result.evaluations[accuracies.index(max(accuracies))]
    assert result.best_model is not None
    features = problem.views[0]
    right = (result.best_model(features)[50:].half().argmax(1) == labels).double()
    assert float(of_iid(right)) == pytest.approx(max(accuracies))

    assert result.iid_logits is not None
    assert result.ood_logits is not None
    mean = torch.stack(logits).mean(0)
    torch.testing.assert_close(result.iid_logits.double(), mean[:20], rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(result.ood_logits.double(), mean[20:], rtol=1e-2, atol=1e-2)

    each = [weights_of(train_linear([(problem, _first(setting, step))])[0]) for step in (2, 4, 6)]
    (short,) = train_linear([(problem, _first(setting, 6))])
    model = short.mean_model
    assert model.v is not None
    for number, values in enumerate((model.weight, model.bias, model.v.flatten())):
        torch.testing.assert_close(values, torch.stack([weights[number] for weights in each]).mean(0))
    loss = of_iid(F.cross_entropy(model(features)[50:], labels, reduction="none"))
    assert short.mean.iid_loss == pytest.approx(float(loss), rel=1e-5)


def _first(setting: Config, steps: int) -> Config:
    """The first steps of a setting, which has no milestone among them."""
    return replace(setting, steps=steps, decay_at=1.0, decay_again_at=1.0)


def test_a_diverged_setting_is_flagged_and_harms_no_other() -> None:
    problem = make_problem()
    good = replace(SETTING, steps=60)
    wild = replace(good, lr=1e30)
    (alone,) = train_linear([(problem, good)])
    together, flagged = train_linear([(problem, good), (problem, wild)])
    assert flagged.diverged_at == 10
    assert (flagged.best, flagged.best_model, flagged.evaluations) == (None, None, ())
    assert alone.diverged_at is None
    assert all(map(torch.equal, weights_of(together), weights_of(alone)))


def test_progress_and_stop() -> None:
    problem = make_problem()
    done: list[int] = []
    tasks = [(problem, SETTING), (problem, replace(SETTING, steps=7)), (problem, replace(SETTING, fit="probe"))]
    before = torch.random.get_rng_state()
    results = train_linear(tasks, reporter=Watch(advance=done.append))
    assert sum(done) == 25 + 7 + 25
    assert [result.setting for result in results] == [setting for _, setting in tasks]
    assert torch.equal(before, torch.random.get_rng_state())
    with pytest.raises(Interrupted, match="stopped after step 10 of 25"):
        train_linear(tasks, reporter=Watch(stopped=lambda: True))
