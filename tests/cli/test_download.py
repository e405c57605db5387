"""``largedrop download``: from a name to a folder, and one line for each mistake."""

from __future__ import annotations

import hashlib
import io
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from largedrop.catalog.facts import Published, RemoteFile, Source, published
from largedrop.cli import download as module
from largedrop.cli import main


@pytest.fixture
def pacs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Published:
    """PACS with two images for each class and domain; its archive is in the folder ``have``."""
    facts = published("PACS")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for domain in facts.domains:
            for name in facts.classes:
                file.writestr(f"kfold/{domain}/{name}/1.jpg", f"{domain} {name}")
    (tmp_path / "have").mkdir()
    (tmp_path / "have" / "PACS.zip").write_bytes(buffer.getvalue())
    source = Source("http://127.0.0.1:9/PACS.zip", sha256=hashlib.sha256(buffer.getvalue()).hexdigest())
    small = replace(
        facts, contents="", files=(RemoteFile("PACS.zip", (source,)),), domains=dict.fromkeys(facts.domains, 7)
    )
    monkeypatch.setattr(module, "published", lambda name: small)
    monkeypatch.chdir(tmp_path)
    return small


def test_a_dataset_from_files_that_are_there(pacs: Published, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["download", "pacs", "--from", "have"]) == 0
    said = capsys.readouterr().err.splitlines()
    assert said == [
        "PACS: Li, Yang, Song & Hospedales: Deeper, Broader and Artier Domain Generalization, ICCV 2017",
        "licence: not stated (https://dali-dl.github.io/project_iccv2017.html)",
        "28 images in PACS: art_painting 7, cartoon 7, photo 7, sketch 7",
    ]
    assert sorted(path.name for path in Path("PACS").iterdir()) == ["art_painting", "cartoon", "photo", "sketch"]
    assert main(["download", "pacs", "--from", "have"]) == 2
    assert "PACS is there already; name another folder with --output, or remove it" in capsys.readouterr().err


def test_mistakes_are_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["download", "Pax"]) == 2
    assert "no published dataset 'Pax' is known; did you mean 'PACS'?" in capsys.readouterr().err
    assert main(["download", "ObjectNet", "--output", str(tmp_path / "o")]) == 2
    assert "ObjectNet cannot be downloaded by a program: accept its terms at" in capsys.readouterr().err
    assert main(["download", "PACS", "--from", str(tmp_path / "gone"), "--output", str(tmp_path / "o")]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == f"largedrop: there is no folder {tmp_path / 'gone'}"
    assert list(tmp_path.iterdir()) == []
