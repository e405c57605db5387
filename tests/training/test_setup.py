"""The start of a run: the network and its head, the optimiser's groups and rates, and the linear probe."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tests.helpers import refusal
from torch import Tensor

import largedrop as ld
from largedrop.config import Config
from largedrop.data.views.batches import HostViews
from largedrop.training import setup
from largedrop.training.features import FeatureCache
from largedrop.training.head import HeadFit, HeadRound
from largedrop.training.setup import create_network, make_optimizer, set_learning_rate, start_head


def states(config: Config, *seeds: int) -> list[dict[str, Tensor]]:
    return [create_network(replace(config, seed=seed), ("a", "b", "c")).state_dict() for seed in seeds]


def test_the_network_is_a_function_of_the_seed(config: Config) -> None:
    before = torch.get_rng_state()
    one, again, other = states(config, 0, 0, 1)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not torch.equal(one["head.weight"], other["head.weight"])
    assert not torch.equal(one["backbone.conv_stem.weight"], other["backbone.conv_stem.weight"])


def test_the_network_records_what_it_is(config: Config) -> None:
    network = create_network(replace(config, dropout=0.75), ("a", "b"))
    assert network.spec.to_json() == {
        "model": "test_efficientnet",
        "weights": "random",
        "classes": ("a", "b"),
        "size": 32,
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
        "dropout": 0.75,
        "freeze_batchnorm": False,
    }
    assert network.dropout.rate == 0.75
    assert network.head.weight.shape == (2, 256)


def test_pretrained_weights_do_not_depend_on_the_seed_and_freeze_their_statistics(config: Config) -> None:
    pretrained = replace(config, model="tf_efficientnet_lite0", weights="pretrained", weights_digest="")
    one, other = states(pretrained, 0, 1)
    differ = {name for name in one if not torch.equal(one[name], other[name])}
    assert differ == {"head.weight", "head.bias"}
    assert create_network(pretrained, ("a", "b")).spec.freeze_batchnorm


def test_other_weights_than_the_run_began_with(config: Config) -> None:
    assert refusal(create_network, replace(config, weights_digest="f00d"), ("a", "b")) == (
        "the weights of test_efficientnet (random) are no longer those that this run began with"
    )


@pytest.mark.parametrize(("optimizer", "kind"), [("sgd", torch.optim.SGD), ("adamw", torch.optim.AdamW)])
def test_the_groups_of_the_optimiser(config: Config, optimizer: str, kind: type) -> None:
    changed = replace(config, optimizer=optimizer, head_lr_multiplier=10.0, momentum=0.8, weight_decay=0.03)
    network = create_network(changed, ("a", "b"))
    made = make_optimizer(changed, network)
    assert type(made) is kind
    body, head = made.param_groups
    assert (body["lr"], body["initial_lr"]) == (1e-3, 1e-3)
    assert (head["lr"], head["initial_lr"]) == (pytest.approx(1e-2), pytest.approx(1e-2))
    assert [id(parameter) for parameter in head["params"]] == [id(network.head.weight), id(network.head.bias)]
    assert {id(parameter) for group in (body, head) for parameter in group["params"]} == {
        id(parameter) for parameter in network.parameters()
    }
    assert all(group["weight_decay"] == 0.03 for group in made.param_groups)
    assert all(group.get("momentum", 0.8) == 0.8 for group in made.param_groups)


def test_the_rate_is_a_tenth_from_the_milestone_on(config: Config) -> None:
    changed = replace(config, steps=7, decay_at=0.5, lr=0.5, head_lr_multiplier=4.0)
    optimizer = make_optimizer(changed, create_network(changed, ("a", "b")))
    for step, factor in enumerate([1, 1, 1, 1, 0.1, 0.1, 0.1]):
        assert set_learning_rate(optimizer, changed, step) == 0.5 * factor
        assert [group["lr"] for group in optimizer.param_groups] == [0.5 * factor, 2.0 * factor]
    assert set_learning_rate(optimizer, replace(changed, schedule="cosine", warmup=0.5), 0) == 0.125
    assert [group["lr"] for group in optimizer.param_groups] == [0.125, 0.5]
    # A run that is taken up again may be asked for any step.
    assert set_learning_rate(optimizer, changed, 0) == 0.5
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 2.0]


class Table:
    """Stands for cached features; units tell i.i.d. images' labels right and o.o.d. images' labels wrong."""

    def __init__(self, data: ld.Dataset, test_domain: str) -> None:
        labels = np.where(data.domain_ids == data.domain_index(test_domain), (data.labels + 1) % 3, data.labels)
        self.features = torch.eye(3)[torch.from_numpy(labels)]

    def get(self, *key: Any) -> Tensor:
        return self.features


RIGHT, WRONG, BLIND = torch.eye(3), torch.eye(3).roll(-1, 0), torch.zeros(3, 3)


@pytest.mark.parametrize(
    ("heads", "steps", "iid", "ood"),
    [
        ([WRONG, RIGHT, BLIND], 200, 1.0, 0.0),
        ([RIGHT, WRONG], 100, 1.0, 0.0),
        ([BLIND, WRONG], 100, 1 / 3, 1 / 3),
        ([BLIND, RIGHT, RIGHT * 2], 200, 1.0, 0.0),
        ([WRONG, WRONG * 2], 100, 0.0, 1.0),
    ],
)
def test_the_probe_is_selected_by_iid_accuracy_alone(
    data: ld.Dataset,
    config: Config,
    monkeypatch: pytest.MonkeyPatch,
    heads: list[Tensor],
    steps: int,
    iid: float,
    ood: float,
) -> None:
    rounds = [
        HeadRound(100 * (number + 1), 0.5 / (number + 1), head, torch.zeros(3)) for number, head in enumerate(heads)
    ]
    monkeypatch.setattr(setup, "fit_head", lambda *arguments, **more: HeadFit(tuple(rounds), converged=False))
    cold = replace(config, head="random")
    network, split = create_network(cold, data.classes), data.split("photo", 0)
    probe = start_head(cold, data, split, network, Table(data, "photo"))  # type: ignore[arg-type]
    assert probe.pop("seconds") >= 0
    # Of one class as many images as of another.
    assert (probe.pop("iid_macro_accuracy"), probe.pop("ood_macro_accuracy")) == pytest.approx((iid, ood))
    assert probe == {
        "iid_accuracy": pytest.approx(iid),
        "ood_accuracy": pytest.approx(ood),
        "steps": steps,
        "fit_steps": 100 * len(heads),
        "fit_loss": 0.5 / len(heads),
        "converged": False,
    }


def test_a_head_that_diverges_is_a_collapse(data: ld.Dataset, config: Config) -> None:
    changed = replace(config, weight_decay=1e300)
    network, split = create_network(changed, data.classes), data.split("photo", 0)
    with pytest.raises(
        ld.CollapseError, match=r"no head could be fitted .*: its loss is nan; try a weight decay below 1e\+300"
    ):
        start_head(changed, data, split, network, FeatureCache(HostViews(data)))


@pytest.mark.parametrize("head", ["warm", "zero", "random"])
def test_only_a_warm_head_is_the_fitted_one(
    data: ld.Dataset, config: Config, monkeypatch: pytest.MonkeyPatch, head: str
) -> None:
    fits: list[tuple[Any, ...]] = []

    def fit_head(*arguments: Any, **more: Any) -> HeadFit:
        fits.append(arguments)
        last = HeadRound(100, 1.0, torch.full((3, 256), 7.0), torch.full((3,), 8.0))
        return HeadFit((HeadRound(50, 1.0, torch.zeros(3, 256), torch.zeros(3)), last), converged=True)

    monkeypatch.setattr(setup, "fit_head", fit_head)
    changed = replace(config, head=head, dropout=0.5, weight_decay=0.25, seed=3)
    network, split = create_network(changed, data.classes), data.split("photo", 3)
    drawn = network.head.weight.detach().clone()
    start_head(changed, data, split, network, FeatureCache(HostViews(data)))
    assert bool(drawn.any()) == (head != "zero")
    expected = torch.full_like(drawn, 7.0) if head == "warm" else drawn
    assert torch.equal(network.head.weight, expected)
    assert bool((network.head.bias == 8).all()) is (head == "warm")
    ((features, labels, *rest),) = fits
    assert rest == [3, 0.5, 0.25, 3]
    for domain, (mine, theirs) in enumerate(zip(features, labels, strict=True)):
        assert mine.dtype == torch.float32
        assert len(mine) == len(theirs)
        assert theirs[: len(split.train[domain])].tolist() == data.labels[split.train[domain]].tolist()
