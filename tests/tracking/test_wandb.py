"""Weights & Biases: the real one without a network where it is installed, else one that keeps what it is told."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from largedrop.errors import UserError
from largedrop.tracking.base import Tracked


def fake(server: dict[str, Any]) -> ModuleType:
    """Runs that are found again online; offline each begins anew, as wandb's."""
    made = ModuleType("wandb")

    class Handle:
        def __init__(self, run: Any, offline: bool) -> None:
            self.run, self.offline, self.summary = run, offline, run.summary

        @property
        def step(self) -> int:
            return max(self.run.steps, default=-1) + 1

        def log(self, numbers: dict[str, float], step: int, commit: bool) -> None:
            assert commit  # else the last row waits for the next, and a kill loses it
            self.run.steps.append(step)

        def finish(self, exit_code: int) -> None:
            self.run.code = exit_code

    def init(**options: Any) -> Handle:
        assert (options["resume"], options["reinit"]) == ("allow", "create_new")
        offline = os.environ["WANDB_MODE"] == "offline"
        run = SimpleNamespace(steps=[], summary={}, code=None)
        return Handle(run if offline else server.setdefault(options["id"], run), offline)

    mode = SimpleNamespace(settings=SimpleNamespace(mode=os.environ["WANDB_MODE"]))
    vars(made).update(
        init=init, setup=lambda: mode, Settings=lambda **options: None, login=lambda prompt: bool(server), server=server
    )
    return made


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tracked:
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_MODE", "offline")
    return Tracked("0123", "run", "monday", tmp_path, {"dropout": 0.9})


def use(monkeypatch: pytest.MonkeyPatch, module: ModuleType) -> None:
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.delitem(sys.modules, "largedrop.tracking.wandb", raising=False)


def test_offline_the_run_folder_says_what_was_told(run: Tracked, monkeypatch: pytest.MonkeyPatch) -> None:
    if importlib.util.find_spec("wandb") is None:
        use(monkeypatch, fake({}))
    from largedrop.tracking.wandb import WandB

    first = WandB(run)
    beside = WandB(Tracked("4567", "beside", "monday", run.folder / "beside", {}))
    assert (first.last, first.ended) == (-1, False)
    first.log(0, {"iid_accuracy": 0.5})
    beside.log(0, {"iid_accuracy": 0.5})
    first.log(5, {"iid_accuracy": 0.75})
    first.close()
    second = WandB(run)
    assert (second.last, second.ended) == (5, False)
    second.end(5, {"result/ema/iid_accuracy": 1.0})
    second.close()
    third = WandB(run)
    assert (third.last, third.ended) == (5, True)
    beside.close()
    third.close()


def test_online_the_server_knows(run: Tracked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    server: dict[str, Any] = {}
    use(monkeypatch, fake(server))
    from largedrop.tracking.wandb import WandB

    with pytest.raises(UserError, match=r"^not logged in: `wandb login`, or WANDB_MODE=offline$"):
        WandB(run)
    server["another"] = SimpleNamespace(steps=[], summary={})
    first = WandB(run)
    first.log(0, {"iid_accuracy": 0.5})
    first.close()
    assert server["0123"].code == 1
    second = WandB(run)
    assert (second.last, second.ended) == (0, False)
    second.log(5, {"iid_accuracy": 0.75})
    second.end(5, {"result/ema/iid_accuracy": 1.0})
    second.close()
    assert (server["0123"].code, server["0123"].steps) == (0, [0, 5])
    assert server["0123"].summary == {"result/ema/iid_accuracy": 1.0}
    assert (WandB(run).last, WandB(run).ended) == (5, True)
    assert not (run.folder / "wandb.json").exists()
