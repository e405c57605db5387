"""fastai's ``fine_tune`` as its documentation has it: presizing, ``aug_transforms``, its own head, the last weights."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import torch
from fastai.vision.all import ImageDataLoaders, Resize, accuracy, aug_transforms, set_seed, vision_learner

from peer.job import Watch, answer, job


def main() -> None:
    """Train and predict."""
    asked = job()
    watch = Watch()
    set_seed(asked.seed)
    rows = [(key, asked.classes[label], False) for key, label, _ in asked.train]
    rows += [(key, asked.classes[label], True) for key, label in asked.iid]
    frame = pd.DataFrame(rows, columns=["name", "label", "is_valid"])
    loaders = ImageDataLoaders.from_df(
        frame,
        asked.data,
        valid_col="is_valid",
        bs=asked.batch,
        num_workers=0,
        item_tfms=Resize(2 * asked.size),
        batch_tfms=aug_transforms(size=asked.size, min_scale=0.75),
    )
    overlay = asked.pretrained["pretrained_cfg_overlay"]
    learner = vision_learner(loaders, asked.model, metrics=accuracy, path=asked.folder, pretrained_cfg_overlay=overlay)
    learner.model.to(memory_format=torch.channels_last)  # a quarter less time
    learner.fine_tune(asked.epochs, base_lr=asked.lr)
    watch.stop()
    order = [asked.classes.index(name) for name in loaders.vocab]

    def predicted(keys: Sequence[str]) -> list[int]:
        scores, _ = learner.get_preds(dl=loaders.test_dl(asked.files(keys)))
        return [order[int(each)] for each in scores.argmax(1)]

    steps = (asked.epochs + 1) * len(loaders.train)
    iid = predicted([key for key, _ in asked.iid])
    answer(watch, steps, "fastai", "timm", iid=iid, ood=predicted(asked.ood))


if __name__ == "__main__":
    main()
