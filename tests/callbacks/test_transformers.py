"""The callback in transformers' trainer: the same averages as in a loop of one's own, and the same after a stop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.helpers import refusal, without
from torch import Tensor
from transformers import BertConfig, BertForSequenceClassification, Trainer, TrainerCallback, TrainingArguments

import largedrop as ld
from largedrop.callbacks.transformers import FILE, TransformersCallback

RESUMES = pytest.mark.skipif(
    torch.__version__ < "2.6", reason="transformers resumes a training with torch 2.6 or later"
)


def classifier() -> Any:
    torch.manual_seed(0)
    return BertForSequenceClassification(
        BertConfig(
            vocab_size=20, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, num_labels=2
        )
    )


TEXTS = [{"input_ids": torch.randint(0, 20, (5,)), "labels": number % 2} for number in range(16)]


class Watch(TrainerCallback):  # type: ignore[misc]
    def __init__(self) -> None:
        self.weights: list[Tensor] = []

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        self.weights.append(model.classifier.weight.detach().clone())


def train(model: Any, folder: Path, *callbacks: Any, resume: Any = None, **more: Any) -> Trainer:
    settings: dict[str, Any] = {
        "per_device_train_batch_size": 4,
        "num_train_epochs": 2,
        "learning_rate": 0.05,
        "save_strategy": "no",
        "use_cpu": True,
        "report_to": "none",
        "disable_tqdm": True,
        "logging_strategy": "no",
    }
    trainer = Trainer(
        model,
        TrainingArguments(str(folder), **{**settings, **more}),
        train_dataset=TEXTS,
        eval_dataset=TEXTS[:4],
        callbacks=list(callbacks),
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def test_the_exponential_average_of_a_loop_moved_back(tmp_path: Path) -> None:
    model, watch = classifier(), Watch()
    start = model.classifier.weight.detach().clone()
    train(model, tmp_path, ld.TransformersCallback(dropout=0.5, masks=4, decay=0.8, way_back=0.25), watch)
    shares = torch.tensor([0.8 ** (7 - step) for step in range(8)], dtype=torch.float64)
    mean = (torch.stack(watch.weights).double() * shares[:, None, None]).sum(0) / shares.sum()
    torch.testing.assert_close(model.classifier.weight.double(), 0.25 * start + 0.75 * mean, rtol=0, atol=1e-6)
    assert model.dropout.p == 0.0


@RESUMES
def test_a_training_that_was_stopped_ends_the_same(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"dropout": 0.5, "masks": 2, "way_back": 0.1}
    more: dict[str, Any] = {"save_strategy": "steps", "save_steps": 3, "eval_strategy": "steps", "eval_steps": 2}
    whole, resumed = classifier(), classifier()
    train(whole, tmp_path, TransformersCallback("swad", **settings), **more)
    assert (tmp_path / "checkpoint-3" / FILE).is_file()
    resumed.classifier.weight.data.zero_()  # the start is the checkpoint's, not that of the process that goes on
    train(resumed, tmp_path, TransformersCallback("swad", **settings), resume=str(tmp_path / "checkpoint-3"), **more)
    ended = classifier()  # stopped between its last checkpoint and its end
    train(ended, tmp_path, TransformersCallback("swad", **settings), resume=str(tmp_path / "checkpoint-8"), **more)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name
        assert torch.equal(tensor, ended.state_dict()[name]), name


def test_what_cannot_be(tmp_path: Path) -> None:
    assert refusal(TransformersCallback, way_back=2).startswith("way_back must be a number in [0, 1], not 2")
    for callback, more, text in (
        (
            TransformersCallback(),
            {"load_best_model_at_end": True, "eval_strategy": "steps", "save_strategy": "steps"},
            "'exponential' hands over an average: set load_best_model_at_end to False, or average='last'",
        ),
        (
            TransformersCallback(masks=2),
            {"label_smoothing_factor": 0.1},
            "the trainer's label smoothing takes one mask for each example: set masks to 1",
        ),
        (
            TransformersCallback("swad", monitor="eval_los"),
            {"eval_strategy": "steps", "eval_steps": 1},
            "swad needs 'eval_los', did you mean 'eval_loss'?",
        ),
        (
            TransformersCallback(dropout=0.5, head="classifer"),
            {},
            "the network has no head 'classifer'; did you mean 'classifier'?",
        ),
        (
            TransformersCallback("uniform"),
            {},
            "'uniform' is over evaluations: set eval_strategy to 'epoch', or average='exponential'",
        ),
    ):
        assert refusal(train, classifier(), tmp_path, callback, num_train_epochs=1, **more).startswith(text)


@RESUMES
def test_a_checkpoint_without_an_average_or_with_another_one(tmp_path: Path) -> None:
    more: dict[str, Any] = {"save_strategy": "steps", "save_steps": 1, "max_steps": 2}
    train(classifier(), tmp_path, **more)
    missing = refusal(train, classifier(), tmp_path, TransformersCallback(), resume=True, **{**more, "max_steps": 3})
    assert missing == (
        f"training goes on from step 2, and its average cannot: no checkpoint {tmp_path / 'checkpoint-2' / FILE} "
        "(resume_from=… names another folder)"
    )
    other = tmp_path / "other"
    train(classifier(), other, TransformersCallback(), **more)
    for folder, text in ((other / "checkpoint-1", "is of step 1, not 2"), (other / "checkpoint-2", "")):
        callback = TransformersCallback(resume_from=folder)
        if text:
            said = refusal(train, classifier(), tmp_path, callback, resume=str(tmp_path / "checkpoint-2"), **more)
            assert said.endswith(text)
        else:
            train(classifier(), tmp_path, callback, resume=str(tmp_path / "checkpoint-2"), **{**more, "max_steps": 3})
            assert callback.average is not None
            assert callback.average.steps == 3
    path = other / "checkpoint-2" / FILE
    path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
    damaged = refusal(train, classifier(), other, TransformersCallback(), resume=True, **{**more, "max_steps": 3})
    assert "is damaged: its checksum is not that of its content" in damaged


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    said = without(monkeypatch, "transformers", "largedrop.callbacks.transformers")
    assert said == 'TransformersCallback needs transformers: pip install "largedrop[transformers]"'
