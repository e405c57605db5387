"""Which images are predicted: files, folders and patterns, each image once."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.helpers import refusal

from largedrop.prediction.images import find_images


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of which only the names count."""
    monkeypatch.chdir(tmp_path)
    for name in ("photos/b.jpg", "photos/in/a.PNG", "photos/in/notes.txt", "[x].jpg", "more/c.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "void").mkdir()


@pytest.mark.parametrize(
    ("sources", "found"),
    [
        (["photos"], ["photos/b.jpg", "photos/in/a.PNG"]),
        (["photos/in/notes.txt", "more"], ["photos/in/notes.txt", "more/c.png"]),
        (["photos/in", "photos"], ["photos/in/a.PNG", "photos/b.jpg"]),
        (["*/*.??g"], ["more/c.png", "photos/b.jpg"]),
        (["**/*.png"], ["more/c.png"]),
        (["*o*"], ["more/c.png", "photos/b.jpg", "photos/in/a.PNG"]),
        (["[x].jpg"], ["[x].jpg"]),
        ([Path("more"), "./more/c.png"], ["more/c.png", "./more/c.png"]),
    ],
)
def test_sources_become_one_list(sources: list[str | Path], found: list[str]) -> None:
    assert find_images(sources) == found


def test_a_pattern_may_match_an_empty_folder_beside_images() -> None:
    assert find_images(["[mv]*"]) == ["more/c.png"]


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("void", "there is no image in void: no file with an image's suffix, such as .jpg or .png"),
        ("v*d", "there is no image in v*d: no file with an image's suffix, such as .jpg or .png"),
        ("none.jpg", "there is no file or folder none.jpg"),
        ("none/*.jpg", "nothing matches none/*.jpg"),
        ("x" * 300, f"{'x' * 300} cannot be read: File name too long"),
    ],
)
def test_a_source_that_gives_nothing_is_refused(source: str, said: str) -> None:
    assert refusal(find_images, ["photos", source]) == said


def test_no_sources() -> None:
    assert refusal(find_images, []) == "no images are named"


def test_a_link_that_leads_nowhere_is_an_image_like_others() -> None:
    Path("dead.png").symlink_to("nowhere.png")
    assert find_images(["photos/b.jpg", "dead.png"]) == ["photos/b.jpg", "dead.png"]
