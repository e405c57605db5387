"""AutoGluon's ``MultiModalPredictor`` with the same network, its other settings as they are."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import timm
import torch
from autogluon.multimodal import MultiModalPredictor
from safetensors.torch import load_file

from peer.job import Job, Watch, answer, job


def checkpoint(asked: Job) -> str:
    """A folder with the network as AutoGluon reads it: config.json and pytorch_model.bin."""
    folder = Path(asked.folder) / "network"
    folder.mkdir(parents=True)
    network: Any = timm.create_model(asked.model, num_classes=0)
    state = {key: tensor for key, tensor in load_file(asked.weights).items() if not key.startswith("classifier.")}
    network.load_state_dict(state)
    torch.save(network.state_dict(), folder / "pytorch_model.bin")
    known = {**network.default_cfg, "mean": asked.mean, "std": asked.std}
    content = {"architecture": asked.model, "num_features": network.num_features, "pretrained_cfg": known}
    (folder / "config.json").write_text(json.dumps(content), encoding="utf-8")
    return str(folder)


def main() -> None:
    """Train and predict."""
    asked = job()
    watch = Watch()
    keys, labels, _ = zip(*asked.train, strict=True)
    train = pd.DataFrame({"image": asked.files(keys), "label": [asked.classes[label] for label in labels]})
    keys, labels = zip(*asked.iid, strict=True)
    held_out = pd.DataFrame({"image": asked.files(keys), "label": [asked.classes[label] for label in labels]})
    predictor = MultiModalPredictor(
        label="label", problem_type="multiclass", eval_metric="accuracy", path=str(Path(asked.folder) / "predictor")
    )
    settings = {
        "model.names": ["timm_image"],
        "model.timm_image.checkpoint_name": checkpoint(asked),
        "model.timm_image.image_size": asked.size,
        "model.timm_image.image_norm": "inception",
        "optim.max_epochs": asked.epochs,
        "optim.lr": asked.lr,
        "env.batch_size": asked.batch,
        "env.per_gpu_batch_size": asked.batch,
        "env.num_gpus": 0,
        "env.num_workers": 0,
        "env.num_workers_inference": 0,
    }
    predictor.fit(train, tuning_data=held_out, hyperparameters=settings, seed=asked.seed)
    watch.stop()

    def predicted(keys: Sequence[str]) -> list[int]:
        names = predictor.predict(pd.DataFrame({"image": asked.files(keys)}), as_pandas=False)
        return [asked.classes.index(name) for name in names]

    steps = asked.epochs * -(-len(asked.train) // asked.batch)
    iid = predicted([key for key, _ in asked.iid])
    answer(watch, steps, "autogluon.multimodal", "timm", iid=iid, ood=predicted(asked.ood))


if __name__ == "__main__":
    main()
