"""MLflow: its file, database or server, as ``MLFLOW_TRACKING_URI`` says."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping

from mlflow.entities import Metric, Param
from mlflow.tracking import MlflowClient

from .base import PROJECT, Tracked, Tracker

__all__ = ["MLflow"]

TAG = "largedrop.run"

AT_ONCE = 500
"""Numbers in one request, of which MLflow takes no more than 1,000."""


class MLflow(Tracker):
    """A run in the experiment ``MLFLOW_EXPERIMENT_NAME``, found again by its tag."""

    def __init__(self, run: Tracked) -> None:
        super().__init__(run)
        self.client = MlflowClient()
        title = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        known = self.client.get_experiment_by_name(title)
        experiment = known.experiment_id if known else self.client.create_experiment(title)
        found = self.client.search_runs([experiment], f"tags.`{TAG}` = '{run.digest}'")
        if found:
            self.id, self.ended = found[0].info.run_id, found[0].info.status == "FINISHED"
            history = self.client.get_metric_history(self.id, "iid_accuracy")
            self.last = max((each.step for each in history), default=-1)
            if not self.ended:
                self.client.update_run(self.id, status="RUNNING")
        else:
            tags = {TAG: run.digest, "largedrop.group": run.group}
            self.id = self.client.create_run(experiment, tags=tags, run_name=run.name).info.run_id
            self.client.log_batch(self.id, params=[Param(name, str(value)) for name, value in run.config.items()])

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        """Store metrics; characters that MLflow takes in no name become underscores."""
        now = int(1000 * time.time())
        metrics = [Metric(_name(name), value, now, step) for name, value in numbers.items()]
        for start in range(0, len(metrics), AT_ONCE):
            self.client.log_batch(self.id, metrics=metrics[start : start + AT_ONCE])

    def end(self, step: int, numbers: Mapping[str, float]) -> None:
        """Store the result's metrics, and say that the run is finished."""
        self.log(step, numbers)
        self.client.set_terminated(self.id, "FINISHED")
        self.ended = True

    def close(self) -> None:
        """Say of a run that has not ended that it was stopped."""
        if not self.ended:
            self.client.set_terminated(self.id, "KILLED")


def _name(name: str) -> str:
    return re.sub(r"[^/\w.\- :]", "_", name)
