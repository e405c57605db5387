"""Comparisons: their grid and order, whose folder it is, and runs that collapse, are finished, or are stopped."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.helpers import TINY, Networks, Watch

import largedrop as ld
from largedrop.config import PROTOCOL, Config
from largedrop.errors import CollapseError, Interrupted, NoMemoryError, RunError, UserError
from largedrop.experiments import runner
from largedrop.experiments.compare import Plan, compare, plan, time_left
from largedrop.files import read_json
from largedrop.runs.run import Run
from largedrop.training import loop
from largedrop.training.loop import cost, train
from largedrop.training.setup import create_network
from largedrop.training.step import TrainingStep

CPU = torch.device("cpu")
QUICK: dict[str, Any] = {**TINY, "recipe": "short", "steps": 2, "eval_every": 1, "precision": "float32"}

pytestmark = pytest.mark.usefixtures("quick_heads")


def planned(data: ld.Dataset, **changes: Any) -> Plan:
    return plan(data, CPU, **{"test_domains": ["photo"], "dropouts": (0.0, 0.9), **QUICK, **changes})


def refusal(data: ld.Dataset, **changes: Any) -> str:
    with pytest.raises(UserError) as caught:
        planned(data, **changes)
    return str(caught.value)


def claimed(data: ld.Dataset, folder: Path, **changes: Any) -> str:
    with pytest.raises(UserError) as caught:
        compare(data, planned(data, **changes), folder, device=CPU)
    return str(caught.value)


def varied(configs: Any) -> list[tuple[int, str, float]]:
    return [(config.seed, config.test_domain, config.dropout) for config in configs]


def test_the_grid_goes_seed_by_seed_domain_by_domain(data: ld.Dataset) -> None:
    made = planned(data, test_domains=iter(["photo", "ink"]), dropouts=iter([0.9, 0]), seeds=iter([3, 1]))
    assert varied(made.configs) == [
        (seed, domain, dropout) for seed in (3, 1) for domain in ("photo", "ink") for dropout in (0.9, 0.0)
    ]
    assert made.test_domains == ("photo", "ink")
    assert made.seeds == (3, 1)


def test_the_defaults_are_every_domain_three_rates_and_one_seed(data: ld.Dataset) -> None:
    made = plan(data, CPU, **QUICK)
    assert varied(made.configs) == [
        (0, domain, dropout) for domain in ("ink", "oil", "photo") for dropout in (0.0, 0.5, 0.9)
    ]


@pytest.mark.parametrize("rates", [(0.0, 0.9), (0.9, 0.0)])
def test_plain_fine_tuning_has_one_mask_and_no_run_of_its_own_for_several(
    data: ld.Dataset, rates: tuple[float, float]
) -> None:
    masks = {config.dropout: config.masks for config in planned(data, dropouts=rates, masks=16).configs}
    assert masks == {0.0: 1, 0.9: 16}
    plain = [config for config in planned(data, dropouts=rates).configs if not config.dropout]
    assert plain == [config for config in planned(data, dropouts=rates, masks=16).configs if not config.dropout]


def test_runs_differ_in_what_is_varied_alone(data: ld.Dataset) -> None:
    made = planned(data, test_domains=None, seeds=range(2), lr=0.25)
    shared = [
        {name: value for name, value in config.to_json().items() if name not in ("seed", "test_domain", "dropout")}
        for config in made.configs
    ]
    assert all(entry == shared[0] for entry in shared)
    expected = {
        **TINY,
        "steps": 2,
        "eval_every": 1,
        "lr": 0.25,
        "data": data.name,
        "fingerprint": data.fingerprint,
        "weights_digest": "random",
    }
    assert {name: shared[0][name] for name in expected} == expected


def test_costs_are_those_of_the_runs(data: ld.Dataset) -> None:
    made = planned(data, test_domains=None, seeds=range(2))
    for config, work in zip(made.configs, made.costs, strict=True):
        assert work == cost(config, data.split(config.test_domain, config.seed, config.held_out))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"test_domains": ["foto"]}, "no domain 'foto' in {name}; did you mean 'photo'? (there are: ink, oil, photo)"),
        ({"test_domains": ["ink", "zzz"]}, "no domain 'zzz' in {name}; there are: ink, oil, photo"),
        ({"test_domains": ["ink", "ink"]}, "the test domain 'ink' is named twice"),
        ({"dropouts": [0, 0.5, 0.0]}, "the dropout rate '0' is named twice"),
        ({"seeds": [1, 0, 1]}, "the seed '1' is named twice"),
        ({"test_domains": []}, "there is nothing to compare: name at least one test domain"),
        ({"dropouts": []}, "there is nothing to compare: name at least one dropout rate"),
        ({"seeds": []}, "there is nothing to compare: name at least one seed"),
        ({"learning_rates": [1e-3, 0.01, 0.001]}, "the learning rate '0.001' is named twice"),
        ({"learning_rates": [1e-3, 0]}, "lr must be above 0, not 0"),
        ({"learning_rates": [0.1, 0.2], "fit": "probe", "optimizer": "lbfgs"},
         "optimizer 'lbfgs' has no learning rate: name one at most"),
        ({"dropouts": [0.5, 1.0]}, "dropout must be in [0, 1), not 1.0"),
        ({"seeds": [0, -1]}, "seed must be a whole number from 0 to 2**32 - 1, not -1"),
        ({"recipe": "long"}, "unknown recipe 'long'; there are: robust, short, paper"),
        ({"size": 400}, "size 400 is larger than the 320 pixels of the cached images; open them with "
         "open_dataset(…, bound=500)"),
        ({"model": "test_efficientnot"}, "unknown model 'test_efficientnot'; did you mean 'test_efficientnet'? "),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_before_anything_is_trained(data: ld.Dataset, changes: dict[str, Any], text: str) -> None:
    assert refusal(data, **changes).startswith(text.format(name=data.name))


def test_a_record_for_every_run_and_method(data: ld.Dataset, tmp_path: Path) -> None:
    made = planned(data, test_domains=["photo", "ink"], seeds=(0, 1))
    done: list[float] = []
    begun: list[Config] = []
    result = compare(data, made, tmp_path, device=CPU, reporter=Watch(advance=done.append, begin=begun.append))
    assert tuple(begun) == made.configs
    assert [run.config for run in result.runs] == list(made.configs)
    assert result.failed == []
    assert len(result.records) == 8 * 4
    keys = {(entry.method, entry.dropout, entry.test_domain, entry.seed) for entry in result.records}
    assert len(keys) == 32
    assert {method for method, *_ in keys} == {"fine-tuning", "ensemble", "weight-average", "linear-probe"}
    assert sum(done) >= sum(made.costs)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["comparison.json", "runs"]
    assert sorted(entry.name for entry in (tmp_path / "runs").iterdir()) == sorted(
        f"{data.name}-{config.test_domain}-d{config.dropout:g}-s{config.seed}-{config.digest()}" for config in begun
    )
    alone = train(made.configs[-1], data, tmp_path / "alone")
    assert alone.result["log"] == result.runs[-1].result["log"]


def test_finished_runs_are_only_read_and_more_may_join(
    data: ld.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = compare(data, planned(data), tmp_path, device=CPU)
    before = (tmp_path / "comparison.json").read_bytes()
    made: list[Config] = []
    create = create_network

    def counted(config: Config, *arguments: Any) -> Any:
        made.append(config)
        return create(config, *arguments)

    monkeypatch.setattr(loop, "create_network", counted)
    assert compare(data, planned(data), tmp_path, device=CPU) == first
    assert made == []
    more = compare(data, planned(data, seeds=(0, 1), dropouts=(0.0, 0.9, 0.5)), tmp_path, device=CPU)
    assert varied(made) == [(0, "photo", 0.5), (1, "photo", 0.0), (1, "photo", 0.9), (1, "photo", 0.5)]
    assert len(more.runs) == 6
    assert (tmp_path / "comparison.json").read_bytes() == before


def test_the_folder_of_another_comparison(data: ld.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "train", lambda config, *arguments, **options: Run(tmp_path, config, {"methods": {}}))
    compare(data, planned(data), tmp_path, device=CPU)
    assert read_json(tmp_path / "comparison.json") == {"protocol": PROTOCOL} | {
        name: value
        for name, value in planned(data).configs[0].to_json().items()
        if name not in ("dropout", "test_domain", "seed", "masks")
    }
    assert claimed(data, tmp_path, lr=0.5) == (
        f"{tmp_path} belongs to another comparison: lr 0.001 instead of 0.5; name another --output"
    )


def test_a_run_that_collapses_is_recorded_and_the_others_go_on(
    data: ld.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fragile(config: Config, *arguments: Any, **options: Any) -> Run:
        if (config.dropout, config.seed) == (0.9, 0):
            raise CollapseError("the run collapsed at step 21")
        return train(config, *arguments, **options)

    monkeypatch.setattr(runner, "train", fragile)
    told: list[tuple[float, int, str]] = []
    result = compare(
        data,
        planned(data, seeds=(0, 1)),
        tmp_path,
        device=CPU,
        reporter=Watch(failed=lambda config, reason: told.append((config.dropout, config.seed, reason))),
    )
    assert told == [(0.9, 0, "the run collapsed at step 21")]
    assert result.failed == [
        {"dropout": 0.9, "test_domain": "photo", "seed": 0, "error": "the run collapsed at step 21"}
    ]
    assert varied(run.config for run in result.runs) == [(0, "photo", 0.0), (1, "photo", 0.0), (1, "photo", 0.9)]
    assert len(result.records) == 3 * 4


RATES = (0.1, 0.2, 0.3)


def pretending(folder: Path, ended: dict[Any, Any], begun: list[Config]) -> Callable[..., Run]:
    """``train`` that has i.i.d. and o.o.d. accuracy, or an error, by dropout and learning rate."""

    def train(config: Config, *arguments: Any, **options: Any) -> Run:
        begun.append(config)
        outcome = ended[config.dropout, config.lr]
        if isinstance(outcome, RunError):
            raise outcome
        scores = {"iid_accuracy": outcome[0], "ood_accuracy": outcome[1], "steps": 2, "seconds": 1.0}
        return Run(folder, config, {"methods": {"fine-tuning": scores}})

    return train


def test_each_arm_takes_its_learning_rate_by_iid_accuracy_with_the_first_seed(
    data: ld.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The best o.o.d. accuracy is elsewhere; what collapses is not taken, and no failure where another is."""
    scores = {(0.0, 0.1): (0.5, 0.9), (0.0, 0.2): (0.6, 0.1), (0.0, 0.3): (0.7, 0.2)}
    scores |= {(0.9, 0.1): (0.5, 0.9), (0.9, 0.2): (0.7, 0.1)}
    begun: list[Config] = []
    gone = CollapseError("the run collapsed at step 21")
    monkeypatch.setattr(runner, "train", pretending(tmp_path, {**scores, (0.9, 0.3): gone}, begun))
    made = planned(data, seeds=(4, 0), learning_rates=[0.3, 0.1, 0.2])
    result = compare(data, made, tmp_path, device=CPU)
    assert [(each.seed, each.dropout, each.lr) for each in begun] == [
        *((4, dropout, rate) for dropout in (0.0, 0.9) for rate in RATES),
        *((0, 0.0, 0.3), (0, 0.9, 0.2)),
    ]
    taken = [(run.config.seed, run.config.dropout, run.config.lr) for run in result.runs]
    assert taken == [(4, 0.0, 0.3), (4, 0.9, 0.2), (0, 0.0, 0.3), (0, 0.9, 0.2)]
    assert result.failed == []
    assert [choice.chosen for choice in result.choices] == [0.3, 0.2]
    assert [line[:41] for line in result.remarks[:1]] == ["Dropout 0 on photo: the best learning rat"]
    assert (made.count, made.learning_rates) == (len(begun), RATES)
    assert made.work == pytest.approx(sum(cost(config, config.split_of(data)) for config in begun))


def test_an_arm_that_collapses_at_each_learning_rate_and_damage_are_failures(
    data: ld.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone, damaged = CollapseError("the run collapsed at step 21"), RunError("result.json is damaged")
    ended = {(0.0, 0.1): (0.5, 0.5), (0.0, 0.2): damaged, (0.9, 0.1): gone, (0.9, 0.2): gone}
    begun: list[Config] = []
    monkeypatch.setattr(runner, "train", pretending(tmp_path, ended, begun))
    result = compare(data, planned(data, seeds=(0, 1), learning_rates=(0.1, 0.2)), tmp_path, device=CPU)
    assert varied(begun[4:]) == [(1, "photo", 0.0)]  # nothing says at which the other arm would be trained
    assert [(entry["dropout"], entry["lr"], entry["error"]) for entry in result.failed] == [
        (0.0, 0.2, str(damaged)),
        (0.9, 0.1, str(gone)),
        (0.9, 0.2, str(gone)),
    ]
    assert varied(run.config for run in result.runs) == [(0, "photo", 0.0), (1, "photo", 0.0)]


def test_a_damaged_config_is_one_failure_or_written_again(data: ld.Dataset, tmp_path: Path) -> None:
    made = planned(data, seeds=(0, 1))
    compare(data, made, tmp_path, device=CPU)
    folder = tmp_path / "runs" / made.configs[0].run_name
    path, best = folder / "config.json", folder / "best.safetensors"
    path.unlink()
    os.mkfifo(path)
    best.rename(folder / "away")
    result = compare(data, made, tmp_path, device=CPU)
    assert len(result.runs) == len(made.configs) - 1
    (failed,) = result.failed
    assert failed["error"] == f"{path} cannot be read: it is no regular file; remove {folder} and train it again"
    (folder / "away").rename(best)
    assert len(compare(data, made, tmp_path, device=CPU).runs) == len(made.configs)
    assert path.is_file()


def test_one_learning_rate_is_a_comparison_as_ever(
    data: ld.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert planned(data, learning_rates=[0.1]) == planned(data, lr=0.1)
    scores = {(dropout, rate): (0.5, 0.5) for dropout in (0.0, 0.9) for rate in RATES}
    monkeypatch.setattr(runner, "train", pretending(tmp_path, {**scores}, []))
    one, several = tmp_path / "one", tmp_path / "several"
    compare(data, planned(data, lr=0.1), one, device=CPU)
    compare(data, planned(data, learning_rates=RATES), one, device=CPU)  # which may join
    compare(data, planned(data, learning_rates=RATES), several, device=CPU)
    compare(data, planned(data, learning_rates=RATES[:2]), several, device=CPU)
    assert claimed(data, several, lr=0.1) == (
        f"{several} belongs to another comparison: lr 'several' instead of 0.1; name another --output"
    )


def test_the_time_left_is_of_what_is_not_finished(data: ld.Dataset, tmp_path: Path) -> None:
    made = planned(data, seeds=(0, 1), learning_rates=RATES)
    told = time_left(made, data, tmp_path, device=CPU)
    assert re.fullmatch("very roughly .+ one after the other, by the speed of the network alone", told)
    one = planned(data, dropouts=[0.9], seeds=(0, 1), lr=0.1)
    compare(data, one, tmp_path, device=CPU)
    assert time_left(one, data, tmp_path, device=CPU) == "2 of 2 finished; nothing to train"
    assert re.fullmatch(
        r"2 of 8 finished; \d+ s one after the other at the pace of those finished here",
        time_left(made, data, tmp_path, device=CPU),
    )


def test_collapsed_runs_leave_no_network(
    data: ld.Dataset, tmp_path: Path, networks: Networks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TrainingStep, "_compute", lambda *inputs: (torch.tensor(torch.nan), torch.tensor(1.0)))
    result = compare(data, planned(data, seeds=(0, 1)), tmp_path, device=CPU)
    assert len(result.failed) == 4
    assert networks.before == [0] * 4


@pytest.mark.parametrize("kind", [UserError, NoMemoryError])
def test_other_errors_end_the_comparison(
    data: ld.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[UserError]
) -> None:
    def broken(*arguments: Any, **options: Any) -> Run:
        raise kind("cannot write it")

    monkeypatch.setattr(runner, "train", broken)
    assert claimed(data, tmp_path) == "cannot write it"


def test_a_comparison_that_is_stopped_goes_on(data: ld.Dataset, tmp_path: Path) -> None:
    made = planned(data)
    asked = iter([False, False, True])
    with pytest.raises(Interrupted, match=r"^stopped after step 1 of 2$"):
        compare(data, made, tmp_path / "cut", device=CPU, reporter=Watch(stopped=lambda: next(asked)))
    cut = compare(data, made, tmp_path / "cut", device=CPU)
    whole = compare(data, made, tmp_path / "whole", device=CPU)
    assert [run.result["log"] for run in cut.runs] == [run.result["log"] for run in whole.runs]
