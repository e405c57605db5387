"""What long work tells, and to whom."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.helpers import Watch, config

from largedrop.config import Config
from largedrop.errors import Interrupted
from largedrop.reporter import SILENT, Relay, Reporter


def test_nobody_hears_and_nobody_stops() -> None:
    SILENT.advance(1.0)
    SILENT.skip(1.0)
    SILENT.begin(config())
    SILENT.logged(Path("run"))
    SILENT.note("a note")
    SILENT.failed(config(), "it collapsed")
    SILENT.raise_if_stopped("never")
    assert not SILENT.stopped()


def test_a_relay_counts_scales_and_passes_all_on() -> None:
    told: list[object] = []

    def failed(which: Config, reason: str) -> None:
        told.append((which, reason))

    to: Reporter = Watch(
        advance=told.append,
        begin=told.append,
        logged=told.append,
        note=told.append,
        failed=failed,
        stopped=lambda: len(told) > 6,
    )
    relay = Relay(to, 0.5)
    relay.advance(3)
    relay.advance(-1)
    relay.skip(4)
    relay.begin(config())
    relay.logged(Path("run"))
    relay.note("a note")
    relay.raise_if_stopped("not yet")
    relay.failed(config(), "it collapsed")
    assert told == [1.5, -0.5, 2.0, config(), Path("run"), "a note", (config(), "it collapsed")]
    assert relay.done == 6
    with pytest.raises(Interrupted, match=r"^now$"):
        relay.raise_if_stopped("now")
