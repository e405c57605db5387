"""Progress: lines with the time left where there is no terminal, and a first Ctrl-C that only asks."""

from __future__ import annotations

import io
import re
import signal
import sys
import threading

import pytest
from rich.console import Console
from tests.helpers import config

from largedrop.cli import terminal as progress
from largedrop.cli.terminal import ProgressBar
from largedrop.runs.estimate import duration


class Clock:
    """Stands for ``time``: its monotonic clock moves when it is told to."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    stopped = Clock()
    monkeypatch.setattr(progress, "time", stopped)
    return stopped


def paper(**settings: bool) -> Console:
    return Console(file=io.StringIO(), width=80, **settings)  # type: ignore[arg-type]


def printed(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_lines_say_the_share_and_the_time_left(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LINE_EVERY", 10.0)
    console = paper()
    with ProgressBar(console, 200, "fine-tuning") as bar:
        for seconds, amount in ((10, 20), (1, 30), (9, 10), (2, 40)):
            clock.now += seconds
            bar.advance(amount)
        bar.describe("averaging")
        clock.now += 11
        bar.set(200, 400)
        assert (bar.done, bar.total) == (200, 400)
    assert printed(console) == (
        "fine-tuning: 25% of all, 33 s left\nfine-tuning: 50% of all, 22 s left\naveraging: 50% of all, 33 s left\n"
    )


def test_a_line_in_a_file_is_one_line_however_long(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LINE_EVERY", 10.0)
    console, name = paper(), "3/64 art_painting, dropout 0.9, lr 0.0003, weight decay 0.01, " * 3 + "seed 0"
    with ProgressBar(console, 200, name) as bar:
        clock.now += 11
        bar.advance(50)
    assert printed(console) == f"{name}: 25% of all, 33 s left\n"


def test_no_time_left_is_said_before_it_means_something(clock: Clock) -> None:
    """Networks are loaded and kernels compiled first: half a minute with nothing done is no sign of a slow rest."""
    console = paper()
    with ProgressBar(console, 1000, "fine-tuning") as bar:
        for seconds, amount in ((31, 0.1), (31, 18), (31, 82), (31, 100), (40, 200)):
            clock.now += seconds
            bar.advance(amount)
        assert bar.left() == "3 min 19 s left"  # 382 in the last 133 s, and not 400.1 in 164
    assert printed(console) == (
        "fine-tuning: 0% of all\nfine-tuning: 2% of all\nfine-tuning: 10% of all, 13 min 56 s left\n"
        "fine-tuning: 20% of all, 8 min 16 s left\nfine-tuning: 40% of all, 3 min 19 s left\n"
    )


def test_the_time_left_of_days_is_said_after_some_minutes(clock: Clock) -> None:
    bar = ProgressBar(paper(), 1e6, "sweep")
    said = []
    for _ in range(30):
        clock.now += 15
        bar.advance(15)
        said.append(bar.left())
    assert said[:19] == [""] * 19
    assert said[19:] == [f"{duration(1e6 - 15 * number)} left" for number in range(20, 31)]


def test_what_was_there_already_says_nothing_of_the_rest(clock: Clock) -> None:
    bar = ProgressBar(paper(), 1000, "fine-tuning")
    bar.skip(500)
    clock.now += 9
    bar.advance(9)
    assert bar.left() == ""
    clock.now += 11
    bar.advance(11)
    assert (bar.done, bar.left()) == (520, "8 min 0 s left")
    bar.skip(240)
    assert (bar.done, bar.left()) == (760, "4 min 0 s left")
    bar.advance(-20)  # lost
    assert bar.left() == ""


@pytest.mark.parametrize("terminal", [False, True])
def test_brackets_in_names_are_no_markup(clock: Clock, monkeypatch: pytest.MonkeyPatch, terminal: bool) -> None:
    monkeypatch.setattr(progress, "LINE_EVERY", 10.0)
    console = paper(force_terminal=terminal)
    with ProgressBar(console, 2, "opening a[/b] [red]c") as bar:
        clock.now += 11
        bar.advance(1)
    assert "opening a[/b] [red]c" in printed(console)


@pytest.mark.parametrize(("done", "total"), [(30, 20), (0, 0)])
def test_never_more_than_all(clock: Clock, done: float, total: float) -> None:
    console = paper()
    bar = ProgressBar(console, total, "work")
    clock.now += progress.LINE_EVERY + 1
    bar.advance(done)
    assert printed(console) == "work: 100% of all\n"


def test_nothing_is_said_before_its_time(clock: Clock) -> None:
    console = paper()
    with ProgressBar(console, 10, "work") as bar:
        clock.now += progress.LINE_EVERY
        bar.advance(5)
    assert printed(console) == ""


def test_runs_are_numbered_and_notes_are_told_once(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LINE_EVERY", 10.0)
    console = paper()
    one, other = config(seed=0), config(seed=1)
    with ProgressBar(console, 200, "sweep", 2, lambda run: f"seed {run.seed}") as bar:
        for run in (one, other, one):  # the first is tried again
            bar.begin(run)
            clock.now += 11
            bar.advance(50)
        bar.note("views are made on the processor")
        bar.note("views are made on the processor")
        bar.failed(other, "the run collapsed")
    assert printed(console) == (
        "1/2 seed 0: 25% of all, 33 s left\n2/2 seed 1: 50% of all, 22 s left\n1/2 seed 0: 75% of all, 11 s left\n"
        "views are made on the processor\nseed 1: the run collapsed\n"
    )


def test_a_terminal_has_a_bar_and_no_lines(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LINE_EVERY", -1.0)
    console = paper(force_terminal=True)
    with ProgressBar(console, 10, "fine-tuning") as bar:
        bar.describe("run 2 of 3")
        bar.set(5, 20)
        bar.advance(10)
        (task,) = bar._progress.tasks
        assert (task.description, task.completed, task.total) == ("run 2 of 3", 15, 20)
        bar._progress.refresh()
        assert "left" not in printed(console)
        clock.now += 10
        bar._progress.refresh()
        assert not bar._progress.finished
    assert bar._progress.live.is_started is False
    assert "run 2 of 3" in printed(console)
    assert re.search(r"75 % \S+0:00:\d\d\S+ 3 s left", printed(console))
    assert "of all" not in printed(console)


SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGHUP")
@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_asks_and_the_second_ends(number: signal.Signals, capsys: pytest.CaptureFixture[str]) -> None:
    before = list(map(signal.getsignal, SIGNALS))
    with ProgressBar(paper(), 1, "work") as bar, bar.interruptible():
        assert not bar.stopped()
        signal.raise_signal(number)
        assert bar.stopped()
        for other in SIGNALS:
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(other)
    assert list(map(signal.getsignal, SIGNALS)) == before
    said = "largedrop: stopping after this step, to save it (Ctrl-C again stops at once)"
    # SIGHUP says that there is no terminal to write to.
    assert capsys.readouterr().err == ("" if number == signal.SIGHUP else f"\n{said}\n")


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_that_is_ignored_stays_so(number: signal.Signals) -> None:
    """As ``nohup`` has it of SIGHUP, and a shell of SIGINT for what it starts in the background."""
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with ProgressBar(paper(), 1, "work") as bar, bar.interruptible():
            signal.raise_signal(number)
            assert not bar.stopped()
        assert signal.getsignal(number) is signal.SIG_IGN
    finally:
        signal.signal(number, before)


def test_an_exception_gives_the_handlers_back() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyError), ProgressBar(paper(), 1, "work").interruptible():
        raise KeyError
    assert signal.getsignal(signal.SIGINT) is before


def test_in_another_thread_nobody_asks() -> None:
    before = signal.getsignal(signal.SIGINT)
    answers: list[object] = []

    def work() -> None:
        with ProgressBar(paper(), 1, "work") as bar, bar.interruptible():
            answers.append((bar.stopped(), signal.getsignal(signal.SIGINT) is before))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert answers == [(False, True)]
