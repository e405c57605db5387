"""What all objectives have in common, in float64 on tiny networks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.helpers import Tiny, batch, gradients, refusal
from torch import Tensor, nn
from torch.nn import functional as F

from largedrop import config
from largedrop.errors import UserError
from largedrop.training.kinds import classes_in
from largedrop.training.objectives import OBJECTIVES, Objective, StepResult, make_objective

PENALISED = ("coral", "vrex", "irm")


def bound(name: str, net: nn.Module, weight: float | None = None, anneal_steps: int | None = None) -> Objective:
    objective = make_objective(name, weight, anneal_steps)
    objective.bind(net, torch.optim.SGD(net.parameters(), 0.1))
    return objective


def erm_gradients(images: Tensor, labels: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    net = Tiny()
    loss = F.cross_entropy(net.both(images)[1], labels)
    loss.backward()
    return gradients(net), loss.detach()


def test_the_registry_has_domainbeds_or_the_authors_defaults() -> None:
    found = {name: (one.weight, one.anneal_steps) for name in OBJECTIVES for one in [make_objective(name)]}
    domainbeds = {"erm": (0, 0), "coral": (1, 0), "vrex": (10, 500), "irm": (100, 500), "mldg": (1, 0)}
    assert found == {**domainbeds, "mixout": (0.8, 0), "l2sp": (0.1, 0)}


def test_the_configs_objectives_are_those_that_there_are() -> None:
    found = [kind for kind in classes_in("largedrop.training.objectives") if issubclass(kind, Objective)]
    assert sorted(kind.name for kind in found) == sorted(config.OBJECTIVES)
    assert {name: kind.name for name, kind in OBJECTIVES.items()} == {name: name for name in config.OBJECTIVES}


def test_erm_is_plain_cross_entropy() -> None:
    images, labels = batch()
    net, (wanted, loss) = Tiny(), erm_gradients(*batch())
    result = bound("erm", net).backward(net.both, images, labels, 3, 0)
    assert net.calls == [18]
    assert torch.equal(result.loss, loss)
    assert float(result.penalty) == 0
    assert all(torch.equal(wanted[name], found) for name, found in gradients(net).items())
    assert len(gradients(net)) == 4


@pytest.mark.parametrize("name", PENALISED)
def test_one_forward_pass_and_the_loss_is_the_cross_entropy_alone(name: str) -> None:
    images, labels = batch()
    net, (wanted, loss) = Tiny(), erm_gradients(images, labels)
    result = bound(name, net).backward(net.both, images, labels, 3, 0)
    assert net.calls == [18]
    torch.testing.assert_close(result.loss, loss)
    assert float(result.penalty) != 0
    assert not torch.allclose(wanted["head.weight"], gradients(net)["head.weight"], rtol=1e-3) or name == "coral"
    assert not torch.allclose(wanted["body.weight"], gradients(net)["body.weight"], rtol=1e-3)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_results_are_no_part_of_a_graph_and_in_order(name: str) -> None:
    images, labels = batch()
    net = Tiny()
    with torch.no_grad():
        wanted = net.both(images)[0]
    result = bound(name, net).backward(net.both, images, labels, 3, 0)
    assert not any(one.requires_grad for one in (result.loss, result.penalty, result.representation))
    torch.testing.assert_close(result.representation, wanted)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_weight_of_zero_is_erm_at_every_step(name: str) -> None:
    images, labels = batch()
    wanted, loss = erm_gradients(images, labels)
    for step in (0, 500):
        net = Tiny()
        result = bound(name, net, 0.0).backward(net.both, images, labels, 3, step)
        torch.testing.assert_close(result.loss, loss, rtol=1e-12, atol=1e-12)
        assert float(result.penalty) == 0
        for key, found in gradients(net).items():
            torch.testing.assert_close(found, wanted[key], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_with_several_masks_it_is_the_mean_of_the_objective_under_each(name: str) -> None:
    images, labels = batch()
    masks = (torch.rand(4, 5, generator=torch.Generator().manual_seed(3)) < 0.6).double()

    def under(net: Tiny, chosen: Tensor) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
        def forward(given: Tensor) -> tuple[Tensor, Tensor]:
            representation = torch.tanh(net.body(given))
            return representation, net.head(torch.cat([mask * representation for mask in chosen]))

        return forward

    net, apart = Tiny(), Tiny()
    torch.manual_seed(0)
    together = bound(name, net, anneal_steps=None).backward(under(net, masks), images, labels, 3, 0)
    if name == "mldg":  # its inner step is one of the mean loss, so only the losses are compared
        return
    losses = []
    for mask in masks:
        torch.manual_seed(0)
        losses.append(bound(name, apart).backward(under(apart, mask[None]), images, labels, 3, 0).loss)
    torch.testing.assert_close(together.loss, torch.stack(losses).mean(), rtol=1e-12, atol=0)
    for key, found in gradients(net).items():
        torch.testing.assert_close(len(masks) * found, gradients(apart)[key], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_gradients_are_added_to_those_there_are(name: str) -> None:
    images, labels = batch()
    once, twice = Tiny(), Tiny()
    for net, times in ((once, 1), (twice, 2)):
        objective = bound(name, net)
        for _ in range(times):
            torch.manual_seed(0)
            objective.backward(net.both, images, labels, 3, 0)
    for key, found in gradients(once).items():
        torch.testing.assert_close(2 * found, gradients(twice)[key])


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_loss_is_at_least_float32(name: str) -> None:
    net = Tiny().float()

    def half(images: Tensor) -> tuple[Tensor, Tensor]:
        representation, logits = net.both(images)
        return representation.bfloat16(), logits.bfloat16()

    images, labels = batch()
    result = bound(name, net).backward(half, images.float(), labels, 3, 0)
    assert result.loss.dtype == result.penalty.dtype == torch.float32
    assert all(torch.isfinite(gradient).all() for gradient in gradients(net).values())


@pytest.mark.parametrize("name", OBJECTIVES)
def test_with_one_training_domain(name: str) -> None:
    images, labels = batch(1)
    net = Tiny()
    objective = bound(name, net)
    if objective.fewest_domains == 1:
        objective.backward(net.both, images, labels, 1, 0)
        return
    with pytest.raises(UserError, match=f"^{name} compares training domains: it needs 2 or more, not 1$"):
        objective.backward(net.both, images, labels, 1, 0)
    with pytest.raises(UserError, match=name):
        objective.check(1, 32)
    objective.check(2, 32)
    assert net.calls == []


@pytest.mark.parametrize("name", ["coral", "irm"])
def test_with_one_image_of_each_domain(name: str) -> None:
    images, labels = batch(3, 1)
    with pytest.raises(UserError, match=f"^{name} needs batches of 2 or more images of each domain, not 1$"):
        make_objective(name).backward(Tiny().both, images, labels, 3, 0)
    images, labels = batch(3, 2)
    net = Tiny()
    assert torch.isfinite(make_objective(name).backward(net.both, images, labels, 3, 0).penalty)


@pytest.mark.parametrize(("images", "labels", "domains"), [(17, 17, 3), (18, 17, 3), (18, 18, 0)])
def test_batches_that_are_not_equal(images: int, labels: int, domains: int) -> None:
    with pytest.raises(ValueError, match="not equal batches"):
        make_objective("erm").backward(Tiny().both, batch()[0][:images], batch()[1][:labels], domains, 0)


@pytest.mark.parametrize("name", ["vrex", "irm"])
def test_annealing(name: str) -> None:
    objective = make_objective(name, 7.0, 3)
    assert [objective.weight_at(step) for step in range(5)] == [1, 1, 1, 7, 7]
    assert [step for step in range(6) if objective.resets_optimizer_at(step)] == [3]
    images, labels = batch()
    found = {}
    for step in (2, 3):
        net = Tiny()
        penalty = objective.backward(net.both, images, labels, 3, step).penalty
        found[step] = gradients(net)["head.weight"]
        assert float(penalty) != 0
    wanted, _ = erm_gradients(images, labels)
    early, late = (found[step] - wanted["head.weight"] for step in (2, 3))
    torch.testing.assert_close(7 * early, late)


@pytest.mark.parametrize("name", ["erm", "coral", "mldg", "mixout", "l2sp"])
def test_the_others_have_one_weight_and_never_reset(name: str) -> None:
    objective = make_objective(name)
    assert len({objective.weight_at(step) for step in (0, 1, 500, 9999)}) == 1
    assert not any(objective.resets_optimizer_at(step) for step in (0, 1, 500))


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("vrexx",), f"no objective 'vrexx'; did you mean 'vrex'? (there are: {', '.join(OBJECTIVES)})"),
        (("vrex", -1.0), "the weight of vrex must be a number of 0 or more, not -1.0"),
        (("irm", float("nan")), "the weight of irm must be a number of 0 or more, not nan"),
        (("irm", 1.0, -2), "the steps before irm's weight takes effect must be 0 or more, not -2"),
        (("coral", 1.0, 10), "coral is not annealed: its annealing steps must be 0, not 10"),
        (("mixout", 1.0), "mixout's penalty is the share of the filters that are reset, in [0, 1), not 1"),
        (("erm", 1.0), "erm has no penalty: its weight must be 0, not 1.0"),
    ],
)
def test_what_makes_no_sense(arguments: Any, text: str) -> None:
    assert refusal(make_objective, *arguments) == text


WEIGHTS = torch.tensor([0.25, 3.0, 0.5], dtype=torch.float64)


def weighted(name: str, weights: Tensor | None, weight: float | None = None) -> tuple[StepResult, dict[str, Tensor]]:
    """A step at the pretrained weights with weights of the classes, and its gradients."""
    net = Tiny()
    objective = bound(name, net, weight)
    if weights is not None:
        objective.weigh(weights)
    torch.manual_seed(1)
    result = objective.backward(net.both, *batch(), 3, 0)
    return result, gradients(net)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_weights_of_one_change_nothing(name: str) -> None:
    (plain, wanted), (same, found) = (weighted(name, each) for each in (None, torch.ones_like(WEIGHTS)))
    torch.testing.assert_close((same.loss, same.penalty), (plain.loss, plain.penalty), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_loss_is_the_mean_of_the_weighted_cross_entropies(name: str) -> None:
    result, found = weighted(name, WEIGHTS, 0.0)
    net, (images, labels) = Tiny(), batch()
    losses = F.cross_entropy(net.both(images)[1], labels, reduction="none")
    loss = (losses * WEIGHTS[labels]).sum() / len(labels)
    loss.backward()
    torch.testing.assert_close(result.loss, loss.detach(), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(found, gradients(net), rtol=1e-10, atol=1e-12)


def test_penalties_are_of_the_weighted_cross_entropies() -> None:
    net, (images, labels) = Tiny(), batch()
    logits = net.both(images)[1].detach()
    scale = torch.ones((), dtype=torch.float64, requires_grad=True)
    losses = (F.cross_entropy(scale * logits, labels, reduction="none") * WEIGHTS[labels]).view(3, 6)
    variance = losses.mean(1).var(unbiased=False)
    torch.testing.assert_close(weighted("vrex", WEIGHTS)[0].penalty, variance.detach(), rtol=1e-12, atol=1e-14)
    products = []
    for part in losses:
        even, odd = (torch.autograd.grad(part[start::2].mean(), scale, retain_graph=True)[0] for start in (0, 1))
        products.append(even * odd)
    wanted = torch.stack(products).mean()
    torch.testing.assert_close(weighted("irm", WEIGHTS)[0].penalty, wanted, rtol=1e-10, atol=1e-12)
    (first, _), (second, _) = weighted("mldg", WEIGHTS), weighted("mldg", None)
    assert not torch.isclose(first.penalty, second.penalty)
