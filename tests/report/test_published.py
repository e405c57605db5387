"""Published numbers: those of the protocol page, datasets recognised by what they hold, and protocols compared."""

from __future__ import annotations

from typing import Any

import pytest

from largedrop.config import RECIPES, make_config
from largedrop.report.published import DATASETS, GRID, PROTOCOL, Centre, differences, recognise


def facts(name: str = "PACS", **changes: Any) -> dict[str, Any]:
    dataset = DATASETS[name]
    return {"name": "mine", "domains": dict(dataset.domains), "classes": list(dataset.classes), **changes}


def test_datasets_have_the_published_numbers_of_images_and_classes() -> None:
    assert {each.name: (sum(each.domains.values()), len(each.classes)) for each in DATASETS.values()} == {
        "PACS": (9_991, 7),
        "VLCS": (10_729, 5),
        "OfficeHome": (15_588, 65),
        "TerraIncognita": (24_330, 10),
    }
    assert all(len(set(each.classes)) == len(each.classes) for each in DATASETS.values())


@pytest.mark.parametrize(
    ("name", "plain", "large", "rest"),
    [
        ("VLCS", (87.4, 78.7), (87.4, 80.0), (79.3, 79.5, 79.6, 79.9)),
        ("OfficeHome", (84.9, 70.8), (85.9, 73.4), (71.6, 71.6, 72.9, 72.9)),
        ("PACS", (97.5, 86.5), (97.8, 88.4), (86.5, 86.6, 87.5, 88.5)),
        ("TerraIncognita", (91.3, 51.3), (87.9, 53.7), (53.1, 52.7, 53.1, 52.3)),
    ],
)
def test_centres(name: str, plain: tuple[float, float], large: tuple[float, float], rest: tuple[float, ...]) -> None:
    average, ensemble, half, most = rest
    assert DATASETS[name].centres == {
        ("fine-tuning", 0.0): Centre(*plain),
        ("fine-tuning", 0.9): Centre(*large),
        ("weight-average", 0.0): Centre(None, average),
        ("ensemble", 0.0): Centre(None, ensemble),
        ("fine-tuning", 0.5): Centre(None, half),
        ("fine-tuning", 0.95): Centre(None, most),
    }


@pytest.mark.parametrize("name", list(DATASETS))
def test_recognised_by_what_it_holds(name: str) -> None:
    assert recognise(facts(name)) == (DATASETS[name], "")


def test_recognised_under_other_spellings() -> None:
    office = facts("OfficeHome")
    office["domains"] = {key.lower().replace(" ", "_"): count for key, count in office["domains"].items()}
    office["classes"] = [key.replace("_", " ") for key in office["classes"]][::-1]
    assert recognise(office)[0] is DATASETS["OfficeHome"]


def test_other_counts_classes_or_domains_are_another_dataset() -> None:
    fewer = {**DATASETS["PACS"].domains, "photo": 1669}
    assert recognise(facts(domains=fewer)) == (
        None,
        "looks like PACS but has other numbers of images (photo 1,669 instead of 1,670)",
    )
    assert recognise(facts(classes=[*DATASETS["PACS"].classes, "cat"])) == (None, "")
    assert recognise(facts(domains={**DATASETS["PACS"].domains, "quickdraw": 3})) == (None, "")
    assert recognise({"name": "PACS"}) == (None, "")


def test_the_paper_recipe_is_the_papers_protocol() -> None:
    recipe = make_config("paper", data="d", fingerprint="f", test_domain="t", model="resnet50.tv2_in1k").to_json()
    assert {name: recipe[name] for name in PROTOCOL} == PROTOCOL
    assert all(RECIPES["paper"][name] in values for name, values in GRID.items())
    grid = [{**recipe, "lr": lr, "weight_decay": decay} for lr in GRID["lr"] for decay in GRID["weight_decay"]]
    assert differences(grid, 3) == []


def test_differences_name_network_steps_size_and_the_rest() -> None:
    short = make_config(data="d", fingerprint="f", test_domain="t").to_json()
    assert differences([short], 1) == [
        "network tf_efficientnet_lite0 instead of resnet50.tv2_in1k",
        "300 steps instead of 10,000 steps",
        "128 px instead of 224 px",
        "batch 8 images instead of 32 images",
        "optimizer adamw instead of sgd",
        "head warm instead of random",
        "eval_every 50 steps instead of 300 steps",
        "lr 0.0001 instead of 0.0005, 0.001",
        "weight_decay 0.01 instead of 1e-05, 5e-05, 0.0001",
        "1 seed instead of 3",
    ]
    mixed = [{**short, "steps": 10_000}, short]
    assert "300 steps instead of 10,000 steps in some runs" in differences(mixed, 3)
    assert "network unknown instead of resnet50.tv2_in1k" in differences([{}], 3)
