"""Trackers are told of what is in a run's files, once; and nothing that they do reaches the training."""

from __future__ import annotations

import shutil
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.helpers import TINY, assert_same_run, make_toy, refusal

import largedrop as ld
from largedrop.errors import Interrupted
from largedrop.files import read_json
from largedrop.reporter import Reporter
from largedrop.tracking import following
from largedrop.tracking.base import Tracked, Tracker

pytestmark = pytest.mark.usefixtures("quick_heads")


class Notebook(Tracker):
    """Keeps what it is told, by run, as a tracker's server would.

    Attributes:
        kept: the lines of each run: step and numbers; ``end`` in place of the step for the result.
        closed: how often a run was let go of.
    """

    kept: dict[str, list[tuple[int | str, dict[str, float]]]]
    closed: int

    def __init__(self, run: Tracked) -> None:
        super().__init__(run)
        self.lines = self.kept.setdefault(run.digest, [])
        self.last = max((step for step, _ in self.lines if isinstance(step, int)), default=-1)
        self.ended = any(step == "end" for step, _ in self.lines)

    def log(self, step: int, numbers: Mapping[str, float]) -> None:
        self.lines.append((step, dict(numbers)))

    def end(self, step: int, numbers: Mapping[str, float]) -> None:
        self.lines.append(("end", dict(numbers)))

    def close(self) -> None:
        type(self).closed += 1


@pytest.fixture
def notebook() -> type[Notebook]:
    return type("OfTheTest", (Notebook,), {"kept": {}, "closed": 0})


@pytest.fixture(scope="module")
def options() -> dict[str, Any]:
    return {"test_domain": "photo", "dropout": 0.5, "recipe": "short", "device": "cpu", **TINY}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> ld.Dataset:
    return ld.open_dataset(make_toy(tmp_path_factory.mktemp("toy")))


@pytest.fixture(scope="module")
def untracked(
    images: ld.Dataset, options: dict[str, Any], tmp_path_factory: pytest.TempPathFactory, quick_heads: None
) -> ld.Run:
    return ld.finetune(images, output=tmp_path_factory.mktemp("untracked") / "run", **options)


def test_a_run_is_told_of_as_it_is_in_its_files_and_has_the_same_bits(
    images: ld.Dataset, options: dict[str, Any], untracked: ld.Run, tmp_path: Path, notebook: type[Notebook]
) -> None:
    run = ld.finetune(images, output=tmp_path / "run", track=notebook, **options)
    assert_same_run(run.folder, untracked.folder)
    assert run.digest == untracked.digest
    ((digest, lines),) = notebook.kept.items()
    assert digest == run.digest
    assert [step for step, _ in lines] == [0, 2, 4, 6, "end"]
    for (_, numbers), line in zip(lines, run.result["log"], strict=False):
        assert numbers["iid_accuracy"] == line["iid_accuracy"]
        assert numbers["iid_by_domain/ink"] == line["iid_by_domain"]["ink"]
    assert lines[-1][1]["result/fine-tuning/ood_accuracy"] == run.result["methods"]["fine-tuning"]["ood_accuracy"]
    assert notebook.closed == 1


def test_a_tracker_that_is_behind_the_training_opens_a_run_once(untracked: ld.Run, notebook: type[Notebook]) -> None:
    with following.followed(Reporter(), {"notebook": notebook}) as reporter:
        for _ in range(3):
            reporter.logged(untracked.folder)
    assert [step for step, _ in notebook.kept[untracked.digest]] == [0, 2, 4, 6, "end"]
    assert notebook.closed == 1


def test_a_run_that_goes_on_or_is_finished_is_told_of_once(
    images: ld.Dataset,
    options: dict[str, Any],
    tmp_path: Path,
    notebook: type[Notebook],
    monkeypatch: pytest.MonkeyPatch,
    untracked: ld.Run,
) -> None:
    steps = iter(range(1, 100))
    with monkeypatch.context() as patch:
        patch.setattr(Reporter, "stopped", lambda self: next(steps) == 3)
        with pytest.raises(Interrupted):
            ld.finetune(images, output=tmp_path / "run", track=notebook, **options)
    (lines,) = notebook.kept.values()
    assert [step for step, _ in lines] == [0, 2]
    run = ld.finetune(images, output=tmp_path / "run", track=notebook, **options)
    ld.finetune(images, output=tmp_path / "run", track=notebook, **options)
    assert [step for step, _ in lines] == [0, 2, 4, 6, "end"]
    assert notebook.closed == 3
    assert_same_run(run.folder, untracked.folder)


@pytest.mark.parametrize("method", ["__init__", "log", "end", "close"])
def test_whatever_a_tracker_raises_is_a_line(
    untracked: ld.Run,
    images: ld.Dataset,
    options: dict[str, Any],
    method: str,
    notebook: type[Notebook],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(*arguments: object) -> None:
        raise SystemExit("no\nnetwork \x1b[1m" + "…" * 300)

    monkeypatch.setattr(notebook, method, broken)
    sound: type[Notebook] = type("Sound", (Notebook,), {"kept": {}, "closed": 0})
    with pytest.warns(
        UserWarning, match=r"^tracking with OfTheTest has ended \(SystemExit: no network .*…\); "
    ) as told:
        ld.finetune(images, output=untracked.folder, track=[notebook, sound], **options)
    assert len(told) == 1
    assert "\x1b" not in str(told[0].message)
    assert [step for step, _ in sound.kept[untracked.digest]] == [0, 2, 4, 6, "end"]


def test_a_tracker_that_does_not_answer_is_left_alone(
    untracked: ld.Run, images: ld.Dataset, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    answered = threading.Event()

    def silent(run: Tracked) -> Tracker:
        answered.wait()
        return Tracker(run)

    monkeypatch.setattr(following, "PATIENCE", 0.05)
    with pytest.warns(
        UserWarning, match=r"^tracking with silent is given up, as there is no answer; the same command "
    ):
        ld.finetune(images, output=untracked.folder, track=silent, **options)
    answered.set()


@pytest.mark.parametrize("name", sorted(following.TRACKERS))
def test_a_tracker_that_is_not_installed_says_what_to_install(
    untracked: ld.Run, images: ld.Dataset, options: dict[str, Any], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, f"largedrop.tracking.{name}", raising=False)
    for module in {name, *(each for each in sys.modules if each.startswith(f"{name}."))}:
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.warns(UserWarning, match=rf"ended \(not installed: pip install 'largedrop\[{name}\]'"):
        ld.finetune(images, output=untracked.folder, track=name, **options)


def test_linear_fits_are_told_of_as_well(
    images: ld.Dataset, options: dict[str, Any], tmp_path: Path, notebook: type[Notebook]
) -> None:
    run = ld.finetune(images, output=tmp_path / "run", fit="probe", track=[notebook], **options)
    assert [step for step, _ in notebook.kept[run.digest]] == [line["step"] for line in run.result["log"]] + ["end"]


def test_names_are_checked_before_anything_is_opened(images: ld.Dataset) -> None:
    said = refusal(ld.finetune, images, "photo", track="wandbb")
    assert said == ("unknown tracker 'wandbb'; did you mean 'wandb'? (there are: mlflow, tensorboard, trackio, wandb)")
    assert refusal(ld.finetune, images, "photo", track=["mlflow", "mlflow"]) == "the tracker 'mlflow' is named twice"


def test_a_run_of_a_comparison_has_its_folder_as_group(untracked: ld.Run, tmp_path: Path) -> None:
    folder = tmp_path / "monday" / "runs" / untracked.config.run_name
    shutil.copytree(untracked.folder, folder)
    run = following.tracked(folder)
    assert (run.digest, run.name, run.group) == (untracked.digest, folder.name, "monday")
    assert following.tracked(untracked.folder).group == untracked.folder.parent.name
    assert run.config["dropout"] == 0.5
    assert "protocol" in read_json(folder / "config.json")
    assert "protocol" not in run.config


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    yield
    for thread in threading.enumerate():
        if thread.name == "largedrop-tracking":
            thread.join(5)
            assert not thread.is_alive()
