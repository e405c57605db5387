"""largedrop: the recipe and the settings that the job names; what a run hands over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import largedrop as ld
from largedrop.errors import CollapseError
from peer.job import Watch, answer, job


def main() -> None:
    """Train."""
    asked = job()
    data = ld.open_dataset(asked.data)
    watch = Watch()
    settings: dict[str, Any] = {
        "size": asked.size,
        "steps": asked.steps,
        "batch": asked.batch // len(asked.domains),
        "lr": asked.lr,
    }
    settings |= {"seed": asked.seed, **asked.settings}
    try:
        run = ld.finetune(data, asked.test_domain, output=Path(asked.folder) / "run", device="cpu", **settings)
    except CollapseError as error:
        watch.stop()
        return answer(watch, None, "largedrop", "timm", failed=str(error))
    watch.stop()
    return answer(watch, asked.steps, "largedrop", "timm", accuracies=run.model_scores, precision=run.config.precision)


if __name__ == "__main__":
    main()
