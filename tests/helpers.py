"""What tests of several modules use."""

from __future__ import annotations

import importlib
import json
import math
import os
import sys
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as V

import largedrop as ld
from largedrop.cli import main
from largedrop.config import PROTOCOL, Config, make_config
from largedrop.data import folder
from largedrop.data.listing import Listing, make_listing
from largedrop.errors import Interrupted, UserError
from largedrop.report.published import DATASETS
from largedrop.reporter import Reporter
from largedrop.runs.checkpoint import read_tensors
from largedrop.runs.record import Record
from largedrop.training.loop import train
from largedrop.training.state import STATE_FILE

TINY: dict[str, Any] = {
    "model": "test_efficientnet",
    "weights": "random",
    "size": 32,
    "steps": 6,
    "batch": 4,
    "eval_every": 2,
    "lr": 1e-3,
    "optimizer": "sgd",
    "precision": "float32",
}
"""A fine-tuning of a second: 0.1 million weights, no pretrained ones, float32 so that every machine has it."""


LIGHTNING = [
    pytest.mark.filterwarnings(f"ignore:{text}")
    for text in (
        r"`isinstance\(treespec, LeafSpec\)` is deprecated:FutureWarning",
        "The `srun` command is available",
        "The '.*_dataloader' does not have many workers",
        "The number of training batches",
        "You are using `torch.load` with `weights_only=False`",  # torch 2.4 and 2.5, of Lightning's first versions
    )
]
"""What Lightning warns of wherever it trains for a second."""


def make_toy(root: Path, images: int = 6) -> Path:
    """Draw the toy dataset into ``root``: noise, coloured by class and tinted by domain."""
    rng = np.random.default_rng(0)
    for shade, domain in enumerate(("ink", "oil", "photo")):
        for channel, name in enumerate(("red", "green", "blue")):
            folder = root / domain / name
            folder.mkdir(parents=True)
            for number in range(images):
                pixels = rng.integers(0, 60, (32, 32, 3))
                pixels[..., channel] += 120
                pixels += 30 * shade
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
    return root


class Watch(Reporter):
    """Calls the functions that it is given instead of its methods of those names."""

    def __init__(self, **functions: Callable[..., Any]) -> None:
        assert set(functions) <= {"advance", "skip", "begin", "logged", "note", "failed", "stopped"}
        vars(self).update(functions)


def stopped_at(step: int) -> Watch:
    """Asks for a stop after the process's ``step``-th step."""
    asked = iter(range(1, 10_000))
    return Watch(stopped=lambda: next(asked) == step)


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def tensors(folder: Path) -> dict[str, Tensor]:
    """Every tensor of a run, by file and name."""
    return {
        f"{path.name}:{name}": tensor
        for path in sorted(folder.rglob("*.safetensors"))
        for name, tensor in load_file(path).items()
    }


def different(one: dict[str, Tensor], other: dict[str, Tensor]) -> list[str]:
    """The names of the tensors that have not the same bits."""
    assert one.keys() == other.keys()
    return [name for name in one if not torch.equal(one[name], other[name])]


def timeless(content: Any) -> Any:
    """JSON without what the clock and the memory said, and the checksum of it."""
    if isinstance(content, dict):
        measured = ("seconds", "memory", "checksum")
        return {name: timeless(value) for name, value in content.items() if name not in measured}
    return [timeless(value) for value in content] if isinstance(content, list) else content


def assert_same_run(one: Path, other: Path) -> None:
    """Two folders of finished runs hold the same bits, but for the seconds that they took."""
    assert files(one) == files(other)
    results = [timeless(json.loads((folder / "result.json").read_text())) for folder in (one, other)]
    differing = {name: [each[name] for each in results] for name in results[0] if results[0][name] != results[1][name]}
    assert not differing, differing
    assert (one / "log.json").read_bytes() == (other / "log.json").read_bytes()
    assert different(tensors(one), tensors(other)) == []
    for name in ("best", "average", "final"):
        headers = [read_tensors(folder / f"{name}.safetensors", "model")[1] for folder in (one, other)]
        assert headers[0] == headers[1]


FILES = [
    "average.safetensors",
    "best.safetensors",
    "config.json",
    "final.safetensors",
    "log.json",
    "outputs/000000.safetensors",
    "outputs/000002.safetensors",
    "outputs/000004.safetensors",
    "outputs/000006.safetensors",
    "result.json",
    "split.csv",
]
"""What a finished run of the fixture ``config`` holds."""


KINDS: dict[str, dict[str, Any]] = {
    "sgd": {},
    "adamw": {"optimizer": "adamw", "weight_decay": 0.01, "schedule": "cosine", "warmup": 0.3},
    "cold": {"head": "random", "head_lr_multiplier": 10.0, "eval_every": 4},
    "zero": {"head": "zero", "dropout": 0.9, "masks": 4, "eval_every": 4},
    "frozen": {"weights_digest": ""},  # the weights of the fixture
    "swad": {"swad": True, "left_out": "ink", "decay_again_at": 0.8, "lr": 1e-5},
    "ema": {"ema": 0.7},
    "coral": {"objective": "coral", "penalty": 1.0},
    "vrex": {"objective": "vrex", "penalty": 1.0, "penalty_after": 2},
    "irm": {"objective": "irm", "penalty": 100.0, "penalty_after": 2},
    "mldg": {"objective": "mldg", "penalty": 1.0},
    "class weights": {"class_weights": "balanced", "held_out": 0.4},
    "balance": {"balance": True, "batch": 5},
    "masks": {"masks": 4, "dropout": 0.75},
    "mixout": {"objective": "mixout", "penalty": 0.8, "masks": 4, "dropout": 0.75},
    "l2sp": {"objective": "l2sp", "penalty": 0.1},
    "block dropout": {"model": "test_resnet", "block_dropout": 0.5},
}
"""Settings that take each their own way through the loop, by name; the fixture ``changed`` is the config with them."""


def step_by_step(config: Config, data: ld.Dataset, folder: Path) -> list[dict[str, Tensor]]:
    """Do a run, a process for each step; the states between them."""
    states: list[dict[str, Tensor]] = []
    for step in range(1, config.steps + 1):
        with pytest.raises(Interrupted, match=rf"^stopped after step {step} of {config.steps}$"):
            train(config, data, folder, reporter=Watch(stopped=lambda: True))
        states.append(load_file(folder / STATE_FILE))
    train(config, data, folder, reporter=Watch(stopped=lambda: True))
    return states


def network_of(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix("network."): value for name, value in state.items() if name.startswith("network.")}


OPTIONS = [text for name, value in TINY.items() for text in (f"--{name.replace('_', '-')}", str(value))]


FAST = [*OPTIONS, "--recipe", "short", "--device", "cpu"]


CHANGES: tuple[Callable[[Tensor, float], Tensor], ...] = (
    V.adjust_brightness,
    V.adjust_contrast,
    V.adjust_saturation,
    V.adjust_hue,
)
"""Torchvision's changes of colour, at the places of ``colour.BRIGHTNESS``, ``CONTRAST``, ``SATURATION`` and ``HUE``."""


def resized_crop(pixels: Tensor, box: Sequence[int], size: int) -> Tensor:
    """Torchvision's, on bytes (3, h, w): its first versions take floats where the processor has AVX-512."""
    return F.interpolate(V.crop(pixels, *box)[None], (size, size), mode="bilinear", antialias=True)[0]


def newer(model: str) -> pytest.MarkDecorator:
    """The mark of a test of a network that not every version of timm has."""
    return pytest.mark.skipif(not timm.is_model(model), reason=f"timm {timm.__version__} has no {model}")


FAKE_CUDA = pytest.mark.skipif(
    torch.__version__ < "2.5" and torch.version.cuda is not None and not torch.cuda.is_available(),
    reason="torch 2.4 made for CUDA looks for its driver, for a fake tensor as well",
)
"""The mark of a test on tensors that pretend to be on a GPU."""


SIGMAS = 5


def close_to_rate(zeros: Tensor, rate: float) -> bool:
    """Whether the share of True is ``rate`` up to five binomial standard deviations."""
    assert zeros.numel() > 0
    return abs(float(zeros.double().mean()) - rate) < SIGMAS * math.sqrt(rate * (1 - rate) / zeros.numel())


def refusal(function: Callable[..., object], *arguments: Any, **options: Any) -> str:
    """What the user is told by the ``UserError`` that the call raises."""
    with pytest.raises(UserError) as caught:
        function(*arguments, **options)
    return str(caught.value)


def without(monkeypatch: pytest.MonkeyPatch, package: str, module: str) -> str:
    """What is said when a module is imported where a package is not installed."""
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, module)
    return refusal(importlib.import_module, module)


def complaint(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """Run the command line, see that it fails with 2 and no traceback, and return what it says on standard error."""
    assert main([str(argument) for argument in arguments]) == 2
    said = capsys.readouterr().err
    assert said.startswith("largedrop: ")
    assert "Traceback" not in said
    return said.removeprefix("largedrop: ").rstrip("\n")


def one_line(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    said = complaint(capsys, *arguments)
    assert "\n" not in said
    return said


def list_images(path: str | Path, classes: str = "union") -> Listing:
    """The images of a folder, as they are opened."""
    return make_listing(folder.list_images(path), classes)


class Networks:
    """The networks that training has made, without keeping them.

    Attributes:
        made: references to the modules of each.
        before: how many of them were alive, or a part of them, when each was made.
    """

    def __init__(self) -> None:
        self.made: list[list[weakref.ref[nn.Module]]] = []
        self.before: list[int] = []

    @property
    def alive(self) -> int:
        return sum(any(module() is not None for module in modules) for modules in self.made)


class Tiny(nn.Module):
    """Images (n, 4) to a representation (n, 5) and logits (n, 3)."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.body, self.head = nn.Linear(4, 5), nn.Linear(5, 3)
        self.calls: list[int] = []
        self.double()
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -0.6, 0.6)  # with all the digits of float64

    def both(self, images: Tensor) -> tuple[Tensor, Tensor]:
        self.calls.append(len(images))
        representation = torch.tanh(self.body(images))
        return representation, self.head(representation)


def batch(domains: int = 3, size: int = 6) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    shift = torch.arange(domains).repeat_interleave(size)[:, None]
    images = torch.randn(domains * size, 4, dtype=torch.float64, generator=generator) + shift
    return images, torch.randint(0, 3, (domains * size,), generator=generator)


def gradients(net: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.grad.clone() for name, parameter in net.named_parameters() if parameter.grad is not None}


GOLDEN = Path(__file__).parent / "report" / "golden"


PACS: dict[str, Any] = {
    "name": "pacs_copy",
    "fingerprint": "f00d" * 16,
    "domains": dict(DATASETS["PACS"].domains),
    "classes": list(DATASETS["PACS"].classes),
}


def config(domain: str = "photo", seed: int = 0, dropout: float = 0.0, lr: float = 1e-3, **changes: Any) -> Config:
    settings: dict[str, Any] = {"data": "pacs_copy", "fingerprint": "f00d" * 16, "lr": lr, "weight_decay": 5e-5}
    return make_config("paper", **{**settings, "test_domain": domain, "seed": seed, "dropout": dropout, **changes})


def result(iid: float, ood: float, steps: int = 10_000, **changes: Any) -> dict[str, Any]:
    line = {"step": 300, "iid_accuracy": iid, "ood_accuracy": ood, "train_loss": 0.1}
    common = {"steps": steps, "seconds": 12.5}
    methods = {
        "fine-tuning": {"iid_accuracy": iid, "ood_accuracy": ood, **common},
        "ensemble": {"iid_accuracy": iid, "ood_accuracy": ood + 0.01, **common},
    }
    return {"largedrop": "0.1.0", "methods": methods, "best_step": 300, "log": [line], **changes}


def store(root: Path, made: Config, found: dict[str, Any] | None, name: str = "") -> Path:
    folder = root / (name or made.run_name)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"protocol": PROTOCOL, **made.to_json()}, indent=2))
    if found is not None:
        (folder / "result.json").write_text(json.dumps(found, indent=2))
    return folder


def golden(name: str, text: str) -> None:
    """Compare with the stored file; ``GOLDEN=write`` in the environment stores it, to be looked at and committed."""
    path = GOLDEN / name
    if os.environ.get("GOLDEN") == "write":
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, "utf-8")
    assert text == path.read_text("utf-8")


def unanswering(monkeypatch: pytest.MonkeyPatch, *calls: str) -> None:
    """Have calls of ``os`` fail as on a file system that is mounted ``soft`` and whose server is away."""

    def failing(path: Any, *arguments: object, **options: object) -> None:
        raise OSError(5, "Input/output error", str(path))

    for call in calls:
        monkeypatch.setattr(Path if call == "unlink" else os, call, failing)


def make_fixture_images(root: Path) -> Path:
    """The images that the runs in ``tests/fixtures/protocol2`` were trained on: ``oil`` is smaller than the others."""
    make_toy(root, images=16)
    for path in root.glob("oil/*/*.png"):
        if int(path.stem) >= 6:
            path.unlink()
    return root


def record(
    domain: str, seed: int, iid: float, ood: float, method: str = "fine-tuning", dropout: float = 0.0, **settings: Any
) -> Record:
    return Record(method, dropout, domain, seed, iid, ood, 10, 1.0, settings)


TWO_SETTINGS = [
    record("a", 0, 0.70, 0.40, lr=0.1),
    record("a", 1, 0.80, 0.50, lr=0.1),
    record("a", 0, 0.70, 0.60, lr=0.5),
    record("a", 1, 0.70, 0.70, lr=0.5),
    record("b", 0, 0.80, 0.90, lr=0.1),
    record("b", 1, 0.80, 0.80, lr=0.1),
    record("b", 0, 0.90, 0.20, lr=0.5),
    record("b", 1, 0.80, 0.40, lr=0.5),
]
"""On two domains with two seeds: lr 0.1 is better i.i.d. on a (0.75 to 0.70), lr 0.5 on b (0.85 to 0.80), and o.o.d.
each time the other.
"""
