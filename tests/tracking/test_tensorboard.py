"""TensorBoard's event files, read back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tests.helpers import FAST, make_toy

from largedrop.cli import main
from largedrop.files import read_json
from largedrop.tracking.base import Tracked
from largedrop.tracking.tensorboard import TensorBoard

RUN = Tracked("0123", "run", "monday", Path(), {"dropout": 0.9})


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Step and value of every scalar, by name, in the order of the files."""
    found = EventAccumulator(str(folder))
    found.Reload()
    return {tag: [(each.step, each.value) for each in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def test_a_run_goes_on_in_another_file_without_a_step_doubled(tmp_path: Path) -> None:
    run = Tracked(RUN.digest, RUN.name, RUN.group, tmp_path, RUN.config)
    first = TensorBoard(run)
    assert (first.last, first.ended) == (-1, False)
    assert not (tmp_path / "tensorboard").exists()  # before there is anything to write
    first.log(0, {"iid_accuracy": 0.5, "by_domain/北京": 0.25})
    first.log(5, {"iid_accuracy": 0.75})
    # Not closed, as of a process that is killed: what was told is in the file, and half a record harms nothing.
    (file,) = (tmp_path / "tensorboard").iterdir()
    with file.open("ab") as end:
        end.write(file.read_bytes()[:20])
    second = TensorBoard(run)
    assert (second.last, second.ended) == (5, False)
    second.log(10, {"iid_accuracy": 1.0})
    second.end(10, {"result/ema/iid_accuracy": 1.0})
    second.close()
    third = TensorBoard(run)
    assert (third.last, third.ended) == (10, True)
    third.close()
    assert len(list((tmp_path / "tensorboard").iterdir())) == 2
    assert scalars(tmp_path / "tensorboard") == {
        "iid_accuracy": [(0, 0.5), (5, 0.75), (10, 1.0)],
        "by_domain/北京": [(0, 0.25)],
        "result/ema/iid_accuracy": [(10, 1.0)],
    }
    found = EventAccumulator(str(tmp_path / "tensorboard"))
    found.Reload()
    (config,) = found.Tensors("config/text_summary")
    assert json.loads(config.tensor_proto.string_val[0].decode().strip("`").removeprefix("json")) == RUN.config


@pytest.mark.usefixtures("quick_heads")
def test_the_command_line_follows_its_runs(tmp_path: Path) -> None:
    data = make_toy(tmp_path / "toy", images=5)
    command = ["train", str(data), "--test-domain", "photo", "--output", str(tmp_path / "out")]
    assert main([*command, *FAST, "--track", "tensorboard"]) == 0
    assert "track" not in (tmp_path / "out" / "train.toml").read_text()
    (folder,) = (tmp_path / "out" / "runs").iterdir()
    log = read_json(folder / "result.json")["log"]
    found = scalars(folder / "tensorboard")
    assert found["iid_accuracy"] == [(line["step"], pytest.approx(line["iid_accuracy"])) for line in log]
    assert found["result/fine-tuning/seconds"][0][0] == log[-1]["step"]
