"""The layout: which folder imports which, by the table in docs/architecture.md, and how large each is."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "largedrop"
LINES = 400
"""The most that a file may have."""

BESIDE = ("tests", "studies", "benchmarks", "tools")
"""The folders beside the source that have files of Python."""

SHARE = 1 / 5
"""The most of all lines that a folder may hold."""

OTHER_TESTS = {
    "test_layout.py": "this file",
    "test_docs.py": "the pages, and what docstrings name",
    "test_compatibility.py": "files of older versions",
    "test_requirements.py": "pyproject.toml's lower bounds and constraints-oldest.txt",
    "training/test_going_on.py": "runs that are stopped or killed, or whose images change, and that go on",
    "training/test_fake_cuda.py": "the code for a GPU, on tensors that pretend to be there",
    "training/test_step_graph.py": "training/step.py, recorded and replayed by training/graph.py",
    "test_faults.py": "disks that are full or cannot be written, and unknown users",
    "test_lease_disks.py": "lease.py, on disks that fail and on those of servers",
    "test_integrity.py": "stored files of every kind, changed in every way",
    "test_guide.py": "the code in docs/guide",
    "data/test_hostile.py": "a corpus of files that are odd or damaged",
    "data/test_cache_damage.py": "data/cache.py, of damaged files and on disks that fail",
    "data/test_table_mistakes.py": "data/table.py, of tables that are wrong",
    "models/test_dropout_heads.py": "models/dropout.py, before the heads of any networks",
    "models/test_pretrained_hub.py": "models/pretrained.py, from a model hub",
    "models/fast/test_folding_activations.py": "models/fast/folding.py, of the activations after batch norms",
    "experiments/test_presets_end_to_end.py": "presets, from the plan to the report",
    "experiments/test_processes_messages.py": "experiments/processes.py, with no process started",
    "experiments/test_sweep_failures.py": "experiments/sweep.py, where runs or processes fail",
    "experiments/test_too_little_memory.py": "runs side by side of which one finds too little memory",
    "studies/test_ending.py": "studies/ending.py",
    "studies/test_fuzz.py": "studies/fuzz.py, and what it has found",
    "studies/test_kills.py": "studies/kills.py",
    "studies/test_families.py": "studies/families.py",
    "studies/test_launchers.py": "studies/launchers.py, and what it has found",
    "studies/test_peers.py": "studies/peers.py",
    "studies/test_protocol_cost.py": "studies/protocol_cost.py",
    "studies/test_shared_folder.py": "studies/shared_folder.py and shared_folder_parts.py",
    "studies/test_working_point.py": "studies/working_point.py",
    "benchmarks/test_scripts.py": "benchmarks/ that measure in a precision",
}
"""The test files that are no module's."""

Table = dict[str, set[str]]
Modules = dict[str, Path]


class Import(NamedTuple):
    """``of`` is imported by ``by``, or its ``name`` is, and called ``local`` there."""

    by: str
    line: int
    of: str
    name: str
    local: str

    def __str__(self) -> str:
        return f"{self.by}, line {self.line}"


def modules(source: Path) -> Modules:
    """The files of a package by their modules' names within it; its own ``__init__.py`` is ``__init__``."""
    found = {}
    for path in sorted(source.rglob("*.py")):
        parts = path.relative_to(source).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)] = path
    return found


def imports(known: Modules) -> list[Import]:
    """Every import of one of the modules by another, those inside functions as well."""
    found = []
    for by, path in known.items():
        around = ["largedrop", *(() if by == "__init__" else by.split("."))]
        around = around if path.name == "__init__.py" else around[:-1]
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                named = [(alias.name.split("."), alias) for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                base = around[: len(around) - node.level + 1] if node.level else []
                base = [*base, *(node.module.split(".") if node.module else ())]
                named = [([*base, alias.name], alias) for alias in node.names]
            else:
                continue
            for (package, *parts), alias in named:
                if package == "largedrop":
                    whole = ".".join(parts) or "__init__"
                    of, name = (whole, "") if whole in known else (".".join(parts[:-1]) or "__init__", parts[-1])
                    found.append(Import(by, node.lineno, of, name, alias.asname or alias.name))
    return found


def folder(module: str) -> str:
    return module.split(".")[0]


def table(page: str) -> Table:
    """The rows of the page's table with the columns ``folder`` and ``imports``, from the first to the last."""
    lines = page.splitlines()
    rows: Table = {}
    for line in lines[lines.index("| folder | imports |") + 2 :]:
        if not line.startswith("|"):
            break
        names, allowed = (re.findall("`([^`]+)`", cell) for cell in line.strip("|").split("|"))
        rows |= {name: set(allowed) for name in names}
    return rows


def upwards(rows: Table) -> list[str]:
    """What the table allows though it stands further down."""
    order = list(rows)
    return [
        f"{name} may import {other}, which is not above it"
        for name, allowed in rows.items()
        for other in sorted(allowed)
        if other not in order[: order.index(name)]
    ]


def forbidden(known: Modules, rows: Table) -> list[str]:
    """The imports that the table does not allow."""
    return [
        f"{each}: {folder(each.by)} may not import {folder(each.of)} ({each.of})"
        for each in imports(known)
        if folder(each.by) != folder(each.of) and folder(each.of) not in rows.get(folder(each.by), ())
    ]


def circles(known: Modules) -> list[str]:
    """One way round for each module that is met again on the way from it."""
    graph: dict[str, dict[str, None]] = {module: {} for module in known}
    for each in imports(known):
        graph[each.by][each.of] = None
    found: list[str] = []
    done: set[str] = set()

    def walk(module: str, way: list[str]) -> None:
        if module in way:
            found.append(" → ".join([*way[way.index(module) :], module]))
        elif module not in done:
            for other in graph.get(module, ()):
                walk(other, [*way, module])
            done.add(module)

    for module in known:
        walk(module, [])
    return found


def private(known: Modules) -> list[str]:
    """Names that begin with an underscore and are taken from another module, by import or as its attribute."""
    every = imports(known)
    found = [f"{each}: {each.name} is private to {each.of}" for each in every if re.match("_(?!_)", each.name)]
    for module, path in known.items():
        taken = {each.local: each.of for each in every if each.by == module and not each.name}
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            match node:
                case ast.Attribute(ast.Name(local), attribute) if local in taken and re.match("_(?!_)", attribute):
                    found.append(f"{module}, line {node.lineno}: {attribute} is private to {taken[local]}")
    return found


def lines_of(files: Modules) -> Counter[str]:
    """How many lines each file has."""
    return Counter({name: len(path.read_text("utf-8").splitlines()) for name, path in files.items()})


def too_long(lines: Counter[str]) -> list[str]:
    """Files that are too long."""
    return [f"{name} has {count} lines" for name, count in lines.items() if count > LINES]


def sizes(known: Modules) -> list[str]:
    """Modules that are too long, and folders that hold too much of all."""
    lines = lines_of(known)
    held: Counter[str] = Counter()
    for module, count in lines.items():
        held[folder(module)] += count
    return too_long(lines) + [
        f"{name} holds {count} of {sum(lines.values())} lines"
        for name, count in held.items()
        if count > SHARE * sum(lines.values())
    ]


def unmirrored(tests: Path, known: Modules, other: Mapping[str, str]) -> list[str]:
    """Test files that are named after no module, as ``data/test_cache.py`` after ``data/cache.py``.

    A folder's ``__init__.py`` is tested by the file of its own name, as ``cli/test_cli.py``.
    """
    found = {path.relative_to(tests) for path in tests.rglob("test_*.py")}
    expected = {Path(*module.split(".")[:-1], f"test_{module.split('.')[-1]}.py") for module in known}
    expected |= {
        Path(*module.split("."), f"test_{module.split('.')[-1]}.py")
        for module, path in known.items()
        if path.name == "__init__.py"
    }
    return [
        *(f"{path.as_posix()} is named after no module" for path in sorted(found - expected - set(map(Path, other)))),
        *(f"there is no {path}" for path in other if Path(path) not in found),
    ]


KNOWN = modules(SOURCE)
TABLE = table((ROOT / "docs" / "architecture.md").read_text("utf-8"))


def none(faults: list[str]) -> None:
    assert not faults, "\n".join(faults)


def test_the_table_has_a_row_for_each_folder_and_goes_one_way() -> None:
    assert sorted(TABLE) == sorted({folder(module) for module in KNOWN})
    none(upwards(TABLE))


def test_folders_import_what_the_table_allows() -> None:
    none(forbidden(KNOWN, TABLE))


def test_no_import_goes_in_a_circle() -> None:
    none(circles(KNOWN))


def test_no_private_name_is_taken_from_another_module() -> None:
    none(private(KNOWN))


def test_no_module_is_too_long_and_no_folder_too_large() -> None:
    none(sizes(KNOWN))


def test_no_file_beside_the_source_is_too_long() -> None:
    found = [path for name in BESIDE for path in sorted((ROOT / name).rglob("*.py"))]
    assert ROOT / "tests" / "test_layout.py" in found
    none(too_long(lines_of({path.relative_to(ROOT).as_posix(): path for path in found})))


def test_every_test_file_is_named_after_a_module() -> None:
    none(unmirrored(ROOT / "tests", KNOWN, OTHER_TESTS))


def test_no_test_file_is_imported() -> None:
    none(imported_tests(ROOT / "tests"))


def imported_tests(tests: Path) -> list[str]:
    """Imports from test files: what several need is in a module that is none."""
    found = {path.relative_to(tests): ast.walk(ast.parse(path.read_text("utf-8"))) for path in tests.rglob("*.py")}
    return [
        f"{path.as_posix()} imports from {node.module}"
        for path, nodes in sorted(found.items())
        for node in nodes
        if isinstance(node, ast.ImportFrom) and ".test_" in f".{node.module}"
    ]


FOLDERS = """
| folder | what it is about |
| --- | --- |
| `b` | much |

| folder | imports |
| --- | --- |
| `files`, `__init__` | – |
| `a` | `files`, `c` |
| `b` | `a`, `files` |
| `c` | |

| `d` | `e` |
"""

MADE_UP = {
    "__init__.py": "",
    "files.py": "import os\n_HIDDEN = 1",
    "a/__init__.py": "",
    "a/one.py": "from ..files import read\nfrom ..b import two\n",
    "a/two.py": "from .three import f\n",
    "a/three.py": "def f():\n    import largedrop.a.two\n",
    "b/__init__.py": "from .. import files as store\nfrom .two import g\nstore._HIDDEN\nstore.__doc__",
    "b/two.py": "from ..a.one import _hidden, shown\nfrom largedrop.c import x\nfrom ..c import __version__\n",
    "c.py": "\n" * 30,
}


def test_each_of_these_tests_can_fail(tmp_path: Path) -> None:
    for name, text in MADE_UP.items():
        (tmp_path / "src" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "src" / name).write_text(text)
    known, rows = modules(tmp_path / "src"), table(FOLDERS)
    assert list(known) == ["__init__", "a", "a.one", "a.three", "a.two", "b", "b.two", "c", "files"]
    assert rows == {"files": set(), "__init__": set(), "a": {"files", "c"}, "b": {"a", "files"}, "c": set()}
    assert upwards(rows) == ["a may import c, which is not above it"]
    assert forbidden(known, rows) == [
        "a.one, line 2: a may not import b (b.two)",
        "b.two, line 2: b may not import c (c)",
        "b.two, line 3: b may not import c (c)",
    ]
    assert circles(known) == ["a.one → b.two → a.one", "a.three → a.two → a.three"]
    assert private(known) == ["b.two, line 1: _hidden is private to a.one", "b, line 3: _HIDDEN is private to files"]
    assert sizes(known) == ["c holds 30 of 44 lines"]
    (tmp_path / "src" / "c.py").write_text("\n" * 401)
    assert sizes(known) == ["c has 401 lines", "c holds 401 of 415 lines"]
    for name in ("test_c.py", "a/test_one.py", "a/test_a.py", "a/test_four.py", "test_one.py", "test_other.py"):
        (tmp_path / "tests" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "tests" / name).touch()
    assert unmirrored(tmp_path / "tests", known, {"test_other.py": "", "test_gone.py": ""}) == [
        "a/test_four.py is named after no module",
        "test_one.py is named after no module",
        "there is no test_gone.py",
    ]
    (tmp_path / "tests" / "a" / "test_one.py").write_text("from tests.helpers import x\nfrom tests.test_c import y\n")
    assert imported_tests(tmp_path / "tests") == ["a/test_one.py imports from tests.test_c"]
