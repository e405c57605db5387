"""Which domains a run trains on and is tested on, and that it learns from no other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from tests.helpers import assert_same_run, different, refusal, step_by_step, tensors
from torch import Tensor

import largedrop as ld
from largedrop.config import Config, make_config
from largedrop.errors import UserError
from largedrop.runs.run import Run
from largedrop.training.loop import train

pytestmark = pytest.mark.usefixtures("quick_heads")


def config(**settings: Any) -> Config:
    return make_config(**{"data": "PACS", "fingerprint": "f00d", "test_domain": "sketch", **settings})


def test_several_test_domains_or_none() -> None:
    one, several = config(), config(also_tested=' "San Jose, CA",ink')
    assert (one.test_domains, one.unseen, one.split_key) == (("sketch",), ("sketch",), (("sketch",), 0, 0.2, ""))
    assert several.also_tested == '"San Jose, CA",ink'
    assert several.test_domains == ("sketch", "San Jose, CA", "ink")
    assert several.run_name.startswith("PACS-sketch-San Jose, CA-ink-d0.9-s0-")
    assert replace(several, left_out="photo").unseen == (*several.test_domains, "photo")
    assert several.digest() != one.digest()
    assert replace(several, also_tested="").digest() == one.digest()
    none = config(test_domain="")
    assert (none.test_domains, none.unseen) == ((), ())
    assert none.run_name == f"PACS-d0.9-s0-{none.digest()}"


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"also_tested": "ink,sketch"}, "the test domain 'sketch' is named twice"),
        ({"also_tested": "ink", "left_out": "ink"}, "left-out and test-domain are both 'ink'"),
        ({"also_tested": "ink", "test_domain": ""}, "also-tested 'ink' does not go without a test-domain"),
        (
            {"also_tested": '"ink'},
            "also-tested must be names separated by commas, in double quotes where they have a comma, not '\"ink'",
        ),
    ],
)
def test_test_domains_that_contradict_each_other(settings: dict[str, str], told: str) -> None:
    assert refusal(config, **settings) == told


class Garbage:
    """Images of which those of one domain are replaced by noise or white."""

    bound = 320

    def __init__(self, data: ld.Dataset, domain: str, white: bool) -> None:
        self.data, self.domain, self.white = data, data.domain_index(domain), white

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> npt.NDArray[np.uint8]:
        image = self.data.images[index]
        if self.data.domain_ids[index] != self.domain:
            return image
        if self.white:
            return np.full_like(image, 255)
        return np.random.default_rng(index).integers(0, 256, image.shape, dtype=np.uint8)


@pytest.mark.parametrize("white", [True, False])
@pytest.mark.parametrize("changed", ["sgd", "frozen"], indirect=True)
def test_the_test_domain_is_never_learned_from(data: ld.Dataset, changed: Config, tmp_path: Path, white: bool) -> None:
    labels = data.labels.copy()
    labels[data.indices("photo")] = np.random.default_rng(1).permutation(labels[data.indices("photo")])
    spoiled = replace(data, images=Garbage(data, "photo", white), labels=labels)
    one, other = train(changed, data, tmp_path / "one"), train(changed, spoiled, tmp_path / "other")
    spoilt = different(tensors(one.folder), tensors(other.folder))
    assert spoilt == [f"{step:06d}.safetensors:ood" for step in (0, 2, 4, 6)]
    for here, there in zip(one.result["log"], other.result["log"], strict=True):
        untested = {"ood_accuracy": 0, "ood_macro_accuracy": 0}
        assert {**here, **untested} == {**there, **untested}
    assert one.result["best_step"] == other.result["best_step"]
    for key in ("iid_accuracy", "steps", "fit_steps", "fit_loss", "converged"):
        assert one.result["probe"][key] == other.result["probe"][key]


def test_a_domain_that_is_left_out_is_never_seen(data: ld.Dataset, config: Config, tmp_path: Path) -> None:
    without = replace(config, left_out="ink")
    changed = replace(data, images=Garbage(data, "ink", False))
    one, other = train(without, data, tmp_path / "one"), train(without, changed, tmp_path / "other")
    assert_same_run(one.folder, other.folder)
    assert set(one.result["log"][0]["iid_by_domain"]) == {"oil"}
    assert all(record.settings["left_out"] == "ink" for record in one.records)


def test_an_unknown_test_domain_is_said_before_anything_is_written(
    data: ld.Dataset, config: Config, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"^no domain 'pohto' in .*; did you mean 'photo'\?"):
        train(replace(config, test_domain="pohto"), data, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def _weights(run: Run) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in tensors(run.folder).items() if not name.endswith((":iid", ":ood"))}


def test_a_run_tested_on_two_domains_is_the_one_that_leaves_one_of_them_out(
    data: ld.Dataset, config: Config, tmp_path: Path
) -> None:
    both = train(replace(config, test_domain="ink", also_tested="photo"), data, tmp_path / "both")
    single = {
        domain: train(replace(config, test_domain=domain, left_out=other), data, tmp_path / domain)
        for domain, other in (("ink", "photo"), ("photo", "ink"))
    }
    for run in single.values():
        spoilt = different(tensors(both.folder), {**tensors(both.folder), **_weights(run)})
        assert spoilt == []
    methods = {name: each["ood_by_domain"] for name, each in both.result["methods"].items()}
    assert methods == {
        name: {domain: run.result["methods"][name]["ood_accuracy"] for domain, run in single.items()}
        for name in methods
    }
    assert [(each.method, each.test_domain) for each in both.records[:2]] == [
        ("fine-tuning", "ink"),
        ("fine-tuning", "photo"),
    ]
    assert [each.ood_accuracy for each in both.records] == [
        each.ood_accuracy for pair in zip(*(run.records for run in single.values()), strict=True) for each in pair
    ]
    assert both.model_scores is not None
    assert both.model_scores[1] == both.result["methods"]["fine-tuning"]["ood_accuracy"]


def test_a_run_without_a_test_domain_trains_on_every_domain(data: ld.Dataset, config: Config, tmp_path: Path) -> None:
    more: dict[str, Any] = {"swad": True, "ema": 0.7, "hand_over": "ema", "way_back": 0.2}
    alone = replace(config, test_domain="", **more)
    run = train(replace(alone, wise_ft=True), data, tmp_path / "all")
    assert [each["iid_by_domain"].keys() for each in run.result["log"]] == [{"ink", "oil", "photo"}] * 4
    assert {each["ood_accuracy"] for each in run.result["log"]} == {None}
    assert {(each.test_domain, each.ood_accuracy) for each in run.records} == {("", None)}
    assert run.model_scores is not None
    assert run.model_scores[1] is None
    assert ld.load_model(run.model).classes == data.classes
    train(alone, data, tmp_path / "whole")
    step_by_step(alone, data, tmp_path / "steps")
    assert_same_run(tmp_path / "whole", tmp_path / "steps")
