"""What the tests share: a toy dataset of three domains, and a config for a tiny network."""

from __future__ import annotations

import gc
import multiprocessing
import weakref
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from tests.helpers import KINDS, TINY, Networks, make_fixture_images, make_toy

import largedrop as ld
from largedrop.config import Config
from largedrop.lease import Lease, take
from largedrop.models.network import Network
from largedrop.training import loop, setup
from largedrop.training.head import fit_head

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    """One thread: tiny networks gain nothing from more, which would only wait for each other on busy cores.

    The number changes a run's last bits: a test that sets another must not break others.
    """
    yield
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def quick_heads() -> Iterator[None]:
    """Heads are fitted in rounds of 5 steps instead of 100."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(setup, "fit_head", partial(fit_head, round_steps=5))
        yield


@pytest.fixture
def networks(monkeypatch: pytest.MonkeyPatch) -> Iterator[Networks]:
    """The networks that the test trains, with Python's collector off."""
    found = Networks()

    def watched(*arguments: Any) -> Network:
        found.before.append(found.alive)
        network = setup.create_network(*arguments)
        found.made.append([weakref.ref(module) for module in network.modules()])
        return network

    monkeypatch.setattr(loop, "create_network", watched)
    gc.collect()
    gc.disable()
    yield found
    gc.enable()


@pytest.fixture
def taken() -> Iterator[Any]:
    """``lease.take``, with what is taken given back at the end."""
    held: list[Lease] = []

    def taking(folder: Path) -> Lease:
        held.append(take(folder))
        return held[-1]

    yield taking
    for lease in held:
        lease.give_back(ended=False)


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test reads or writes the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LARGEDROP_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of three domains × three classes × six images of 32 × 32, told apart by their colour."""
    return make_toy(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="session")
def uneven(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As ``toy``, of sixteen images, and six in ``oil``: the mean over domains is not the mean over images."""
    return make_fixture_images(tmp_path_factory.mktemp("uneven"))


@pytest.fixture
def data(toy: Path) -> ld.Dataset:
    """The toy folder, opened."""
    return ld.open_dataset(toy)


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with weights of ``TINY``'s model: a network that starts from one has frozen batch norms."""
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = timm.create_model("test_efficientnet", pretrained=False)
        for layer in network.modules():
            if isinstance(layer, torch.nn.BatchNorm2d) and layer.running_mean is not None:
                layer.running_mean.normal_(0, 0.1)
    state = network.state_dict()
    save_file(state, path)
    return path


@pytest.fixture(scope="session")
def _forkserver() -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["largedrop.experiments.processes", "largedrop.data.views.kernels"])
    return context


@pytest.fixture
def quick_processes(_forkserver: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes to train in are forked from one that has imported all, instead of importing it each."""
    monkeypatch.setattr(multiprocessing, "get_context", lambda kind: _forkserver)


@pytest.fixture
def config(data: ld.Dataset) -> Config:
    """A run of a second on the toy data, tested on ``photo``."""
    return Config(data.name, data.fingerprint, "photo", **TINY, weights_digest="random")


@pytest.fixture
def changed(request: pytest.FixtureRequest, config: Config, weights: Path) -> Config:
    """The tiny config, changed as one of ``KINDS``."""
    settings = KINDS[request.param]
    return replace(config, **({**settings, "weights": str(weights)} if request.param == "frozen" else settings))
