"""The way back to the start: the weights between, which of them is kept, and the same bits however often it stops."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.helpers import Watch, assert_same_run, different, files, refusal, stopped_at, tensors

import largedrop as ld
from largedrop.config import ABOUT, Config
from largedrop.data.views.batches import HostViews
from largedrop.errors import Interrupted
from largedrop.measures.calibration import fit_temperature
from largedrop.runs.checkpoint import read_tensors
from largedrop.runs.read import read_runs
from largedrop.runs.run import START_FILE, Run, remarks
from largedrop.training.averaging import interpolate
from largedrop.training.evaluation import SCORES, logits, scores
from largedrop.training.loop import cost, train
from largedrop.training.way_back import ALPHAS, safest, walk

pytestmark = pytest.mark.usefixtures("quick_heads")


@pytest.fixture
def wise(config: Config) -> Config:
    return replace(config, wise_ft=True, lr=0.01, weight_decay=0.0)


def entry(alpha: float, iid: float, ood: float = 0.5) -> dict[str, float]:
    return {"alpha": alpha, "iid_accuracy": iid, "ood_accuracy": ood}


def fitted(model: Path, data: ld.Dataset) -> float | None:
    """The temperature of a checkpoint, from a pass over the held-out images."""
    split = data.split("photo", 0)
    found = logits(ld.load_model(model), HostViews(data), split.iid, "float32")
    return fit_temperature(found, data.labels[split.iid], split.iid_domains)


def test_a_walk_holds_the_weights_at_each_alpha(data: ld.Dataset, config: Config, tmp_path: Path) -> None:
    run = train(config, data, tmp_path)
    network, final = ld.load_model(run.final), read_tensors(run.final, "model")[0]
    start = {name: tensor + 1 for name, tensor in final.items()}
    seen = []
    for alpha in walk(network, start, final, (0.0, 0.25, 1.0)):
        seen.append(alpha)
        for name, tensor in network.state_dict().items():
            if tensor.is_floating_point():
                torch.testing.assert_close(tensor.double(), final[name].double() + alpha, rtol=0, atol=1e-5)
    assert seen == [0.0, 0.25, 1.0]
    assert different(network.state_dict(), start) == []


def test_the_best_in_a_tie_is_the_nearest_to_the_start() -> None:
    assert safest([entry(0.0, 0.7, 0.9), entry(0.1, 0.8), entry(0.6, 0.8), entry(1.0, 0.6)]) == entry(0.6, 0.8)
    assert safest([entry(1.0, 0.5), entry(0.0, 0.5)])["alpha"] == 1.0
    assert safest([entry(1.0, 0.5), entry(0.0, 0.6)])["alpha"] == 0.0


def test_every_alpha_against_a_loop_over_checkpoints(data: ld.Dataset, wise: Config, tmp_path: Path) -> None:
    still = train(replace(wise, lr=1e-30, wise_ft=False), data, tmp_path / "still")
    run = train(wise, data, tmp_path / "run")
    start, final = (read_tensors(path, "model")[0] for path in (still.best, run.final))
    assert still.result["best_step"] == 0  # the pretrained weights with the fitted head
    curve = run.result["methods"]["wise-ft"]
    assert [each["alpha"] for each in curve] == [*ALPHAS] == [number / 10 for number in range(11)]
    split, network = data.split("photo", 0), ld.load_model(run.final)
    for each in curve:
        network.load_state_dict(interpolate(start, final, each["alpha"]))
        found = {part: logits(network, HostViews(data), getattr(split, part), "float32") for part in ("iid", "ood")}
        assert {**scores(found, data.labels, split), "steps": 6} == {name: each[name] for name in (*SCORES, "steps")}
    log = run.result["log"]
    for each, line in ((curve[0], log[-1]), (curve[-1], log[0])):
        assert (each["iid_accuracy"], each["ood_accuracy"]) == (line["iid_accuracy"], line["ood_accuracy"])
    assert len({each["ood_accuracy"] for each in curve}) > 2
    # The kept network is that of the best i.i.d. accuracy.
    best = max(curve, key=lambda each: (each["iid_accuracy"], each["alpha"]))
    kept, header = read_tensors(run.wise_ft, "model")
    assert different(kept, interpolate(start, final, best["alpha"])) == []
    assert {name: header["about"][name] for name in ("step", "alpha", "iid_accuracy", "ood_accuracy")} == {
        "step": 6,
        **{name: best[name] for name in ("alpha", "iid_accuracy", "ood_accuracy")},
    }
    assert ld.load_model(run.wise_ft).temperature == fitted(run.wise_ft, data)
    assert all(list(each) == ["alpha", *SCORES, "steps", "seconds"] for each in curve)


def test_it_only_watches(data: ld.Dataset, wise: Config, tmp_path: Path) -> None:
    plain, run = train(replace(wise, wise_ft=False), data, tmp_path / "plain"), train(wise, data, tmp_path / "wise")
    assert {*files(run.folder)} - {*files(plain.folder)} == {"wise-ft.safetensors"}  # the start is gone
    rest = {name: value for name, value in tensors(run.folder).items() if not name.startswith("wise-ft")}
    assert different(tensors(plain.folder), rest) == []
    assert run.result["log"] == plain.result["log"]


def test_a_record_for_each_alpha(data: ld.Dataset, wise: Config, tmp_path: Path) -> None:
    run = train(wise, data, tmp_path / "run")
    records = [record for record in run.records if record.method == "wise-ft"]
    assert [record.settings["alpha"] for record in records] == [*ALPHAS]
    for record, each in zip(records, run.result["methods"]["wise-ft"], strict=True):
        assert record.settings == {**wise.settings, "alpha": each["alpha"]}
        assert (record.iid_accuracy, record.ood_accuracy) == (each["iid_accuracy"], each["ood_accuracy"])
    assert not any("alpha" in record.settings for record in run.records if record.method != "wise-ft")
    assert read_runs(tmp_path).records == run.records


def test_a_run_stopped_between_start_and_end_goes_on_to_the_same_bits(
    data: ld.Dataset, wise: Config, tmp_path: Path
) -> None:
    train(wise, data, tmp_path / "whole")
    for step, later in ((1, 1), (4, 3), (6, 2), (6, 5), (6, 5)):  # twice after the third step, then between the weights
        with pytest.raises(Interrupted, match=f"^stopped after step {step} of 6$"):
            train(wise, data, tmp_path / "cut", reporter=stopped_at(later))
        assert (tmp_path / "cut" / START_FILE).is_file()
    assert refusal(ld.load_model, tmp_path / "cut" / "wise-ft.safetensors").startswith("no checkpoint")
    train(wise, data, tmp_path / "cut")
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


@pytest.mark.parametrize("file", [START_FILE, "best.safetensors", "outputs/000002.safetensors", "resume.safetensors"])
def test_a_run_that_goes_on_without_what_it_needs_is_begun_again(
    data: ld.Dataset, wise: Config, tmp_path: Path, file: str
) -> None:
    with pytest.raises(Interrupted):
        train(wise, data, tmp_path / "cut", reporter=stopped_at(3))
    path, notes = tmp_path / "cut" / file, list[str]()
    content = bytearray(path.read_bytes())
    content[-2] ^= 4
    path.write_bytes(content)
    if file == START_FILE:
        path.unlink()
    train(wise, data, tmp_path / "cut", reporter=Watch(note=notes.append))
    said = (
        f"no checkpoint {path}" if file == START_FILE else f"{path} is damaged: its checksum is not that of its content"
    )
    assert notes == [f"{said}; this run is begun again"]
    train(wise, data, tmp_path / "whole")
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


def test_a_run_killed_when_it_was_finished_leaves_nothing_behind(
    data: ld.Dataset, wise: Config, tmp_path: Path
) -> None:
    with pytest.raises(Interrupted):
        train(wise, data, tmp_path / "cut", reporter=stopped_at(3))
    left = {name: (tmp_path / "cut" / name).read_bytes() for name in (START_FILE, "resume.safetensors")}
    before = files(train(wise, data, tmp_path / "cut").folder)
    for name, content in left.items():
        (tmp_path / "cut" / name).write_bytes(content)
    train(wise, data, tmp_path / "cut")
    assert files(tmp_path / "cut") == before


def test_its_evaluations_are_work(data: ld.Dataset, wise: Config, tmp_path: Path) -> None:
    split = data.split("photo", 0)
    assert cost(wise, split) - cost(replace(wise, wise_ft=False), split) == 9 * (6 + 18)
    done: list[float] = []
    train(wise, data, tmp_path, reporter=Watch(advance=done.append))
    assert sum(done) == pytest.approx(cost(wise, split))


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({}, "best"),
        ({"hand_over": "average"}, "average"),
        ({"hand_over": "ema", "ema": 0.5}, "ema"),
        ({"hand_over": "swad", "swad": True}, "swad"),
        ({"hand_over": "wise-ft", "wise_ft": True}, "wise-ft"),
    ],
)
def test_a_run_hands_over_what_it_is_told_to(
    data: ld.Dataset, config: Config, weights: Path, tmp_path: Path, changes: dict[str, Any], name: str
) -> None:
    """With steps too small to fall below the start, and frozen batch norms."""
    still = replace(config, lr=1e-30, weights=str(weights), weights_digest="")
    run = train(replace(still, **changes), data, tmp_path)
    assert run.model == tmp_path / f"{name}.safetensors"
    method = {"best": "fine-tuning", "average": "weight-average"}.get(name, name)
    scored = [(each.iid_accuracy, each.ood_accuracy) for each in run.records if each.method == method]
    assert run.model_scores == (max(scored) if name == "wise-ft" else scored[0])
    assert ld.load_model(run.model).classes == data.classes
    assert not (tmp_path / "model.safetensors").exists()
    assert not (tmp_path / START_FILE).exists()
    assert "way-back" not in run.result["methods"]
    assert not run.hands_over_start


@pytest.mark.parametrize("hand_over", ["best", "average"])
def test_the_way_back_of_a_checkpoint(
    data: ld.Dataset, config: Config, weights: Path, tmp_path: Path, hand_over: str
) -> None:
    frozen = replace(config, weights=str(weights), weights_digest="")
    start = read_tensors(train(replace(frozen, lr=1e-30), data, tmp_path / "still").best, "model")[0]
    moved = replace(frozen, hand_over=hand_over, way_back=0.25)
    run = train(moved, data, tmp_path / "moved")
    assert run.model == tmp_path / "moved" / "model.safetensors"
    model, header = read_tensors(run.model, "model")
    base = read_tensors(tmp_path / "moved" / f"{hand_over}.safetensors", "model")[0]
    for name, tensor in model.items():
        if tensor.is_floating_point():
            by_hand = 0.25 * start[name].double() + 0.75 * base[name].double()
            torch.testing.assert_close(tensor.double(), by_hand, rtol=1e-6, atol=1e-7)
    assert hand_over == "best" or different(base, start) != []
    split = data.split("photo", 0)
    views, network = HostViews(data), ld.load_model(run.model)
    found = {part: logits(network, views, getattr(split, part), "float32") for part in ("iid", "ood")}
    record = next(record for record in run.records if record.method == "way-back")
    assert scores(found, data.labels, split) == {
        "iid_accuracy": record.iid_accuracy,
        "ood_accuracy": record.ood_accuracy,
        "iid_macro_accuracy": record.iid_macro_accuracy,
        "ood_macro_accuracy": record.ood_macro_accuracy,
    }
    assert header["about"]["iid_accuracy"] == record.iid_accuracy
    assert network.temperature == fitted(run.model, data)
    assert run.model_scores == (record.iid_accuracy, record.ood_accuracy)
    name = {"best": "the checkpoint of best i.i.d. accuracy", "average": "weight average"}[hand_over]
    assert run.model_name == f"{name}, 0.25 of the way back to the start"
    assert not (tmp_path / "moved" / START_FILE).exists()
    assert cost(moved, split) - cost(replace(moved, way_back=0.0), split) == 6 + 18


def test_a_model_below_its_start_is_not_handed_over(data: ld.Dataset, wise: Config, tmp_path: Path) -> None:
    away = replace(wise, wise_ft=False, lr=0.05, hand_over="average", way_back=0.1)
    run = train(away, data, tmp_path / "away")
    methods, log = run.result["methods"], run.result["log"]
    assert methods["way-back"]["iid_accuracy"] < log[0]["iid_accuracy"]
    assert run.hands_over_start
    assert run.model == tmp_path / "away" / START_FILE
    assert run.model_scores == (log[0]["iid_accuracy"], log[0]["ood_accuracy"])
    assert run.model_name == "the network before the first step"
    split = data.split("photo", 0)
    found = logits(ld.load_model(run.model), HostViews(data), split.ood, "float32")
    assert float((found.argmax(1) == data.labels[split.ood]).mean()) == log[0]["ood_accuracy"]
    assert ld.load_model(run.model).temperature == log[0]["temperature"] == fitted(run.model, data)
    about = ld.load_model(run.model).about
    assert (about["iid_accuracy"], about["ood_accuracy"]) == run.model_scores  # for the model card
    *_, said = remarks([run])
    assert said.startswith("In 1 of 1 runs the model has a lower i.i.d. accuracy than the head that it started from;")
    assert read_runs(tmp_path / "away").notes == remarks([run])
    # Stopped and gone on with, it is the same.
    for step in (2, 4):
        with pytest.raises(Interrupted):
            train(away, data, tmp_path / "cut", reporter=stopped_at(2))
        assert read_tensors(tmp_path / "cut" / "resume.safetensors", "state")[1]["trajectory"]["step"] == step
    train(away, data, tmp_path / "cut")
    assert_same_run(run.folder, tmp_path / "cut")


def test_a_run_of_an_older_version_hands_over_its_best(config: Config) -> None:
    assert Run(Path("old"), config, {"methods": {}}).model == Path("old/best.safetensors")
    assert Run(Path("x"), config, {"model": "../elsewhere.safetensors"}).model == Path("x/elsewhere.safetensors")


def test_the_safest_by_macro_accuracy() -> None:
    curve = [
        {**entry(alpha, iid, 0.0), "iid_macro_accuracy": macro}
        for alpha, iid, macro in ((0, 0.9, 0.2), (0.5, 0.8, 0.6), (1, 0.7, 0.6))
    ]
    assert safest(curve)["alpha"] == 0
    assert safest(curve, "iid_macro_accuracy")["alpha"] == 1


def test_the_weights_are_the_same_whatever_is_kept_beside(data: ld.Dataset, config: Config, tmp_path: Path) -> None:
    beside = replace(config, swad=True, ema=0.5, wise_ft=True, hand_over="swad", way_back=0.5)
    assert all((getattr(beside, name) != getattr(config, name)) == about.beside for name, about in ABOUT.items())
    one, other = (train(each, data, tmp_path / str(each.swad)) for each in (config, beside))
    for name in ("best", "average", "final"):
        first, second = (read_tensors(getattr(run, name), "model")[0] for run in (one, other))
        assert different(first, second) == []
