"""What the pages and docstrings name is there: files, modules, commands and options; and tables are whole."""

from __future__ import annotations

import ast
import importlib
import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest
import typer

from largedrop.cli import app

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "largedrop"
FOLDERS = [ROOT / name for name in ("src", "tests", "docs", "benchmarks", "studies", "tools")]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/*.md")), ROOT / "tools" / "README.md"]
GUIDES = sorted(ROOT.glob("docs/guide/*.md"))  # tests/test_guide.py runs what they name
TEXTS = [path for folder in FOLDERS for end in ("py", "toml") for path in sorted(folder.rglob(f"*.{end}"))]
WIDTH = 140

NOT_OURS = {"domain/class/image", "report.html", "train.toml", "compare.toml", "new-camera/train.toml"}
"""What looks like a file of the repository: a user's, and those that a run leaves."""

FILE = re.compile(r"(?:[\w-]+/)*[\w-]+\.(?:py|md|toml|html)|(?:[\w-]+/)+")
PATH = re.compile(r"(?<![\w/.])(?:docs|tests|benchmarks|studies|tools)/[\w/.-]*\w")
FLAG = re.compile(r"(?<![\w-])--[a-z][\w-]*")
COMMAND = re.compile(r"(?:^|/)largedrop ([a-z]+)")
MODULE = re.compile(r"``(?:largedrop\.)?([a-z_]+(?:\.\w+)+)``")


@cache
def endings() -> frozenset[str]:
    """Every ending of the path of every file and folder; folders with a slash at the end and without."""
    paths = [*ROOT.glob("*.md"), *FOLDERS, *(path for folder in FOLDERS for path in folder.rglob("*"))]
    parts = [(path.relative_to(ROOT).parts, path.is_dir()) for path in paths]
    found = {("/".join(names[start:]), is_folder) for names, is_folder in parts for start in range(len(names))}
    return frozenset(name + slash for name, is_folder in found for slash in ("", "/")[: 1 + is_folder])


def code_of(page: str) -> list[str]:
    """The code in a page: the lines of its blocks, and what stands between backticks."""
    blocks = re.compile(r"^```.*?^```$", re.M | re.S)
    lines = [line for block in blocks.findall(page) for line in block.splitlines()[1:-1]]
    rest = blocks.sub("", page)
    return [*lines, *re.findall(r"^ {4}(\S.*)$", rest, re.M), *re.findall(r"`([^`]+)`", rest)]


@cache
def flags_by_command() -> Mapping[str, set[str]]:
    """The options of each command and of each script."""
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    found = {name: {flag for each in command.params for flag in each.opts} for name, command in commands.items()}
    scripts = [path for path in TEXTS if path.suffix == ".py" and path.parent in FOLDERS[3:]]
    written = {path.name: set(FLAG.findall(path.read_text("utf-8"))) for path in scripts}
    return {**found, **{name: flags | written["timing.py"] for name, flags in written.items()}}


def unknown_flags(code: str) -> list[str]:
    """The options in a line that its command or script does not have; where it names none, that none has.

    Those of other programs are not known, nor those with underscores: these are of other people's code.
    """
    if re.match(r"(\.venv/bin/)?python3? -m |pip |git |ruff ", code):
        return []
    known, named = flags_by_command(), [*COMMAND.findall(code), *re.findall(r"\w+\.py", code)]
    allowed = known.get(named[0], set()) if named else set().union(*known.values())
    return [flag for flag in FLAG.findall(code) if flag not in allowed | {"--help"} and "_" not in flag]


@cache
def modules() -> Mapping[str, Path]:
    """The package's modules by their names within it; a folder is its ``__init__.py``."""
    found = {".".join(path.relative_to(SOURCE).with_suffix("").parts): path for path in SOURCE.rglob("*.py")}
    return {name.removesuffix(".__init__"): path for name, path in found.items()}


@cache
def names_in(module: Path) -> Mapping[str, set[str]]:
    """The names that a module binds, each with those inside it where it is a class or function."""
    found: dict[str, set[str]] = {}
    for node in ast.walk(ast.parse(module.read_text("utf-8"))):
        match node:
            case ast.ClassDef(name=name) | ast.FunctionDef(name=name):
                inside = [getattr(each, key, "") for each in ast.walk(node) for key in ("name", "id", "attr")]
                found[name] = {each for each in inside if isinstance(each, str)}
            case ast.Name(id=name, ctx=ast.Store()) | ast.alias(asname=str(name)) | ast.alias(name=name):
                found.setdefault(name, set())
    return found


def unknown_names(text: str, folder: str) -> Iterator[str]:
    """Names such as ``runs.methods`` or ``loop.cost`` that the module in the package, or beside the text, lacks."""
    for name in {*MODULE.findall(text)} - NOT_OURS:
        for parts in (f"{folder}.{name}".lstrip(".").split("."), name.split(".")):
            known = [end for end in range(1, len(parts) + 1) if ".".join(parts[:end]) in modules()]
            if known and len(parts) - known[-1] < name.count(".") + 1:
                there, left = names_in(modules()[".".join(parts[: known[-1]])]), parts[known[-1] :]
                if left and not (left[0] in there and {*left[1:]} <= there[left[0]]):
                    yield name
                break


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_page_names_files_commands_and_options_that_there_are(page: Path) -> None:
    text = page.read_text("utf-8")
    links = [link for link in re.findall(r"\]\(([^)#\s]+)", text) if "://" not in link]
    assert [link for link in links if not (page.parent / link).exists()] == []
    code = code_of(text)
    files = {part for line in code for part in line.split() if FILE.fullmatch(part)}
    assert sorted(files - endings() - NOT_OURS) == []
    assert [f"{line}: {flag}" for line in code for flag in unknown_flags(line)] == []
    assert {name for line in code for name in COMMAND.findall(line)} <= flags_by_command().keys()
    assert {name for line in code for name in re.findall(r"\blargedrop\.([a-z_.]+)", line)} <= modules().keys()


@pytest.mark.parametrize("page", [*PAGES, *GUIDES], ids=lambda path: str(path.relative_to(ROOT)))
def test_lines_are_short_and_tables_are_whole(page: Path) -> None:
    above = ""
    for number, line in enumerate(page.read_text("utf-8").splitlines(), 1):
        if line.startswith("|") and above.startswith("|"):
            cells, columns = (re.sub("`[^`]*`", "", each).count("|") for each in (line, above))
            assert cells == columns, f"line {number} has {cells - 1} cells and not {columns - 1}"
        assert len(line) <= WIDTH or line.startswith(("|", "![")), f"line {number} is too long"
        above = line


@pytest.mark.parametrize("file", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_comments_and_docstrings_name_what_there_is(file: Path) -> None:
    text = file.read_text("utf-8")
    if file.name not in ("test_layout.py", "test_docs.py"):
        assert sorted({*PATH.findall(text)} - endings()) == []
    if SOURCE in file.parents:
        assert [*unknown_names(text, ".".join(file.parent.relative_to(SOURCE).parts))] == []


def test_the_page_has_a_row_for_each_folder_with_all_of_its_files() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    rows = re.findall(r"^\| `([\w/.]+)` \| [^|]* \| ([^|]*) \|$", page.split("## Which folder")[0], re.M)
    shown = {name.rstrip("/"): {*re.findall(r"`(\w+)`", files)} for name, files in rows}
    found: dict[str, set[str]] = {}
    for path in SOURCE.rglob("*.py"):
        if path.name != "__init__.py":
            found.setdefault(path.parent.relative_to(SOURCE).as_posix(), set()).add(path.stem)
    assert shown.keys() == found.keys()
    for name, files in found.items():
        assert files - shown[name] == set(), f"{name} has them and its row does not"


def test_what_is_not_there_is_found() -> None:
    text = (
        "``runs.methods.METHODS``, ``runs.methods.METHOD``, ``loop.cost``, ``loop.costs``, ``runs.rows``, ``torch.nn``"
    )
    assert sorted(unknown_names(text, "training")) == ["loop.costs", "runs.methods.METHOD", "runs.rows"]
    assert [*unknown_names("``config.Config.lr`` and ``config.Config.rate``", "")] == ["config.Config.rate"]
    assert unknown_flags("largedrop train --dropout 0.9 --drop --help") == ["--drop"]
    assert unknown_flags("--jobs") == unknown_flags("benchmarks/folding.py --json") == []
    assert unknown_flags("--job") == ["--job"]
    assert code_of("a `b`\n\n    c\n\n```sh\nd `e`\n```\n") == ["d `e`", "c", "b"]


def pages_of_studies() -> Iterator[tuple[str, list[str]]]:
    """The pages of studies and the lines that their records give."""
    names = "working_point_report", "three_arms_report", "heads_report", "richness", "small_figures", "peers"
    report, three, heads, richness, small, peers = (importlib.import_module(name) for name in names)
    trained, linear = importlib.import_module("trained_figures"), importlib.import_module("linear_report")
    study = report.Study(report.RECORD)
    yield from (("docs/studies/working-point.md", list(part(study))) for part in report.PARTS.values())
    yield from ((name, list(part(study))) for name, part in three.PAGES.items())
    yield from (("docs/studies/heads.md", list(part(study))) for part in heads.PAGES.values())
    yield "docs/studies/nine-domains.md", list(linear.table(study))
    record = json.loads(richness.RECORD.read_text("utf-8"))["runs"]
    yield from (("docs/studies/richness.md", list(part(record))) for part in (richness.table, richness.verdicts))
    figures = small.Figures(small.recorded(small.RECORD))
    parts = [part for each in small.PARTS.values() for part in each]
    yield from (("docs/studies/figures-4-5-9.md", list(part(figures))) for part in parts)
    figures = trained.Trained(small.recorded(trained.RECORD))
    yield from (("docs/studies/figures-trained-out.md", list(trained.part(figures, name))) for name in trained.PARTS)
    yield "docs/results.md", list(peers.table(peers.read(peers.RECORD)))


def test_the_studies_have_the_tables_that_their_records_give(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "studies"))
    for name, lines in pages_of_studies():
        page = (ROOT / name).read_text("utf-8").splitlines()
        assert lines != []
        assert [line for line in lines if line not in page] == []
