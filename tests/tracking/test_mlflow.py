"""MLflow's client: the real one where it is installed, else one that keeps what it is told."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from largedrop.tracking.base import Tracked

RUN = Tracked("0123", "run", "monday", Path(), {"dropout": 0.9, "model": "m" * 300})
KEPT: dict[str, SimpleNamespace] = {}


class Client:
    """Of ``MlflowClient`` what is used, and its refusals."""

    def get_experiment_by_name(self, name: str) -> Any:
        return SimpleNamespace(experiment_id=name) if name in KEPT else None

    def create_experiment(self, name: str) -> str:
        KEPT[name] = SimpleNamespace(runs=[])
        return name

    def search_runs(self, experiments: list[str], asked: str) -> list[Any]:
        (name,) = experiments
        return [run for run in KEPT[name].runs if asked == f"tags.`largedrop.run` = '{run.tags['largedrop.run']}'"]

    def create_run(self, experiment: str, tags: dict[str, str], run_name: str) -> Any:
        info = SimpleNamespace(run_id=f"{experiment}/{len(KEPT[experiment].runs)}", status="RUNNING", run_name=run_name)
        KEPT[experiment].runs.append(SimpleNamespace(info=info, tags=tags, metrics=[], params=[]))
        return KEPT[experiment].runs[-1]

    def get_run(self, run_id: str) -> Any:
        experiment, number = run_id.split("/")
        return KEPT[experiment].runs[int(number)]

    def get_metric_history(self, run_id: str, key: str) -> list[Any]:
        return [metric for metric in self.get_run(run_id).metrics if metric.key == key]

    def update_run(self, run_id: str, status: str) -> None:
        self.get_run(run_id).info.status = status

    set_terminated = update_run

    def log_batch(self, run_id: str, metrics: Any = (), params: Any = ()) -> None:
        assert len(metrics) <= 1000
        assert not any(set(metric.key) & set(",;#'\"") for metric in metrics)
        self.get_run(run_id).metrics += metrics
        self.get_run(run_id).params += params


def fake() -> dict[str, ModuleType]:
    made = {name: ModuleType(name) for name in ("mlflow", "mlflow.entities", "mlflow.tracking")}

    def metric(key: str, value: float, timestamp: int, step: int) -> Any:
        return SimpleNamespace(key=key, value=value, timestamp=timestamp, step=step)

    vars(made["mlflow.entities"]).update(Metric=metric, Param=lambda key, value: SimpleNamespace(key=key, value=value))
    vars(made["mlflow.tracking"]).update(MlflowClient=Client)
    return made


@pytest.fixture
def _somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "animals")
    if importlib.util.find_spec("mlflow") is None:
        for name, module in fake().items():
            monkeypatch.setitem(sys.modules, name, module)
        monkeypatch.delitem(sys.modules, "largedrop.tracking.mlflow", raising=False)


@pytest.mark.usefixtures("_somewhere")
def test_a_run_is_found_again_and_has_each_step_once() -> None:
    from largedrop.tracking.mlflow import MLflow

    first = MLflow(RUN)
    assert (first.last, first.ended) == (-1, False)
    first.log(
        0, {"iid_accuracy": 0.5, "by_domain/it's, odd": 0.25, **{f"many/{number}": 1.0 for number in range(1100)}}
    )
    first.close()
    client = first.client
    assert client.get_run(first.id).info.status == "KILLED"
    second = MLflow(RUN)
    assert (second.id, second.last, second.ended) == (first.id, 0, False)
    assert client.get_run(first.id).info.status == "RUNNING"
    second.log(5, {"iid_accuracy": 0.75})
    second.end(5, {"result/ema/iid_accuracy": 1.0})
    second.close()
    third = MLflow(RUN)
    assert (third.id, third.last, third.ended) == (first.id, 5, True)
    third.close()
    assert client.get_run(first.id).info.status == "FINISHED"
    assert [(each.step, each.value) for each in client.get_metric_history(first.id, "iid_accuracy")] == [
        (0, 0.5),
        (5, 0.75),
    ]
    (odd,) = client.get_metric_history(first.id, "by_domain/it_s_ odd")
    assert odd.value == 0.25
    assert len(client.get_metric_history(first.id, "many/1099")) == 1
    other = MLflow(Tracked("4567", "run", "monday", Path(), {}))
    assert other.id != first.id
    other.close()
