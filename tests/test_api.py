from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.helpers import TINY, refusal

import largedrop as ld
from largedrop import api
from largedrop.cli import main
from largedrop.data.views.batches import HostViews
from largedrop.reporter import Reporter
from largedrop.training.loop import cost

CPU = torch.device("cpu")


def test_finetune_gives_a_run_whose_models_load(
    data: ld.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = ld.finetune(data, test_domain="photo", dropout=0.5, recipe="short", device="cpu", **TINY)
    assert run.folder == Path("largedrop-runs") / f"{data.name}-photo-d0.5-s0-{run.config.digest()}"
    assert run.config.weights_digest == "random"
    assert [record.method for record in run.records] == ["fine-tuning", "ensemble", "weight-average", "linear-probe"]
    assert {(record.test_domain, record.dropout, record.seed) for record in run.records} == {("photo", 0.5, 0)}
    for path in (run.best, run.average):
        model = ld.load_model(path)
        assert (model.classes, model.training, model.spec.dropout) == (data.classes, False, 0.5)


def test_by_default_a_run_has_an_exponential_average_to_hand_over(data: ld.Dataset, tmp_path: Path) -> None:
    run = ld.finetune(data, test_domain="photo", output=tmp_path / "run", device="cpu", **TINY)
    config = run.config
    assert (config.dropout, config.masks, config.hand_over, config.way_back) == (0.9, 16, "ema", 0)
    assert [record.method for record in run.records if record.method in ("ema", "way-back")] == ["ema"]
    assert ld.load_model(run.model).classes == data.classes


def test_a_misspelt_setting_names_the_nearest(data: ld.Dataset) -> None:
    with pytest.raises(ld.UserError, match="unknown setting 'droput'; did you mean 'dropout'"):
        ld.finetune(data, "photo", droput=0.5)


def test_public_names_are_all_there_and_cost_nothing_until_used() -> None:
    assert all(hasattr(ld, name) for name in ld.__all__)
    assert set(ld.__all__) <= set(dir(ld))
    with pytest.raises(AttributeError, match="has no attribute 'fine_tune'"):
        ld.fine_tune  # noqa: B018
    code = "import sys, largedrop; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_of_a_user_without_a_name_and_a_home_all_caches_have_a_place(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*nothing: object) -> str:
        raise KeyError("getpwuid(): uid not found: 54321")

    def homeless(*nothing: object) -> Path:
        raise RuntimeError("Could not determine home directory.")

    places = ("TORCHINDUCTOR_CACHE_DIR", "NUMBA_CACHE_DIR", "MPLCONFIGDIR")
    for name in places:
        monkeypatch.setenv(name, "")  # so that it is restored
        monkeypatch.delenv(name)
    monkeypatch.setenv("LARGEDROP_CACHE", "/cache")
    ld._place_caches()
    assert not {*places} & {*os.environ}
    monkeypatch.setattr("getpass.getuser", unknown)
    monkeypatch.setattr(Path, "home", homeless)
    ld._place_caches()
    assert [os.environ[name] for name in places] == [
        f"/cache/torchinductor_{os.getuid()}",
        "/cache/numba",
        "/cache/matplotlib",
    ]


def test_a_note_on_how_views_are_made_is_a_warning(
    data: ld.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def noted(data: ld.Dataset, device: torch.device, reporter: Reporter, pixels: float) -> HostViews:
        reporter.note("views are made on the processor: too many")
        return HostViews(data, device)

    monkeypatch.setattr(api, "open_views", noted)
    done: list[float] = []
    with pytest.warns(UserWarning, match="views are made on the processor: too many"):
        run = ld.finetune(data, "ink", output=tmp_path / "run", device="cpu", progress=done.append, **TINY)
    assert run.best.is_file()
    assert sum(done) == cost(run.config, data.split("ink", 0))


def test_classes_that_the_test_domain_lacks_are_a_warning(toy: Path, tmp_path: Path) -> None:
    root = shutil.copytree(toy, tmp_path / "toy")
    shutil.rmtree(root / "photo" / "red")
    data = ld.open_dataset(root)
    with pytest.warns(
        UserWarning, match=r"^'photo' lacks 'red': o\.o\.d\. accuracy there is over the classes it has\.$"
    ):
        run = ld.finetune(data, "photo", output=tmp_path / "run", recipe="short", device="cpu", **TINY)
    assert run.dataset["lacking"] == {"photo": ["red"]}
    assert ld.load_model(run.best).classes == ("blue", "green", "red")
    common = ld.open_dataset(root, classes="common")
    assert (common.classes, len(common)) == (("blue", "green"), 36)
    assert common.fingerprint != data.fingerprint


def test_every_domain_or_several_unseen_ones(data: ld.Dataset, tmp_path: Path) -> None:
    settings = {"recipe": "short", "device": "cpu", **TINY}
    run = ld.finetune(data, output=tmp_path / "all", **settings)
    assert run.config.test_domains == ()
    assert ld.load_model(run.model).classes == data.classes
    both = [
        ld.finetune(data, pair, output=tmp_path / "two", **settings) for pair in (["photo", "ink"], ("ink", "photo"))
    ]
    assert both[0].config == both[1].config
    assert both[0].config.test_domains == ("ink", "photo")
    for wrong in ("", ["photo", ""], "foto"):
        with pytest.raises(ld.UserError, match=r"^no domain '(foto)?' in "):
            ld.finetune(data, wrong, **settings)
    with pytest.raises(ld.UserError, match=r"^the test domain 'ink' is named twice$"):
        ld.finetune(data, ["ink", "ink"], **settings)
    hidden = replace(data, unlabelled=("new",))
    with pytest.warns(UserWarning, match=r"^No image of 'new' has a label: it is not scored\.$"):
        assert ld.finetune(hidden, "new", output=tmp_path / "all", **settings).config == run.config


MODELS = "a model must be a run, its folder or a checkpoint file, or several"


def test_arguments_of_the_wrong_type_are_one_line(data: ld.Dataset, tmp_path: Path) -> None:
    lib: Any = ld
    given: Any = data
    calls: list[tuple[Callable[[], object], str]] = [
        (lambda: lib.finetune(None, "photo"), "data must be a dataset from open_dataset, not None"),
        (lambda: lib.finetune("x", "photo"), "data must be a dataset from open_dataset, not 'x'"),
        (lambda: lib.finetune(data, 3), "test_domain must be the name of a domain, or names, not 3"),
        (lambda: lib.finetune(data, [["a"]]), "test_domain must be the name of a domain, or names, not ['a']"),
        (lambda: lib.finetune(data, device=0), "device must be a name such as 'cpu' or 'cuda:0', not 0"),
        (lambda: lib.finetune(data, output=3), "output must be the path of a folder, not 3"),
        (lambda: lib.finetune(data, also_tested=["ink"]), "also_tested must be names in one text, not ['ink']"),
        (lambda: lib.finetune(data, seed="0"), "seed must be a whole number from 0 to 2**32 - 1, not '0'"),
        (lambda: lib.compare("x"), "data must be a dataset from open_dataset, not 'x'"),
        (lambda: lib.compare(data, 3), "test_domains must be names of domains, not 3"),
        (lambda: lib.compare(data, dropouts="0.9"), "dropouts must be rates, not '0.9'"),
        (lambda: lib.compare(data, dropouts=[None]), "dropouts must be rates, not None"),
        (lambda: lib.compare(data, seeds=1.5), "seeds must be their number, or whole numbers, not 1.5"),
        (lambda: lib.compare(data, seeds=True), "seeds must be their number, or whole numbers, not True"),
        (lambda: lib.compare(data, seeds=10**9), "seeds must be 100,000 at most, not 1000000000"),
        (lambda: lib.compare(data, seed=3), "compare takes seeds, not seed"),
        (lambda: lib.compare(data, dropout=0.3), "compare takes dropouts, not dropout"),
        (lambda: lib.compare(data, test_domain="ink"), "compare takes test_domains, not test_domain"),
        (lambda: lib.compare(data, dropouts=10**400), "dropouts must be rates, not a number of 1,329 bits"),
        (lambda: lib.compare(data, fingerprint="x"), "'fingerprint' is no setting: the dataset says it"),
        (lambda: lib.finetune(data, fingerprint="x"), "'fingerprint' is no setting: the dataset says it"),
        (lambda: lib.advise(data, rates=0.5), "rates must be several dropout rates, not 0.5"),
        (lambda: lib.advise(data, test_domain=3), "test_domain must be the name of a domain, or names, not 3"),
        (lambda: lib.compare(data, seeds=0), "there is nothing to compare: name at least one seed"),
        (lambda: lib.compare(data, learning_rates=["a"]), "learning_rates must be numbers, not 'a'"),
        (lambda: lib.compare(data, jobs="2"), "jobs must be a number of runs, not '2'"),
        (lambda: lib.compare(data, jobs=0), "--jobs must be 1 or more, not 0"),
        (lambda: lib.advise("x"), "data must be a dataset from open_dataset, not 'x'"),
        (lambda: given.split(None, 0), "test_domains must be the name of a domain, or names, not None"),
        (lambda: given.split("ink", "0"), "seed must be a whole number, not '0'"),
        (lambda: given.split("ink", 0, "0.2"), "held_out must be a fraction, not '0.2'"),
        (lambda: given.indices(["ink"]), "a domain must be named by text, not ['ink']"),
        (lambda: lib.open_dataset("t.csv", bound="320"), "bound must be a whole number of pixels, not '320'"),
        (lambda: lib.open_dataset("t.csv", columns={"label": None}), "label must be text, not None"),
        (lambda: lib.open_dataset("t.csv", columns=["a"]), "columns must be a mapping of names, not ['a']"),
        (lambda: lib.open_dataset("t.csv", group_pattern=3), "group_pattern must be text, not 3"),
        (lambda: lib.open_dataset("t.csv", split=3), "split must be a path, not 3"),
        (lambda: lib.load_model(None), "a model is loaded from the path of a checkpoint, not None"),
        (
            lambda: lib.predict(None, [__file__]),
            "a model must be a run, its folder or a checkpoint file, or several, not None",
        ),
        (lambda: lib.predict("x", 3), "images must be paths of files and folders, not 3"),
        (lambda: lib.set_dropout(None, 0.9), "the network must be a torch.nn.Module, not None"),
        (lambda: lib.set_dropout(torch.nn.Linear(1, 1), 0.9, 5), "head must be a dotted name, or several, not 5"),
        (lambda: lib.average_weights(5), "weights to average must be several state dicts, not 5"),
        (lambda: lib.finetune(data, progress=5), "progress must be a function, not 5"),
        (
            lambda: lib.finetune(data, track=5),
            "track must be the name of a tracker, a class or function that opens a run, or several, not 5",
        ),
        (lambda: lib.Run.open(None), "a run is opened from the path of its folder, not None"),
        (lambda: lib.Run.open("a\0b"), "no finished run in a\0b: the name has a null character"),
        (lambda: lib.load_model("a\0b"), "a\0b cannot be read: its name has a null character"),
        (
            lambda: lib.finetune(data, "photo", output="a\0b", **TINY),
            "the name of a\0b has a null character; name another --output",
        ),
    ]
    for call, said in calls:
        assert refusal(call) == said


def test_a_finished_run_whose_model_is_damaged_is_not_handed_over(toy: Path, tmp_path: Path, quick_heads: None) -> None:
    data = ld.open_dataset(toy)
    settings: dict[str, Any] = {**TINY, "recipe": "short", "device": "cpu", "output": tmp_path / "run"}
    run = ld.finetune(data, "photo", **settings)
    assert ld.finetune(data, "photo", **settings) == run
    content = run.model.read_bytes()
    run.model.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    advice = f"remove {run.folder} and train it again"
    said = refusal(ld.finetune, data, "photo", **settings)
    assert said == f"{run.model} is damaged: its checksum is not that of its content; {advice}"
    run.model.unlink()
    assert "is gone, though its run is finished" in refusal(ld.finetune, data, "photo", **settings)


SHORT = {**TINY, "recipe": "short", "device": "cpu", "steps": 2, "eval_every": 1, "precision": "float32"}


def test_a_comparison_is_that_of_the_command(toy: Path, tmp_path: Path, quick_heads: None) -> None:
    data, folder = ld.open_dataset(toy), tmp_path / "out"
    done: list[float] = []
    found = ld.compare(
        data, ["photo", "ink"], dropouts=(0, np.float64(0.9)), seeds=2, output=folder, progress=done.append, **SHORT
    )
    assert len(found.runs) == 8
    assert not found.failed
    plain, dropped = (row for row in found.rows if row.method == "fine-tuning")
    assert (plain.name, plain.dropout, plain.gain) == ("plain fine-tuning", 0, None)
    assert plain.iid is not None
    assert plain.ood is not None
    assert dropped.gain is not None
    assert (plain.iid.n, list(dropped.domains)) == (2, ["photo", "ink"])
    assert repr(dropped).startswith("<Row 'dropout 0.9': ")
    assert repr(data) == f"<Dataset {data.name!r}: 54 images, domains ('ink', 'oil', 'photo'), 3 classes>"
    by_hand = [run.records[0].ood_accuracy for run in found.runs if run.config.dropout == 0]
    assert plain.ood.mean == pytest.approx(np.mean([each for each in by_hand if each is not None]))
    assert sum(done) >= found.planned.work
    results = (folder / "results.json").read_bytes()
    assert b"largedrop.compare(data, test_domains=['photo', 'ink'], dropouts=(0, " in results
    assert (folder / "report.html").is_file()

    options = [text for name, value in SHORT.items() for text in (f"--{name.replace('_', '-')}", str(value))]
    command = ["compare", str(toy), "--test-domains", "photo,ink", "--dropout", "0,0.9", "--seeds", "2", *options]
    before = [path.stat().st_mtime_ns for path in sorted(folder.rglob("runs/*/*"))]
    assert main([*command, "--output", str(folder)]) == 0
    assert [path.stat().st_mtime_ns for path in sorted(folder.rglob("runs/*/*"))] == before
    said = refusal(ld.compare, data, output=folder, **{**SHORT, "steps": 3})
    assert said == f"{folder} belongs to another comparison: steps 2 instead of 3; name another --output"


def test_a_comparison_of_one_domain_and_of_rates_of_which_one_collapses(
    toy: Path, tmp_path: Path, quick_heads: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(toy / "ink", tmp_path / "one")
    settings = {**SHORT, "steps": 40, "eval_every": 20, "optimizer": "sgd", "head": "zero"}
    with pytest.warns(UserWarning, match=r"^one-d0-s0-[0-9a-f]+: the run (collapsed|diverged)") as caught:
        found = ld.compare(ld.open_dataset(tmp_path / "one"), dropouts=0, learning_rates=(1e-3, 1e6), **settings)
    assert {warning.filename for warning in caught} == {__file__}
    (run,) = found.runs
    (choice,) = found.choices
    assert run.config.test_domains == ()
    assert run.config.lr == choice.chosen == 1e-3
    assert run.folder.parent.parent == Path("largedrop-runs") / found.planned.folder_name()
    assert not found.failed
    assert [row.ood for row in found.rows if row.method == "fine-tuning"] == [None]


def test_advice_for_a_device_by_name(data: ld.Dataset, quick_heads: None) -> None:
    settings: dict[str, Any] = {"model": TINY["model"], "weights": TINY["weights"], "size": 32, "precision": "float32"}
    found = ld.advise(data, test_domain="photo", device="cpu", **settings)
    assert repr(found).startswith(f"<Advice {found.rate:g}, {found.verdict}: ")
    assert found.rate == ld.advise(data, test_domain="photo", device=CPU, **settings).rate
