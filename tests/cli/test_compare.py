"""``largedrop compare``: how test domains are named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.helpers import FAST, make_toy

from largedrop.cli import main


@pytest.mark.parametrize(
    ("named", "domains"),
    [
        (["San Jose, CA"], ["San Jose, CA"]),
        (['"San Jose, CA", photo'], ["San Jose, CA", "photo"]),
        (["San Jose, CA", "photo"], ["San Jose, CA", "photo"]),
        (["oil,photo"], ["oil", "photo"]),
    ],
)
def test_a_name_with_a_comma(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], named: list[str], domains: list[str]
) -> None:
    data = make_toy(tmp_path / "toy")
    (data / "ink").rename(data / "San Jose, CA")
    options = [text for name in named for text in ("--test-domains", name)]
    out = ["--output", str(tmp_path / "out"), "--dry-run"]
    assert main(["compare", str(data), *options, "--dropout", "0", *FAST, *out]) == 0
    planned = [line for line in capsys.readouterr().out.splitlines() if "/runs/" in line]
    assert [name.partition("toy-")[2].rpartition("-d0-")[0] for name in planned] == domains


def test_a_domain_is_tested_on_by_a_name_with_a_comma(tmp_path: Path, quick_heads: None) -> None:
    data = make_toy(tmp_path / "toy")
    (data / "ink").rename(data / "San Jose, CA")
    out = tmp_path / "out"
    assert (
        main(["compare", str(data), "--test-domains", "San Jose, CA", "--dropout", "0", *FAST, "--output", str(out)])
        == 0
    )
    records = json.loads((out / "results.json").read_text())["records"]
    assert {each["test_domain"] for each in records} == {"San Jose, CA"}
