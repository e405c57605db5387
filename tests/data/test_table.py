"""Tables of images: what they may look like, and what is read from them."""

from __future__ import annotations

import builtins
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.data.tables import KEYS, ROWS, csv_of, json_of, list_table, make_shots, write, wrong
from tests.helpers import refusal

import largedrop as ld
from largedrop.data import table as tables
from largedrop.data.listing import make_listing
from largedrop.errors import UserError
from largedrop.prediction.images import find_images


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with the images of ``ROWS``."""
    return make_shots(tmp_path / "shots")


WRITERS: dict[str, Callable[[], str | bytes]] = {
    "plain.csv": csv_of,
    "windows.csv": lambda: csv_of(end="\r\n"),
    "mac.csv": lambda: csv_of(end="\r"),
    "mark.csv": lambda: b"\xef\xbb\xbf" + csv_of().encode(),
    "semicolons.csv": lambda: csv_of(header="path;label;domain", separator=";"),
    "tabs.tsv": lambda: csv_of(header="path\tlabel\tdomain", separator="\t"),
    "upper.CSV": csv_of,
    "blank.csv": lambda: "\n" + csv_of().replace("\n", "\n\n,,\n"),
    "open.csv": lambda: csv_of().rstrip("\n"),
    "other-order.csv": lambda: csv_of(
        [(str(n), d, p, lab, "") for n, (p, lab, d) in reversed(list(enumerate(ROWS)))], "id,domain,path,label,note"
    ),
    "spaces.csv": lambda: csv_of([(p, f" {lab} ", f" {d}") for p, lab, d in ROWS], " path , label,domain "),
    "quoted.csv": lambda: csv_of().replace("a/1.png,cat,day", '"a/1.png", "cat", "day"'),
    "dots.csv": lambda: csv_of([(f"./x/../{p}", lab, d) for p, lab, d in ROWS]),
    "backslashes.csv": lambda: csv_of([(p.replace("/", "\\"), lab, d) for p, lab, d in ROWS]),
    "plain.jsonl": json_of,
    "windows.ndjson": lambda: json_of().replace("\n", "\r\n"),
    "mark.jsonl": lambda: b"\xef\xbb\xbf" + json_of().encode() + b"\n",
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_way_to_write_it_is_the_same_list(root: Path, name: str) -> None:
    (root / "x").mkdir()
    listing = list_table(write(root / name, WRITERS[name]()))
    assert listing.keys == KEYS
    assert (listing.classes, listing.domains, listing.name) == (("cat", "dog"), ("day", "night"), Path(name).stem)
    assert listing.labels.tolist() == [0, 0, 1, 0, 1]
    assert listing.domain_ids.tolist() == [0, 0, 0, 1, 1]
    assert list(listing.paths) == [root / row[0] for row in ROWS]


def test_columns_of_other_names_and_values_that_are_numbers(root: Path) -> None:
    lines = [{"file_name": p, "species": int(lab == "dog"), "site": d} for p, lab, d in ROWS]
    table = write(root / "metadata.jsonl", "\n".join(map(json.dumps, lines)))
    listing = list_table(table, {"path": "file_name", "label": "species", "domain": "site"})
    assert (listing.name, listing.classes, listing.keys[2]) == ("shots", ("0", "1"), "day/1/a/3.png")
    assert list_table(table, {"label": "species", "domain": "site"}).keys == listing.keys
    assert refusal(list_table, table, {"label": "species", "path": "file"}) == (
        f"{table} has no column 'file', only file_name, species, site; --column path=NAME says which it is"
    )
    assert refusal(list_table, table, {"class": "species"}) == (
        "a table has no 'class' to name a column for; there are: path, label, domain, group, split"
    )
    capitals = write(root / "capitals.csv", csv_of(ROWS).replace("path,label,domain", "Path,LABEL,Domain"))
    assert list_table(capitals).keys == list_table(write(root / "small.csv", csv_of(ROWS))).keys
    two = write(root / "two.csv", "path,Label,LABEL\n")
    assert refusal(list_table, two).startswith(f"{two} has no column 'label', only path, Label, LABEL; ")
    assert refusal(list_table, table, {"path": " "}) == "the column of the path is named by nothing"


def test_a_slash_in_a_class_is_no_level_of_a_key(root: Path) -> None:
    rows = [(p, f"{lab}/%", f"{d}/x") for p, lab, d in ROWS]
    listing = list_table(write(root / "t.csv", csv_of(rows)))
    assert (listing.classes, listing.domains) == (("cat/%", "dog/%"), ("day/x", "night/x"))
    assert listing.keys[0] == "day%2Fx/cat%2F%25/a/1.png"


def test_a_dataset_of_a_table(root: Path, tmp_path: Path) -> None:
    table = write(root / "t.csv", csv_of())
    data = ld.open_dataset(table, cache=tmp_path / "cache")
    assert (data.name, data.keys, data.images[2][0, 0, 0]) == ("t", KEYS, 80)
    (tmp_path / "elsewhere").mkdir()
    absolute = csv_of([(str(root / p), lab, d) for p, lab, d in reversed(ROWS)])
    moved = root.rename(tmp_path / "elsewhere" / "moved")
    again = ld.open_dataset(moved / "t.csv", cache=tmp_path / "cache")
    assert again.fingerprint == data.fingerprint
    moved.rename(root)
    assert ld.open_dataset(write(root / "u.csv", absolute), cache=tmp_path / "cache").fingerprint == data.fingerprint
    without = write(root / "v.csv", csv_of(ROWS[:4]))
    assert ld.open_dataset(without, cache=tmp_path / "cache").lacking == {"night": ("dog",)}
    common = ld.open_dataset(without, cache=tmp_path / "cache", classes="union").notes
    assert "'night' lacks 'dog'" in common[0]
    said = f"columns are named for tables (.csv, .tsv, .jsonl, .ndjson, .parquet, .tar), and {root} is none"
    assert refusal(ld.open_dataset, root, columns={"label": "species"}) == said


@pytest.mark.parametrize("kind", ["jsonl", "frame"])
def test_labels_that_are_truth_values_are_those_that_a_csv_file_has(root: Path, kind: str) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame([(p, lab == "cat", d) for p, lab, d in ROWS], columns=["path", "label", "domain"])
    frame.to_csv(root / "t.csv", index=False)
    if kind == "frame":
        listing = make_listing(tables.list_frame(frame, root))
    else:
        frame.to_json(root / "t.jsonl", orient="records", lines=True)
        listing = list_table(root / "t.jsonl")
    assert (listing.classes, listing.keys) == (("False", "True"), list_table(root / "t.csv").keys)


def test_parquet(root: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    def table(rows: Any) -> Path:
        columns = dict(zip(("path", "label", "domain"), map(list, zip(*rows, strict=True)), strict=True))
        parquet.write_table(pyarrow.table({"id": range(len(rows)), **columns}), root / "t.parquet")
        return root / "t.parquet"

    assert list_table(table(ROWS)).keys == KEYS
    assert refusal(list_table, table([*ROWS, (None, "cat", "day"), ("c.png", "cat", "day")])) == (
        f"{root}/t.parquet has 2 problems:\n  row 6 has no path\n  row 7: there is no file c.png"
    )
    assert refusal(list_table, table(ROWS), {"label": "species"}) == (
        f"{root}/t.parquet has no column 'species', only id, path, label, domain; --column label=NAME says which it is"
    )
    damaged = write(root / "bad.parquet", (root / "t.parquet").read_bytes()[:-9])
    assert refusal(list_table, damaged).startswith(f"{damaged} cannot be read as Parquet: ")


def test_parquet_without_pyarrow(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *arguments: Any, **options: Any) -> Any:
        if name.split(".")[0] == "pyarrow":
            raise ImportError(name)
        return real(name, *arguments, **options)

    for name in [each for each in sys.modules if each.split(".")[0] == "pyarrow"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", without)
    table = write(root / "t.parquet", b"PAR1")
    said = f"{table}: Parquet is read by pyarrow: pip install pyarrow (or largedrop[parquet])"
    assert refusal(list_table, table) == said


def test_groups_and_a_split_are_columns(root: Path) -> None:
    more = [("b1", "train"), ("", "val"), ("b2", "Test"), ("b1", "train"), ("b3", "iid")]
    rows = [(*row, *each) for row, each in zip(ROWS, more, strict=True)]
    header = "path,label,domain,group,split"
    table = write(root / "t.csv", csv_of(rows, header))
    listing = list_table(table)
    assert listing.groups is not None
    assert listing.parts is not None
    assert (listing.groups.tolist(), listing.parts.tolist()) == ([0, 1, 2, 0, 3], [0, 1, 2, 0, 1])
    without = list_table(table, {"group": "", "split": " "})
    assert (without.groups, without.parts, without.notes) == (None, None, ())
    other = write(root / "u.csv", csv_of(rows, "path,label,domain,burst,part"))
    assert list_table(other).groups is None
    named = list_table(other, {"group": "burst", "split": "part"})
    assert named.groups is not None
    assert named.groups.tolist() == [0, 1, 2, 0, 3]
    assert refusal(list_table, other, {"group": "bursts"}).startswith(f"{other} has no column 'bursts', only path, ")
    (said,) = wrong(root, "v.csv", csv_of([(*ROWS[0], "", "fold 1"), *rows[1:]], header))
    assert said.startswith("line 2 has the split 'fold 1', which is none of train, training, validation, ")
    (said,) = wrong(root, "w.csv", csv_of([(*ROWS[0], "", ""), *rows[1:]], header))
    assert said == "line 2 has no split"


def test_a_table_without_domains_has_one(root: Path) -> None:
    table = write(root / "t.csv", csv_of([row[:2] for row in ROWS], "file_name,label"))
    listing = list_table(table)
    assert (listing.domains, listing.keys[0]) == (("all",), "all/cat/a/1.png")
    assert listing.notes == (
        "domains: no column says, so all images are of one, 'all' (--column domain=NAME names one)",
    )


def test_images_without_labels_are_a_domain_to_predict_or_are_counted(root: Path, tmp_path: Path) -> None:
    header = "path,label,domain,group,split"
    rows = [(*row, "b", "train") for row in ROWS[:3]] + [(path, " ", "new", "", "") for path, *_ in ROWS[3:]]
    table = write(root / "t.csv", csv_of(rows, header))
    listing = list_table(table)
    assert (listing.keys, listing.domains, listing.unlabelled) == (KEYS[:3], ("day",), ("new",))
    assert listing.notes[0] == (
        "no labels: all 2 images of 'new', not trained on and not scored; `largedrop predict` takes such images"
    )
    labelled = ld.open_dataset(write(root / "u.csv", csv_of(rows[:3], header)), cache=tmp_path / "cache")
    data = ld.open_dataset(table, cache=tmp_path / "cache")
    assert (data.fingerprint, data.unlabelled) == (labelled.fingerprint, ("new",))
    said = "no image of 'new' has a label, so nothing can be scored on it; `largedrop predict` takes them"
    assert refusal(data.split, "new", 0) == said
    assert refusal(data.split, "now", 0) == "no domain 'now' in t; did you mean 'new'? (there are: day, new)"
    assert [Path(str(each)).name for each in find_images([table])] == ["1.png", "2.png", "3.png", "b 4.png", "b,5.png"]
    half = [(path, "" if path in ("a/2.png", "b 4.png") else label, domain) for path, label, domain in ROWS]
    assert list_table(write(root / "v.csv", csv_of(half))).notes == (
        "no label: 1 of 3 images of 'day' (line 3), left out",
        "no label: 1 of 2 images of 'night' (line 5), left out",
    )
    assert wrong(root, "w.csv", csv_of([(path, "", "day") for path, *_ in ROWS])) == [
        "no image has a label, so there is nothing to train on; `largedrop predict` takes such images"
    ]
    assert wrong(root, "x.csv", csv_of([*ROWS[:3], ("none.png", "", "new"), ("a/1.png", "", "")])) == [
        "line 5: there is no file none.png",
        "line 6 has no domain",
    ]


def test_a_data_frame(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(ROWS, columns=["path", "label", "domain"])
    written = ld.open_dataset(write(root / "t.csv", csv_of()), cache=tmp_path / "cache")
    data = ld.open_dataset(frame, folder=root, cache=tmp_path / "cache")
    assert (data.keys, data.fingerprint, data.name) == (KEYS, written.fingerprint, "shots")
    monkeypatch.chdir(root)
    frame["path"] = [Path(name) for name in frame["path"]]
    frame["label"] = pandas.Categorical(frame["label"])
    frame["burst"] = [1, 1, None, 2, 2]
    data = ld.open_dataset(frame, columns={"group": "burst"}, cache=tmp_path / "cache")
    assert (data.keys, data.groups.tolist()) == (KEYS, [0, 0, 1, 2, 2])
    frame.loc[3, "label"] = None
    data = ld.open_dataset(frame, columns={"group": "burst"}, cache=tmp_path / "cache")
    assert (data.keys, data.notes[0]) == ((*KEYS[:3], KEYS[4]), "no label: 1 of 2 images of 'night' (row 3), left out")
    frame.loc[4, "label"] = float("nan")
    data = ld.open_dataset(frame, cache=tmp_path / "cache")
    assert (data.domains, data.unlabelled) == (("day",), ("night",))
    assert refusal(ld.open_dataset, frame[["path", "domain"]]).startswith("the data frame has no column 'label', only")
    assert refusal(ld.open_dataset, frame, folder=root / "none") == f"there is no folder {root}/none"
    said = "a folder is named for a data frame; the paths of t.csv need none"
    assert refusal(ld.open_dataset, "t.csv", folder=root) == said


GOOD = st.lists(
    st.tuples(st.sampled_from("xy"), st.sampled_from("de"), st.sampled_from(["", "g", "h"])), min_size=5, max_size=5
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(said=GOOD, order=st.permutations(range(5)))
def test_the_order_of_rows_changes_nothing(root: Path, said: list[tuple[str, str, str]], order: list[int]) -> None:
    rows = [(row[0], *more) for row, more in zip(ROWS, said, strict=True)]
    header = "path,label,domain,group"

    def listed(lines: Sequence[tuple[str, ...]]) -> Any:
        try:
            found = list_table(write(root / "t.csv", csv_of(lines, header)))
        except UserError as error:
            return str(error)
        assert found.groups is not None
        return found.keys, found.labels.tolist(), found.domain_ids.tolist(), found.groups.tolist()

    assert listed([rows[number] for number in order]) == listed(rows)


def test_what_other_programs_write_for_no_value_is_said(root: Path) -> None:
    rows = [
        (path, "NA" if at == 3 else label, "nan" if at > 3 else domain) for at, (path, label, domain) in enumerate(ROWS)
    ]
    listing = list_table(write(root / "t.csv", csv_of(rows)))
    assert listing.notes[:2] == (
        "1 rows have the label 'NA', which is a name here; a cell is empty where there is none",
        "1 rows have the domain 'nan', which is a name here; a cell is empty where there is none",
    )


@pytest.mark.parametrize("name", ["patient_id", "Patient", "subject-no", "sequence"])
def test_a_column_that_may_say_what_belongs_together_is_named(name: str, root: Path) -> None:
    header = f"path,label,domain,weather,{name}"
    table = write(root / "t.csv", csv_of([(*row, "rain", str(at)) for at, row in enumerate(ROWS)], header))
    said = f"column '{name}' is not read; --column group={name} keeps together what shares a value of it"
    assert said in list_table(table).notes
    assert not any("is not read" in note for note in list_table(table, {"group": name}).notes)
    assert not any("is not read" in note for note in list_table(table, {"group": ""}).notes)
