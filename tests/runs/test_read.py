"""Stored runs: what is read, and what is left out or refused and why."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.helpers import PACS, config, refusal, result, store

from largedrop import __version__
from largedrop.config import PROTOCOL, digest_of
from largedrop.errors import UserError
from largedrop.runs.content import _numbers
from largedrop.runs.methods import METHODS
from largedrop.runs.read import read_runs


def unusable(folder: Path) -> dict[str, str]:
    return {entry.name: f"{entry.kind}: {entry.reason}" for entry in read_runs(folder).unusable}


def test_runs_are_read_wherever_they_lie(tmp_path: Path) -> None:
    one, two = config(seed=0), config(seed=1, dropout=0.9)
    store(tmp_path / "b" / "runs", one, result(0.9, 0.7))
    store(tmp_path / "a", two, result(0.8, 0.6))
    store(tmp_path / ".trash", config(seed=2), result(0.8, 0.6))
    runs = read_runs(tmp_path)
    assert [run.name for run in runs.runs] == [f"a/{two.run_name}", f"b/runs/{one.run_name}"]
    assert [run.config for run in runs.runs] == [two, one]
    assert runs.unusable == ()
    assert runs.dataset == {"name": "pacs_copy", "fingerprint": "f00d" * 16}
    first = runs.records[0]
    assert (first.method, first.dropout, first.test_domain, first.seed) == ("fine-tuning", 0.9, "photo", 1)
    assert (first.iid_accuracy, first.ood_accuracy, first.steps, first.seconds) == (0.8, 0.6, 10_000, 12.5)
    assert (first.settings["lr"], first.settings["steps"]) == (1e-3, 10_000)
    assert {"data", "fingerprint", "dropout", "test_domain", "seed"}.isdisjoint(first.settings)
    assert [record.method for record in runs.records] == ["fine-tuning", "ensemble"] * 2
    alone = read_runs(tmp_path / "a" / two.run_name)
    assert [run.name for run in alone.runs] == [two.run_name]


def test_odd_entries_are_left_out_with_their_reason(tmp_path: Path) -> None:
    root, away = tmp_path / "runs", tmp_path / "away"
    store(root, config(), result(0.9, 0.7), "good")
    store(away, config(seed=1), result(0.9, 0.7), "outside")
    (root / "away").symlink_to(away)
    (root / "here").symlink_to("good")
    (root / "loop").symlink_to("loop")
    (root / "nowhere").symlink_to("missing")
    (root / "note").symlink_to(away / "outside" / "config.json")
    os.mkfifo(root.joinpath("pipe").with_suffix(".json"))
    for name, file in (("pipe", "config.json"), ("piped", "result.json")):
        folder = store(root, config(seed=2), result(0.9, 0.7), name)
        (folder / file).unlink()
        os.mkfifo(folder / file)
    for name, content in (
        ("deep", "[" * 100_000),
        ("nan", '{"largedrop": NaN}'),
        ("infinite", '{"largedrop": 1e999}'),
        ("whole", '{"largedrop": 1' + "0" * 5000 + "}"),
    ):
        (store(root, config(seed=3), None, name) / "result.json").write_text(content)
    assert [run.name for run in read_runs(root).runs] == ["good"]
    assert unusable(root) == {
        "away": f"link: it leads out of {root}, and is not followed",
        "deep": "half-written: result.json ends in the middle, after 100000 bytes",
        "infinite": "damaged: result.json is not JSON: 1e999 is no finite number",
        "loop": "link: it leads nowhere, or in a circle",
        "nan": "damaged: result.json is not JSON: NaN is no finite number",
        "nowhere": "link: it leads nowhere, or in a circle",
        "pipe": "damaged: config.json cannot be read: it is no regular file",
        "piped": "damaged: result.json cannot be read: it is no regular file",
        "whole": "damaged: result.json is not JSON: 10000000000000000000… is a number of more than 64 bits",
    }
    root.rename(tmp_path / "moved")
    (tmp_path / "runs").symlink_to("moved")  # the folder itself may be a link
    assert [run.name for run in read_runs(root).runs] == ["good"]


def test_a_link_back_is_not_followed_forever(tmp_path: Path) -> None:
    store(tmp_path / "runs", config(), result(0.9, 0.7))
    (tmp_path / "runs" / "again").symlink_to(tmp_path, target_is_directory=True)
    assert len(read_runs(tmp_path).runs) == 1


def test_what_is_left_out_is_named_with_its_reason(tmp_path: Path) -> None:
    store(tmp_path, config(seed=99), result(0.9, 0.7))
    store(tmp_path, config(), None, "unfinished")
    (store(tmp_path, config(), None, "killed") / ".result.json.x1.tmp").write_text("{")
    (store(tmp_path, config(), None, "cut") / "result.json").write_text('{"methods": {"fine-tu')
    (store(tmp_path, config(), None, "empty") / "result.json").write_text("")
    (store(tmp_path, config(), None, "garbled") / "result.json").write_text("{'a': 1}")
    (store(tmp_path, config(), None, "list") / "result.json").write_text("[{}]")
    (store(tmp_path, config(), None, "folder") / "result.json").mkdir()
    (store(tmp_path, config(), result(0.9, 0.7), "orphan") / "config.json").unlink()
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / ".config.json.x1.tmp").write_text("{")
    store(tmp_path, config(), result(0.9, 0.7, largedrop="90.10.0"), "later")
    store(tmp_path, config(), result(0.9, 0.7, methods={}), "methodless")
    store(tmp_path, config(), result(0.9, 0.7, best_step=600), "lineless")
    bad = result(0.9, 0.7)
    bad["log"].append({"step": 600, "iid_accuracy": 0.9, "iid_by_domain": {"ink": 7.667}})
    store(tmp_path, config(), bad, "impossible")
    bad = result(0.9, 0.7)
    bad["methods"]["ensemble"] = {"iid_accuracy": 97.5, "steps": 1, "seconds": 1.0}
    bad["methods"]["ensembel"] = {"iid_accuracy": 0.5, "ood_accuracy": 0.5, "steps": 1, "seconds": 1.0}
    store(tmp_path, config(), bad, "percent")
    wrong = store(tmp_path, config(), result(0.9, 0.7), "range")
    (wrong / "config.json").write_text(json.dumps({**config().to_json(), "lr": -1, "batch": 0}))
    found = unusable(tmp_path)
    assert found == {
        "unfinished": "unfinished: there is no result.json yet; run it again to resume it",
        "killed": "half-written: it ended while result.json was being written; run it again",
        "cut": "half-written: result.json ends in the middle, after 21 bytes",
        "empty": "half-written: result.json ends in the middle, after 0 bytes",
        "garbled": "damaged: result.json is not JSON: Expecting property name enclosed in double quotes: line 1 column "
        "2 (char 1)",
        "list": "damaged: result.json is not a JSON object",
        "folder": "damaged: result.json cannot be read: Is a directory",
        "orphan": "damaged: there is a result.json but no config.json",
        "begun": "half-written: its config.json was never finished",
        "later": f"newer version: written by largedrop 90.10.0, and this is {__version__}; update it",
        "methodless": "damaged: result.json has no 'methods'",
        "impossible": "damaged: result.json: each line of its log must have a step and fractions as accuracies",
        "lineless": "damaged: result.json has no line in its log for its best step (600)",
        "percent": "damaged: result.json, ensemble: 'iid_accuracy' must be a fraction from 0 to 1 (not %), not 97.5; "
        "'ood_accuracy' is missing; result.json, ensembel: 'method' must be the name of a method, not \"ensembel\"; "
        f"did you mean 'ensemble'? (there are: {', '.join(METHODS)})",
        "range": "damaged: config.json: batch must be a whole number from 1 to 10**7, not 0; "
        "lr must be above 0, not -1",
    }
    assert str(read_runs(tmp_path).unusable[0]).startswith("begun: half-written: ")
    assert all("\n" not in reason for reason in found.values())


def test_edited_by_hand(tmp_path: Path) -> None:
    store(tmp_path, config(seed=99), result(0.9, 0.7))
    edited = config(seed=1)
    store(tmp_path, config(seed=1, lr=0.5), result(0.9, 0.7), edited.run_name)
    better = config(seed=2)
    changed = result(0.9, 0.7)
    changed["methods"]["fine-tuning"]["ood_accuracy"] = 0.99
    store(tmp_path, better, changed)
    longer = config(seed=3)
    store(tmp_path, longer, result(0.9, 0.7, steps=50))
    odd = config(seed=4)
    folder = store(tmp_path, odd, result(0.9, 0.7))
    (folder / "config.json").write_text(json.dumps({**odd.to_json(), "learning_rate": 1}))
    store(tmp_path, config(seed=5), result(0.9, 0.7), "a-name-of-my-own")
    digest = config(seed=1, lr=0.5).digest()
    assert unusable(tmp_path) == {
        edited.run_name: f"edited by hand: its config hashes to {digest}, not to the {edited.digest()} of its "
        "folder's name",
        better.run_name: "edited by hand: its fine-tuning has ood_accuracy 0.99, and its log at step 300 0.7",
        longer.run_name: "edited by hand: its result is of 50 steps, and its config of 10000",
        odd.run_name: unusable(tmp_path)[odd.run_name],
    }
    assert unusable(tmp_path)[odd.run_name].startswith("edited by hand: config.json: unknown setting 'learning_rate'; ")
    assert {run.name for run in read_runs(tmp_path).runs} == {config(seed=99).run_name, "a-name-of-my-own"}


def test_a_config_of_another_version_is_no_edited_one(tmp_path: Path) -> None:
    store(tmp_path, config(seed=99), result(0.9, 0.7))
    content = {**config(seed=1).to_json(), "a_later_field": 1}
    name = f"pacs_copy-photo-d0-s1-{digest_of(content, PROTOCOL)}"
    content["protocol"] = PROTOCOL
    (store(tmp_path, config(seed=1), result(0.9, 0.7), name) / "config.json").write_text(json.dumps(content))
    assert unusable(tmp_path)[name].startswith("newer version: its config has 'a_later_field', which largedrop ")
    # A run of before a field was added: its name is the hash of the fields that it had.
    fewer = config(seed=2).to_json()
    del fewer["held_out_view"]
    old, older = (f"pacs_copy-photo-d0-s2-{digest_of(fewer, protocol)}" for protocol in (PROTOCOL, 1))
    for name, more in ((old, {"protocol": PROTOCOL}), (older, {})):
        folder = store(tmp_path, config(seed=2), result(0.9, 0.7), name)
        (folder / "config.json").write_text(json.dumps({**fewer, **more}))
    assert old in [run.name for run in read_runs(tmp_path).runs]
    assert unusable(tmp_path)[older] == (
        "older protocol: of protocol 1, and now the same config trains differently; run it again"
    )
    for protocol, said in ((4, "newer version: of protocol 4, and "), ("x", "damaged: config.json: protocol must")):
        (tmp_path / older / "config.json").write_text(json.dumps({**fewer, "protocol": protocol}))
        assert unusable(tmp_path)[older].startswith(said)


def test_copies_are_used_once_and_contradictions_refused(tmp_path: Path) -> None:
    store(tmp_path / "a", config(), result(0.9, 0.7))
    store(tmp_path / "b", config(), result(0.9, 0.7))
    name = config().run_name
    assert unusable(tmp_path) == {f"b/{name}": f"copy: the same run as a/{name}, which is used"}
    store(tmp_path / "c", config(), result(0.9, 0.71))
    assert refusal(read_runs, tmp_path) == (
        f"the same config has different results (from another device?); keep one of each: a/{name} and c/{name}"
    )


def test_nothing_to_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^no folder .*none$"):
        read_runs(tmp_path / "none")
    with pytest.raises(UserError, match=r"^no finished run in [^\n]*$"):
        read_runs(tmp_path)
    store(tmp_path, config(), None, "u")
    with pytest.raises(UserError, match=r"^no finished run in .*\nu: unfinished: there is no result\.json yet; "):
        read_runs(tmp_path)


def test_other_datasets_and_splits_are_not_mixed(tmp_path: Path) -> None:
    for seed in range(5):
        store(tmp_path, config(seed=seed), result(0.9, 0.7), f"p{seed}")
    store(tmp_path, config(data="vlcs", fingerprint="beef" * 16, held_out=0.1), result(0.9, 0.7), "v")
    store(tmp_path, config(seed=7, held_out_view="training"), result(0.9, 0.7), "w")
    assert refusal(read_runs, tmp_path) == (
        "these runs cannot be in one report; read each side by itself\n"
        "different dataset:\n"
        "  pacs_copy (f00df00df00d): p0, p1, p2, … and 3 more runs\n"
        "  vlcs (beefbeefbeef): v\n"
        "different held_out:\n"
        "  0.2: p0, p1, p2, … and 3 more runs\n"
        "  0.1: v\n"
        "different held_out_view:\n"
        "  evaluation: p0, p1, p2, … and 3 more runs\n"
        "  training: w"
    )


def test_other_class_lists_are_not_mixed_and_another_name_may_be(tmp_path: Path) -> None:
    facts = {**PACS, "name": "x"}
    store(tmp_path, config(), result(0.9, 0.7, dataset=facts), "a")
    store(tmp_path, config(seed=1, data="renamed"), result(0.9, 0.7), "b")
    assert read_runs(tmp_path).dataset == facts
    store(tmp_path, config(seed=2), result(0.9, 0.7, dataset={**facts, "classes": ["cat"]}), "c")
    with pytest.raises(UserError, match=r"different class list:\n  dog, elephant, [^\n]*: a\n  cat: c$"):
        read_runs(tmp_path)


def test_versions_are_compared_as_numbers() -> None:
    assert _numbers("0.10.2rc1") == (0, 10, 2)
    assert _numbers("0.9") < _numbers("0.10")
    assert _numbers("unreleased") == ()


_opened: list[str] | None = None


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and _opened is not None and isinstance(arguments[0], (str, os.PathLike)):
        _opened.append(os.fspath(arguments[0]))


def test_two_thousand_runs_are_read_without_opening_any_other_file(tmp_path: Path) -> None:
    global _opened
    count = 2_000
    for seed in range(count // 4):
        for domain in PACS["domains"]:
            folder = store(tmp_path, config(domain, seed), result(0.9, 0.7))
            for name in ("log.json", "best.safetensors", "resume.safetensors"):
                (folder / name).write_text("not to be opened")
            (folder / "outputs").mkdir()
    sys.addaudithook(_audit)  # stays for good, and does nothing once the list is gone
    _opened = []
    try:
        runs = read_runs(tmp_path)
    finally:
        opened, _opened = _opened, None
    inside = [path for path in opened if path.startswith(str(tmp_path))]
    assert sorted({Path(path).name for path in inside}) == ["config.json", "result.json"]
    assert len(inside) == 2 * count
    assert len(runs.runs) == count
    settings = {id(record.settings) for record in runs.records}
    assert len(settings) == 1


@pytest.mark.parametrize(
    ("facts", "told"),
    [
        (5, "facts must be an object, not 5"),
        ({"name": ["x"]}, "name must be text, not ['x']"),
        ({"images": -1}, "images must be a number of images, not -1"),
        ({"classes": 5}, "classes must be a list of names, not 5"),
        ({"classes": [["a"], {}]}, "classes must be a list of names, not [['a'], {}]"),
        ({"domains": [1]}, "domains must be numbers of images by domain, not [1]"),
        ({"domains": {"ink": "x"}}, "domains must be numbers of images by domain, not {'ink': 'x'}"),
        ({"lacking": {"photo": 5}}, "lacking must be lists of classes by domain, not {'photo': 5}"),
    ],
)
def test_a_result_with_other_facts_about_the_dataset(tmp_path: Path, facts: Any, told: str) -> None:
    store(tmp_path, config(), result(0.9, 0.7), "good")
    store(tmp_path, config(seed=1), result(0.9, 0.7, dataset=facts), "odd")
    assert unusable(tmp_path) == {"odd": f"damaged: result.json: the dataset's {told}"}
