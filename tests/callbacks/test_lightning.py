"""The callback in Lightning's trainer: the same averages as in a loop of one's own, and the same after a stop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from tests.helpers import LIGHTNING, refusal, without
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

import largedrop as ld
from largedrop.callbacks.lightning import LightningCallback

pytestmark = [
    *LIGHTNING,
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
    pytest.mark.filterwarnings("ignore:The dirpath has changed"),
]


class Classifier(LightningModule):  # type: ignore[misc]
    """Sixteen images of three numbers in batches of four, so four steps an epoch."""

    def __init__(self, norm: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.network: Any = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8) if norm else nn.Tanh(), nn.Linear(8, 2))
        self.rows: list[int] = []
        self.weights: list[Tensor] = []
        self.losses: list[float] = []

    def forward(self, images: Tensor) -> Any:
        return self.network(images)

    def training_step(self, batch: tuple[Tensor, Tensor], number: int) -> Tensor:
        images, labels = batch
        torch.manual_seed(self.global_step)  # Lightning keeps no generator's state
        logits = self(images)
        self.rows.append(len(logits))
        return cross_entropy(logits, labels.repeat(len(logits) // len(labels)))

    def on_train_batch_end(self, *_: Any) -> None:
        self.weights.append(self.network[0].weight.detach().clone())

    def validation_step(self, batch: tuple[Tensor, Tensor], number: int) -> None:
        images, labels = batch
        self.log("val_loss", cross_entropy(self(images), labels))

    def on_validation_end(self) -> None:
        if not self.trainer.sanity_checking:
            self.losses.append(float(self.trainer.callback_metrics["val_loss"]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.5)


@pytest.fixture(scope="module")
def loader() -> Any:
    torch.manual_seed(0)
    images = torch.randn(16, 3)
    return DataLoader(TensorDataset(images, (images[:, 0] > 0).long()), batch_size=4)


def fit(module: Classifier, loader: Any, folder: Path, *callbacks: Any, epochs: int = 3, **more: Any) -> Any:
    quiet: dict[str, Any] = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    path = more.pop("ckpt_path", None)
    keep = ModelCheckpoint(dirpath=folder, filename="{epoch}", save_top_k=-1)
    trainer = Trainer(accelerator="cpu", devices=1, max_epochs=epochs, callbacks=[*callbacks, keep], **quiet, **more)
    trainer.fit(module, loader, loader, ckpt_path=path)
    return trainer


def test_the_exponential_average_of_a_loop_moved_back_with_dropout_and_masks(loader: Any, tmp_path: Path) -> None:
    module = Classifier()
    start = module.network[0].weight.detach().clone()
    callback = ld.LightningCallback(dropout=0.5, masks=4, head="network.2", decay=0.8, way_back=0.25)
    fit(module, loader, tmp_path, callback)
    assert module.rows == [16] * 12
    shares = torch.tensor([0.8 ** (11 - step) for step in range(12)], dtype=torch.float64)
    mean = (torch.stack(module.weights).double() * shares[:, None, None]).sum(0) / shares.sum()
    torch.testing.assert_close(module.network[0].weight.double(), 0.25 * start + 0.75 * mean, rtol=0, atol=1e-6)
    last = torch.load(tmp_path / "epoch=2.ckpt", weights_only=True)["state_dict"]["network.0.weight"]
    assert torch.equal(last, module.weights[-1])  # checkpoints are of the trajectory


def test_a_training_that_was_stopped_ends_the_same(loader: Any, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"dropout": 0.5, "masks": 2, "head": "network.2", "way_back": 0.1}
    whole, resumed = Classifier(), Classifier()
    fit(whole, loader, tmp_path, LightningCallback("swad", **settings), accumulate_grad_batches=2)
    resumed.network[0].weight.data.zero_()  # the start is the checkpoint's, not that of the process that goes on
    path = tmp_path / "epoch=0.ckpt"
    fit(resumed, loader, tmp_path, LightningCallback("swad", **settings), ckpt_path=path, accumulate_grad_batches=2)
    ended = Classifier()  # stopped between its last checkpoint and its end
    fit(ended, loader, tmp_path, LightningCallback("swad", **settings), ckpt_path=tmp_path / "epoch=2.ckpt")
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name])
        assert torch.equal(tensor, ended.state_dict()[name])
    assert torch.load(path, weights_only=True)["callbacks"]["LightningCallback"]["header"]["steps"] == 2


def test_the_uniform_average_is_over_validations_but_the_check_of_sanity(loader: Any, tmp_path: Path) -> None:
    module = Classifier()
    fit(module, loader, tmp_path, LightningCallback("uniform"))
    mean = torch.stack([module.weights[step] for step in (3, 7, 11)]).mean(0)
    torch.testing.assert_close(module.network[0].weight, mean)
    assert len(module.losses) == 3


def test_statistics_of_batch_norm_from_the_inputs(loader: Any, tmp_path: Path) -> None:
    module = Classifier(norm=True)
    fit(module, loader, tmp_path, LightningCallback(inputs=loader), epochs=1)
    with torch.no_grad():
        inside = module.network[0](loader.dataset.tensors[0])
    torch.testing.assert_close(module.network[1].running_mean, inside.mean(0))


def test_what_cannot_be(loader: Any, tmp_path: Path) -> None:
    assert refusal(LightningCallback, "exponental").startswith("unknown kind of average 'exponental'; did you mean")
    assert refusal(LightningCallback, dropout=1.0).startswith("the dropout rate must be in [0, 1)")
    assert refusal(LightningCallback, masks=0).startswith("the number of dropout masks must be")
    text = refusal(fit, Classifier(), loader, tmp_path, LightningCallback("uniform"), limit_val_batches=0)
    assert text == "'uniform' is over validations, and fit has no validation data: take 'exponential'"
    text = refusal(fit, Classifier(), loader, tmp_path, LightningCallback("swad", monitor="val_los"))
    assert text == "swad needs 'val_los', did you mean 'val_loss'? (there are: val_loss)"
    assert "it has network.0, network.2" in refusal(fit, Classifier(), loader, tmp_path, LightningCallback(dropout=0.5))
    first = tmp_path / "first"
    callback = LightningCallback()
    module = Classifier()
    trainer = fit(module, loader, first, callback, epochs=1)
    trainer.fit_loop.max_epochs = 2
    assert refusal(trainer.fit, module, loader, loader).startswith(
        "the average has been handed over: train on with a new"
    )
    trainer.save_checkpoint(tmp_path / "after.ckpt")
    path = first / "epoch=0.ckpt"
    for other, ckpt, text in (
        (LightningCallback(decay=0.9), path, "the average was begun with ['exponential', 0.99, 0.0], and cannot go"),
        (LightningCallback(), tmp_path / "after.ckpt", "this checkpoint is of after the end of training"),
    ):
        assert refusal(fit, Classifier(), loader, first, other, ckpt_path=ckpt).startswith(text)
    fit(Classifier(), loader, tmp_path / "plain", epochs=1)
    plain = tmp_path / "plain" / "epoch=0.ckpt"
    text = refusal(fit, Classifier(), loader, first, LightningCallback(), ckpt_path=plain)
    assert text == "the checkpoint to go on from was not written with a LightningCallback"


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    said = without(monkeypatch, "lightning.pytorch", "largedrop.callbacks.lightning")
    assert said == 'LightningCallback needs lightning: pip install "largedrop[lightning]"'
