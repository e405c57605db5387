from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.helpers import TINY

import largedrop as ld
from largedrop import api
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


def test_a_note_on_how_views_are_made_is_a_warning(
    data: ld.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def noted(data: ld.Dataset, device: torch.device, reporter: Reporter) -> HostViews:
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
