"""Every command and every line of Python in docs/guide runs, in its order, on small images and with a tiny network."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.helpers import LIGHTNING, TINY, make_toy

from largedrop.cli import main
from largedrop.config import RECIPES
from largedrop.paths import cache_folder

PAGES = sorted((Path(__file__).parents[1] / "docs" / "guide").glob("*.md"))
BLOCK = re.compile(r"^```(sh|python|toml)\n(.*?)^```$", re.M | re.S)
DOMAINS = {"ink": "farm-camera", "oil": "forest-camera", "photo": "new-camera"}
CLASSES = {"red": "fox", "green": "hare", "blue": "deer"}


@pytest.fixture
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with ``photos`` in it, as the pages have it, where the default recipe is a tiny one.

    What the doctor finds here on busy cores is no matter of other tests.
    """
    make_toy(tmp_path / "photos")
    for old, new in DOMAINS.items():
        (tmp_path / "photos" / old).rename(tmp_path / "photos" / new)
        for colour, animal in CLASSES.items():
            (tmp_path / "photos" / new / colour).rename(tmp_path / "photos" / new / animal)
    monkeypatch.setitem(RECIPES, "robust", {**RECIPES["robust"], **TINY})
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    shutil.rmtree(cache_folder() / "doctor", ignore_errors=True)


def test_there_are_pages() -> None:
    known = {"start", "rate", "report", "model", "parts", "reproduce", "extend", "api", "gpu"}
    assert known <= {page.stem for page in PAGES}


@pytest.mark.usefixtures("quick_heads")
@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=LIGHTNING if page.stem == "trainers" else ()) for page in PAGES],
    ids=lambda page: page.stem,
)
def test_what_a_page_says_runs(page: Path, at_home: Path) -> None:
    names: dict[str, object] = {}
    for kind, code in BLOCK.findall(page.read_text(encoding="utf-8")):
        if kind == "python":
            exec(compile(code, str(page), "exec"), names)
        elif kind == "toml":
            title = code.splitlines()[0].removeprefix("# ")
            assert title.endswith(".toml"), f"{page.name}: the first line of a file is its name"
            (at_home / title).write_text(code)
        else:
            for line in code.splitlines():
                words = shlex.split(line)
                if words[:2] == ["pip", "install"]:
                    continue
                assert words[0] == "largedrop", f"{page.name} has a command that is not tested: {line}"
                assert main(words[1:]) == 0, line
