"""V-REx against losses made by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.helpers import Tiny, batch, gradients
from torch.nn import functional as F

from largedrop.training.objectives.vrex import VREx, vrex_penalty


@pytest.mark.parametrize("losses", [[1.0, 3.0], [0.0, 0.0, 3.0], [2.0, 2.0, 2.0, 2.0]])
def test_the_variance_is_divided_by_the_number_of_domains(losses: list[float]) -> None:
    assert float(vrex_penalty(torch.tensor(losses))) == pytest.approx(float(np.var(losses)))


def test_the_whole_objective() -> None:
    images, labels = batch()
    net, by_hand = Tiny(), Tiny()
    result = VREx(10.0, 0).backward(net.both, images, labels, 3, 0)
    losses = [F.cross_entropy(by_hand.both(images[6 * k : 6 * k + 6])[1], labels[6 * k : 6 * k + 6]) for k in range(3)]
    mean = torch.stack(losses).mean()
    variance = ((losses[0] - mean) ** 2 + (losses[1] - mean) ** 2 + (losses[2] - mean) ** 2) / 3
    (mean + 10 * variance).backward()
    assert float(result.penalty) == pytest.approx(float(variance.detach()))
    assert float(result.loss) == pytest.approx(float(mean.detach()))
    for name, wanted in gradients(by_hand).items():
        torch.testing.assert_close(gradients(net)[name], wanted, rtol=1e-10, atol=1e-12)
