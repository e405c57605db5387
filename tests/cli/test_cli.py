from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.helpers import FAST, TINY, assert_same_run, complaint, make_toy, one_line, timeless

import largedrop as ld
from largedrop.cli import main

pytestmark = pytest.mark.usefixtures("quick_heads")


def test_compare_leaves_exactly_these_files_and_a_record_of_every_run(
    toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    arguments = ["compare", str(toy), "--test-domains", "ink,oil", "--dropout", "0,0.5", "--seeds", "2"]
    assert main([*arguments, "--output", str(output), *FAST]) == 0
    assert {path.name for path in output.iterdir()} == {
        *("compare.toml", "comparison.json", "figure.png", "figure.svg", "report.html", "results.json", "runs"),
    }
    runs = sorted(re.sub("-[0-9a-f]{12}$", "", path.name) for path in (output / "runs").iterdir())
    assert runs == sorted(
        f"toy0-{d}-d{rate}-s{seed}" for d in ("ink", "oil") for rate in ("0", "0.5") for seed in (0, 1)
    )
    never = sum(not ld.Run.open(folder).beats_start for folder in (output / "runs").iterdir())
    assert never > 0
    said = f"In {never} of 8 runs fine-tuning never beat the head that it started from: "
    assert said in capsys.readouterr().out
    assert said in (output / "report.html").read_text()
    content = json.loads((output / "results.json").read_text())
    assert content["failed"] == []
    assert len(content["records"]) == 2 * 2 * 2 * 4
    methods = {"fine-tuning", "ensemble", "weight-average", "linear-probe"}
    assert {record["method"] for record in content["records"]} == methods
    for record in content["records"]:
        assert (record["settings"]["model"], record["settings"]["lr"]) == ("test_efficientnet", 1e-3)
    tuned = [record for record in content["records"] if record["method"] == "fine-tuning"]
    assert all(record["steps"] == 6 for record in tuned)


@pytest.mark.parametrize("domain", ["d" * 255, "é" * 127 + "x"])
def test_a_domain_whose_name_fills_a_folders(
    toy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, domain: str
) -> None:
    root = tmp_path / "toys"
    shutil.copytree(toy, root)
    (root / "photo").rename(root / domain)
    monkeypatch.chdir(tmp_path)
    assert main(["train", str(root), "--test-domain", domain, *FAST]) == 0
    (output,) = (tmp_path / "largedrop-runs").iterdir()
    (folder,) = (output / "runs").iterdir()
    run = ld.Run.open(folder)
    assert run.config.test_domain == domain
    assert re.fullmatch(rf"toys-{domain[0]}+~[0-9a-f]{{12}}-d0.9-s0-{run.config.digest()}", folder.name)
    assert main(["report", str(output), "--output", str(tmp_path / "report")]) == 0
    assert main(["inspect", str(output), "--data", str(root), "--measures", "richness", "--images", "8"]) == 0
    assert main(["advise", str(root), "--test-domain", domain, "--rates", "0.9", *FAST[:4], "--size", "32"]) == 0
    assert len(list((tmp_path / "largedrop-advice").glob("*/advice.json"))) == 1


def test_train_leaves_a_model_to_predict_with(toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", str(toy), "--test-domain", "photo", "--output", str(tmp_path / "out"), *FAST]) == 0
    (best,) = tmp_path.glob("out/runs/*/best.safetensors")
    out = capsys.readouterr().out
    assert re.search(
        rf"the model to use:\n  {re.escape(str(best))}\n    .+: [0-9.]+ % i\.i\.d\., [0-9.]+ % o\.o\.d\.\n", out
    )
    model = ld.load_model(best)
    assert model.classes == ("blue", "green", "red")
    assert model(model.transform(toy / "ink" / "red" / "0.png")[None]).shape == (1, 3)


def test_train_without_a_second_domain_with_swad_and_two_decays(toy: Path, tmp_path: Path) -> None:
    arguments = ["train", str(toy), "--test-domain", "photo", "--left-out", "ink", "--swad", "--decay-again-at", "0.8"]
    assert main([*arguments, "--output", str(tmp_path), *FAST]) == 0
    (folder,) = (tmp_path / "runs").iterdir()
    stored = json.loads((folder / "config.json").read_text())
    assert {name: stored[name] for name in ("left_out", "swad", "decay_again_at")} == {
        "left_out": "ink",
        "swad": True,
        "decay_again_at": 0.8,
    }
    assert (folder / "swad.safetensors").is_file()
    assert "swad" in {record["method"] for record in results(tmp_path)}


def test_train_by_what_keeps_near_the_pretrained_weights(toy: Path, tmp_path: Path) -> None:
    heads = set()
    for objective, penalty in (("mixout", 0.8), ("l2sp", 0.1), ("erm", None)):
        output = tmp_path / objective
        arguments = ["train", str(toy), "--test-domain", "photo", "--dropout", "0", "--objective", objective]
        assert main([*arguments, "--output", str(output), *FAST]) == 0
        (found,) = (each for each in results(output) if each["method"] == "fine-tuning")
        settings = found["settings"]
        assert isinstance(settings, dict)
        assert (settings["objective"], settings["penalty"]) == (objective, penalty)
        heads.add(next(output.glob("runs/*/final.safetensors")).read_bytes()[-4000:])
    assert len(heads) == 3


def test_train_a_linear_probe(toy: Path, tmp_path: Path) -> None:
    arguments = ["train", str(toy), "--test-domain", "photo", "--fit", "probe", "--model", "test_efficientnet"]
    tiny = ["--weights", "random", "--size", "32", "--steps", "4", "--eval-every", "2", "--batch", "4"]
    assert main([*arguments, *tiny, "--output", str(tmp_path), "--device", "cpu"]) == 0
    assert {record["method"] for record in results(tmp_path)} == {"linear-probe", "ensemble", "weight-average"}


def test_demo_compares_on_the_embedded_emoji(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = {**TINY, "steps": 1, "eval_every": 1, "seeds": (0,), "dropouts": (0.0, 0.9)}
    del small["precision"]
    monkeypatch.setattr("largedrop.cli.demo.QUICK", {"test_domains": ("openmoji",), **small})
    monkeypatch.chdir(tmp_path)
    assert main(["demo", "--quick", "--device", "cpu", "--precision", "float32"]) == 0
    output = tmp_path / "largedrop-demo-quick"
    content = json.loads((output / "results.json").read_text())
    assert content["dataset"]["images"] == 4155
    assert {(record["test_domain"], record["dropout"]) for record in content["records"]} == {
        ("openmoji", rate) for rate in (0.0, 0.9)
    }
    page = (output / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 2
    assert "largedrop-demo-quick/report.html" in capsys.readouterr().out


def results(output: Path) -> list[dict[str, object]]:
    records: list[dict[str, object]] = timeless(json.loads((output / "results.json").read_text())["records"])
    return records


LONG = ["--steps", "24", "--eval-every", "3"]
INTERRUPTED = """
import functools, json, os, sys, time
from pathlib import Path
import torch
import largedrop.data.views.kernels, largedrop.experiments.compare, largedrop.report.comparison  # for all children
from largedrop.cli import main
from largedrop.training import head, setup

torch.set_num_threads(1)
setup.fit_head = functools.partial(head.fit_head, round_steps=5)
for how in map(int, sys.argv[2].split()):
    folder = Path(sys.argv[1]) / str(how)
    folder.mkdir()
    child = os.fork()
    if not child:
        os.dup2(os.open(folder / "said", os.O_CREAT | os.O_WRONLY), 2)
        os._exit(main([*sys.argv[3:], "--output", str(folder / "out")]))
    deadline = time.monotonic() + 240
    while not list(folder.glob("out/runs/*/outputs/000006.safetensors")) and time.monotonic() < deadline:
        time.sleep(0.002)
    os.kill(child, how)
    (folder / "code").write_text(str(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])))
"""
"""Starts a command once for each signal, sends it when two evaluations are stored, and waits for its end."""

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(scope="module")
def command(toy: Path) -> list[str]:
    return ["train", str(toy), "--test-domain", "photo", *FAST, *LONG]


@pytest.fixture(scope="module")
def whole(command: list[str], tmp_path_factory: pytest.TempPathFactory, quick_heads: None) -> Path:
    """The output of an uninterrupted command."""
    output = tmp_path_factory.mktemp("whole") / "out"
    assert main([*command, "--output", str(output)]) == 0
    return output


@pytest.fixture(scope="module")
def interrupted(command: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For each signal the output of a command that got it, its exit code and what it said."""
    folder = tmp_path_factory.mktemp("interrupted")
    numbers = " ".join(str(int(number)) for number in SIGNALS)
    subprocess.run([sys.executable, "-c", INTERRUPTED, str(folder), numbers, *command], check=True, timeout=600)
    return folder


@pytest.mark.skipif(sys.platform == "win32", reason="needs fork and signals")
@pytest.mark.parametrize("how", SIGNALS)
def test_an_interrupted_command_goes_on_and_ends_with_the_same_bits(
    command: list[str], whole: Path, interrupted: Path, how: int
) -> None:
    code, said, broken = (interrupted / str(int(how)) / name for name in ("code", "said", "out"))
    assert not list(broken.glob("runs/*/result.json"))
    assert list(broken.glob("runs/*/resume.safetensors"))
    assert code.read_text() == "2"
    asked = r"\nlargedrop: stopping after this step, to save it \(Ctrl-C again stops at once\)\n"
    assert re.fullmatch(
        ("" if how == signal.SIGHUP else asked)  # without a terminal there is none to tell
        + r"largedrop: stopped after step \d+ of 24; the state is kept, and the same command resumes from there\n",
        said.read_text(),
    )
    assert main([*command, "--output", str(broken)]) == 0
    assert results(whole) == results(broken)
    (one,), (other,) = whole.glob("runs/*"), broken.glob("runs/*")
    assert_same_run(one, other)


def test_ctrl_c_at_any_other_time_is_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_runs(folder: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("largedrop.runs.read.read_runs", read_runs)
    said = one_line(capsys, "report", tmp_path)
    assert said == "interrupted; finished runs and saved states are kept, and the same command resumes from there"


def test_dry_run_says_what_would_be_done_and_writes_nothing(
    toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", str(toy), "--dry-run", "--output", str(tmp_path / "out"), *FAST]) == 0
    said = capsys.readouterr().out
    assert "9 runs of 6 steps" in said
    assert said.count(f"{tmp_path / 'out' / 'runs'}") == 9
    assert not (tmp_path / "out").exists()


def test_masks_without_dropout_are_said_to_do_nothing(
    toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(rates: str) -> str:
        given = ["--dropout", rates, "--masks", "16", "--dry-run", "--output", str(tmp_path / "out")]
        assert main(["compare", str(toy), *given, *FAST]) == 0
        return capsys.readouterr().out

    assert said("0").startswith("--masks has no effect at dropout 0, where nothing is masked\n")
    assert "--masks" not in said("0,0.9")


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"largedrop {ld.__version__}\n"


@pytest.mark.parametrize("command", [[], ["demo"], ["train"], ["compare"]])
def test_help_shows_defaults_and_an_example(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command, "--help"]) == 0
    said = capsys.readouterr().out
    assert "Usage: " in said
    if command:
        assert f"Example: largedrop {command[0]}" in said
        assert "[default: " in said


class TestMistakes:
    @pytest.mark.parametrize("command", ["train", "check", "inspect", "sweep", "advise"])
    def test_a_name_that_is_too_long(self, command: str, capsys: pytest.CaptureFixture[str]) -> None:
        said = one_line(capsys, command, "/" + "z" * 300)
        assert said == f"/{'z' * 59}… is too long for the name of a file or folder"

    def test_a_home_that_there_is_not(self, capsys: pytest.CaptureFixture[str]) -> None:
        said = one_line(capsys, "check", "~nobody-of-this-name/x")
        assert said == "~nobody-of-this-name/x: there is no home folder in place of ~nobody-of-this-name"

    def test_unknown_option(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert one_line(capsys, "train", "x", "--test-domian", "a").startswith("No such option: --test-domian")

    def test_number_that_is_none(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert "--steps" in one_line(capsys, "compare", "x", "--steps", "ten")

    def test_truncated_and_empty_images_are_named_and_skipped_only_when_asked(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        root = make_toy(tmp_path / "set")
        cut, empty = root / "ink" / "red" / "2.png", root / "oil" / "blue" / "3.png"
        cut.write_bytes(cut.read_bytes()[:300])
        empty.write_bytes(b"")
        said = complaint(capsys, "compare", root, *FAST, "--output", tmp_path / "out")
        assert str(cut) in said
        assert str(empty) in said
        assert "--skip-bad-images" in said
        assert not (tmp_path / "out").exists()
        arguments = ["compare", root, "--skip-bad-images", "--dropout", "0", *FAST, "--output", tmp_path / "out"]
        assert main([str(argument) for argument in arguments]) == 0
        assert "skipped 2 images that cannot be decoded" in capsys.readouterr().out
        assert json.loads((tmp_path / "out" / "results.json").read_text())["dataset"]["skipped"] == 2

    @pytest.mark.parametrize(
        ("options", "text"),
        [
            (["--dropout=half"], "dropout must be in [0, 1), not 'half'"),
            (["--dropout=nan"], "dropout must be in [0, 1), not nan"),
            (["--model", "resnet5o"], "unknown model 'resnet5o'; did you mean 'resnet50'?"),
            (["--test-domains", "Foto"], "no domain 'Foto' in {name}; did you mean 'photo'?"),
            (
                ["--size", "8", "--batch", "0"],
                "batch must be a whole number from 1 to 10**7, not 0; size must be ",
            ),
            (["--device", "gpu"], "unknown device 'gpu'"),
            (["--precision", "float16"], "unknown precision 'float16'; did you mean 'bfloat16'?"),
            (
                ["--objective", "mixout", "--penalty", "1"],
                "mixout's penalty is the share of the filters that are reset, in ",
            ),
            (
                ["--objective", "mixout", "--penalty-after", "5"],
                "mixout is not annealed: its annealing steps must be 0",
            ),
            (["--objective", "l2sp", "--penalty", "-1"], "penalty must be 0 or more, not -1"),
            (["--jobs", "0"], "Invalid value for '--jobs': "),
            (["--output", "{root}/ink/red/0.png/out"], "cannot write {root}/ink/red/0.png/out/comparison.json: Not a "),
            (["--output", "{root}"], "{root} contains other files (ink, …) and no comparison; name another --output"),
        ],
    )
    def test_each_option_is_checked_in_one_line(
        self, toy: Path, options: list[str], text: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        named = [option.format(root=toy) for option in options]
        assert one_line(capsys, "compare", toy, *FAST, *named).startswith(text.format(root=toy, name=toy.name))


def test_a_collapsed_run_is_explained_and_the_others_are_kept(
    toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["compare", str(toy), "--test-domains", "photo", "--dropout", "0,0.9", *FAST]
    assert main([*arguments, "--output", str(tmp_path / "out"), "--lr", "1e6", "--steps", "40"]) == 2
    captured = capsys.readouterr()
    assert "collapsed" in captured.out or "diverged" in captured.out
    assert re.search(r"largedrop: \d of 2 runs collapsed or are damaged: they are missing from", captured.err)
    content = json.loads((tmp_path / "out" / "results.json").read_text())
    assert content["failed"]
    assert set(content["failed"][0]) == {"dropout", "test_domain", "seed", "error"}


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")])
def test_too_little_memory_is_one_line(
    toy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    """Also where none but the command itself knows what it does with it."""

    def full(*arguments: object, **options: object) -> None:
        raise error

    monkeypatch.setattr("largedrop.analysis.advice.advise", full)
    said = one_line(capsys, "advise", toy, "--test-domain", "ink", "--device", "cpu")
    assert said == "this needs more memory than is free; what is finished is kept"


@pytest.mark.parametrize(("code", "told"), [(5, True), (13, False)])
def test_a_file_system_that_does_not_answer_is_one_line(
    toy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], code: int, told: bool
) -> None:
    def failing(*arguments: object, **options: object) -> None:
        raise OSError(code, os.strerror(code), "/shared/photos")

    monkeypatch.setattr("largedrop.analysis.advice.advise", failing)
    if told:
        said = one_line(capsys, "advise", toy, "--test-domain", "ink", "--device", "cpu")
        assert said.startswith("/shared/photos: Input/output error; the file system failed or did not answer; ")
    else:
        with pytest.raises(PermissionError):
            main(["advise", str(toy), "--test-domain", "ink", "--device", "cpu"])


def test_other_errors_of_torch_are_not_hidden(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object, **options: object) -> None:
        raise RuntimeError("cuDNN is tired")

    monkeypatch.setattr("largedrop.analysis.advice.advise", broken)
    with pytest.raises(RuntimeError, match="cuDNN is tired"):
        main(["advise", str(toy), "--test-domain", "ink", "--device", "cpu"])
