"""``largedrop advise``, and ``--dropout auto`` of ``train`` and ``compare``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.helpers import FAST, one_line

from largedrop import cli
from largedrop.analysis import advice as module
from largedrop.analysis.advice import Advice
from largedrop.analysis.advice_curves import Curves
from largedrop.cli import main
from largedrop.cli.advise import advise as command

if not any(registered.callback is command for registered in cli.app.registered_commands):
    cli.app.command()(command)

NETWORK = ["--model", "test_efficientnet", "--weights", "random", "--size", "32", "--device", "cpu"]

pytestmark = pytest.mark.usefixtures("quick_heads")


@pytest.fixture
def advised(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The adviser says 0.5 for ink and 0.25 for others; how it was asked."""
    asked: list[dict[str, Any]] = []

    def say(data: Any, *, test_domain: tuple[str, ...], **settings: Any) -> Advice:
        asked.append({"test_domain": test_domain, **settings})
        rate = 0.5 if test_domain == ("ink",) else 0.25
        return Advice(rate, "use", "because.", Curves((0.0, rate), (), (), (0,), None, None))  # type: ignore[arg-type]

    monkeypatch.setattr(module, "advise", say)
    return asked


def rates(folder: Path) -> set[tuple[str, float]]:
    records = json.loads((folder / "results.json").read_text())["records"]
    return {(record["test_domain"], record["dropout"]) for record in records}


def test_table_json_and_figure(toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["advise", str(toy), "--test-domain", "photo", "--rates", "0.5,0.9", "--seeds", "1"]
    assert main([*arguments, *NETWORK, "--output", str(tmp_path)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "domain held out" in said
    assert "Each of ink and oil was held out in turn, over 1 split" in said
    assert "No image of photo was used." in said
    assert {path.name for path in tmp_path.iterdir()} == {"advice.json", "advice.png", "advice.svg"}
    content = json.loads((tmp_path / "advice.json").read_text())
    assert [rate["dropout"] for rate in content["rates"]] == [0.0, 0.5, 0.9]
    assert content["held_out_domains"] == ["ink", "oil"]
    assert content["rate"] in (0.0, 0.5, 0.9)


def test_without_a_test_domain_every_domain_is_held_out(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["advise", str(toy), "--rates", "0.5", "--seeds", "1", *NETWORK]) == 0
    content = json.loads((tmp_path / "largedrop-advice" / "toy0" / "advice.json").read_text())
    assert content["held_out_domains"] == ["ink", "oil", "photo"]
    unseen = ["--test-domain", "ink", "--test-domain", "oil"]
    assert main(["advise", str(toy), *unseen, "--rates", "0.5", "--seeds", "1", *NETWORK]) == 0
    content = json.loads((tmp_path / "largedrop-advice" / "toy0-without-ink-without-oil" / "advice.json").read_text())
    assert (content["train_domains"], content["verdict"]) == (["photo"], "cannot tell")


def test_compare_takes_the_advice_for_each_test_domain(
    toy: Path, tmp_path: Path, advised: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["compare", str(toy), "--test-domains", "ink,oil", "--dropout", "0,0.5,auto", *FAST]
    assert main([*arguments, "--output", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "dropout auto for ink: 0.5 (use): because." in said
    assert "dropout auto for oil: 0.25 (use): because." in said
    assert "5 runs of 6 steps" in said  # for ink, auto and 0.5 are one run
    assert "dropout auto (ink 0.5, oil 0.25):\n  fine-tuning: i.i.d. " in said
    assert rates(tmp_path) == {("ink", 0.0), ("ink", 0.5), ("oil", 0.0), ("oil", 0.25), ("oil", 0.5)}
    assert [each["test_domain"] for each in advised] == [("ink",), ("oil",)]
    assert {(each["model"], each["size"], each["weights"]) for each in advised} == {("test_efficientnet", 32, "random")}


def test_train_takes_the_advice_and_keeps_the_number(toy: Path, tmp_path: Path, advised: list[dict[str, Any]]) -> None:
    arguments = ["train", str(toy), "--test-domain", "photo", "--left-out", "oil", "--dropout", "auto"]
    assert main([*arguments, *FAST, "--output", str(tmp_path)]) == 0
    (folder,) = (tmp_path / "runs").iterdir()
    assert json.loads((folder / "config.json").read_text())["dropout"] == 0.25
    assert advised[0]["left_out"] == "oil"


@pytest.mark.parametrize(
    ("options", "where"), [([], ""), (["--test-domain", "photo", "--test-domain", "ink"], " for ink and photo")]
)
def test_train_takes_the_advice_without_a_test_domain_or_with_two(
    toy: Path,
    tmp_path: Path,
    advised: list[dict[str, Any]],
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    where: str,
) -> None:
    arguments = ["train", str(toy), *options, "--dropout", "auto", *FAST, "--dry-run"]
    assert main([*arguments, "--output", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert f"dropout auto{where}: 0.25 (use): because." in said
    assert "-d0.25-s0-" in said
    assert [each["test_domain"] for each in advised] == [("ink", "photo") if options else ()]


def test_the_real_adviser_in_train(toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["train", str(toy), "--test-domain", "photo", "--dropout", "auto", "--dry-run", *FAST]
    assert main([*arguments, "--output", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "dropout auto for photo: " in said
    assert not (tmp_path / "out").exists()


def test_mistakes(toy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "did you mean 'photo'" in one_line(capsys, "advise", toy, "--test-domain", "fotos", *NETWORK)
    assert one_line(capsys, "advise", toy, "--rates", ",") == "--rates names nothing: ','"
    assert "[0, 1)" in one_line(capsys, "advise", toy, "--rates", "0.5,1", *NETWORK)
    assert "no dropout rate above 0" in one_line(capsys, "advise", toy, "--rates", "0", *NETWORK)
    assert one_line(capsys, "advise", toy, *NETWORK, "--size", "0").endswith(" from 16 to 4096, not 0")
    assert one_line(capsys, "advise", toy, *NETWORK, "--weights", "") == "weights must be a name, not ''"


def test_mistakes_beside_auto(toy: Path, advised: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]) -> None:
    assert "'auto' is named twice" in one_line(capsys, "compare", toy, "--dropout", "auto,0,auto", *FAST)
    given = ["train", str(toy), "--test-domain", "photo"]
    assert "takes one rate here, not 2" in one_line(capsys, *given, "--dropout", "0.5,auto", *FAST)
    said = one_line(capsys, *given, "--dropout", "automatic", *FAST)
    assert said == "dropout must be in [0, 1), not 'automatic'"
    # What is wrong with another setting is said before anything is computed.
    assert "unknown recipe" in one_line(capsys, *given, "--dropout", "auto", *FAST, "--recipe", "long")
    assert "steps must be" in one_line(capsys, *given, "--dropout", "auto", *FAST, "--steps", "0")
    assert not advised
