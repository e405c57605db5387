"""Each kind of finding on a dataset made for it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch

from largedrop.analysis import findings as find
from largedrop.analysis.duplicates import look_at
from largedrop.analysis.findings import Finding, Item
from largedrop.analysis.neighbours import Doubts
from largedrop.data.dataset import Dataset


class Some(list[npt.NDArray[np.uint8]]):
    bound = 320


def dataset(counts: dict[str, dict[str, int]]) -> Dataset:
    """Images of noise, so many of each class of each domain."""
    classes = sorted({name for each in counts.values() for name in each})
    rows = [(domain, name) for domain, each in counts.items() for name in classes for _ in range(each.get(name, 0))]
    rng = np.random.default_rng(0)
    return Dataset(
        name="made",
        classes=tuple(classes),
        domains=tuple(counts),
        labels=np.array([classes.index(name) for _, name in rows]),
        domain_ids=np.array([[*counts].index(domain) for domain, _ in rows]),
        groups=np.arange(len(rows)),
        keys=tuple(f"{domain}/{name}/{index}" for index, (domain, name) in enumerate(rows)),
        images=Some(rng.integers(0, 256, (len(rows), 40, 40, 3), dtype=np.uint8)),
        fingerprint="f00d",
    )


PLAIN = {"a": {"cat": 10, "dog": 10}, "b": {"cat": 10, "dog": 10}}


def told(found: Iterable[Finding]) -> dict[str, tuple[str, str]]:
    return {each.kind: (each.level, each.text) for each in found}


def test_nothing_is_found_where_nothing_is_wrong() -> None:
    data = dataset(PLAIN)
    assert [*find.decoded(data, False), *find.listed(data, 0), *find.groups(data)] == []
    assert [*find.shapes(data, look_at(data.images), 128), *find.copies(data, [], {}, 0)] == []
    assert find.counts_of(data) == PLAIN


def test_unreadable_images_are_a_problem_unless_they_are_skipped() -> None:
    data = replace(dataset(PLAIN), skipped=("a/cat/x.jpg: the file is empty",))
    (found,) = find.decoded(data, False)
    assert (found.level, found.items) == ("problem", (Item((), "a/cat/x.jpg: the file is empty"),))
    assert found.text == "1 of 41 images cannot be decoded (--skip-bad-images leaves them out)"
    (found,) = find.decoded(data, True)
    assert (found.level, found.text) == ("warning", "1 of 41 images cannot be decoded and are left out")


def test_few_images_of_a_class_and_notes() -> None:
    data = replace(dataset({"a": {"cat": 4, "dog": 10}, "b": {"cat": 10, "dog": 1}}), notes=("passed over: a",))
    tiny, note = find.listed(data, 0)
    assert [item.text for item in tiny.items] == ["a/cat: 4", "b/dog: 1"]
    assert tiny.text == "2 classes of a domain have fewer than 5 images: what is held out of them says little"
    assert (note.level, note.text) == ("note", "passed over: a")


def test_domains_that_cannot_be_tested_on() -> None:
    data = dataset({"a": {"cat": 9, "dog": 9}, "b": {"cow": 9, "dog": 9}, "c": {"elk": 9}})
    assert told(find.listed(data, 0))["split"] == (
        "warning",
        "'c' cannot be the test domain: 'c' has no class of the domains to train on: none of it could be predicted",
    )
    single = dataset({"a": {"cat": 1, "dog": 1}, "b": {"cat": 1, "dog": 1}})
    level, text = told(find.listed(single, 0))["split"]
    assert level == "problem"
    assert "single image of each class" in text


def test_blank_small_and_long_images() -> None:
    data = dataset(PLAIN)
    several = [data.images[index] for index in range(len(data))]
    several[3] = np.full((64, 64, 3), 7, np.uint8)
    several[5] = several[5][:31]
    several[6] = np.tile(several[6], (1, 9, 1))
    found = [*find.shapes(data, look_at(Some(several)), 128)]
    assert {each.kind: [item.images for item in each.items] for each in found} == {
        "blank": [(3,)],
        "small": [(5,)],
        "long": [(6,)],
    }
    assert found[1].items[0].text == "40 × 31 pixels"
    assert [each.level for each in found] == ["warning", "warning", "note"]
    assert found[1].text == "1 image is enlarged more than 4 times to 128 pixels"


def test_labels_are_doubted_where_neighbours_and_head_agree() -> None:
    data = dataset({"a": {"cat": 12, "dog": 12, "elk": 3}})
    near = np.array([[index ^ 1, index ^ 2] for index in range(27)]).clip(0, 26)
    near[0] = near[1] = near[24] = [12, 13]  # dogs
    margins = torch.zeros(27)
    margins[[0, 5, 24]] = torch.tensor([0.6, 0.9, 0.9])  # 5 has cats around it; there are too few elks
    (found,) = find.doubted(data, near, Doubts(margins, torch.ones(27, dtype=torch.int64)))
    assert found.items == (Item((0,), "labelled cat, looks like dog"),)
    assert found.text == "1 image has a label that none of its 2 nearest images shares: worth a look"
    assert found.level == "warning"  # 1 of 27 is more than of data that are right
    assert not [*find.doubted(data, near, Doubts(margins - 1, torch.ones(27, dtype=torch.int64)))]


def test_copies_within_and_across() -> None:
    data = dataset(PLAIN)  # 0–9 cats of a, 10–19 dogs of a, 20–29 cats of b, 30–39 dogs of b
    found = told(find.copies(data, [(0, 1), (2, 12)], {(4, 5): 0.96, (5, 25): 0.99}, 0))
    assert found["identical"] == ("warning", "4 images have the same pixels as another (2 sets)")
    assert found["near-duplicates"][1].startswith("3 images are nearly the same as another")
    assert found["copies-across-classes"][1].startswith("1 set of copies has several classes")
    assert found["copies-across-domains"][1].startswith("3 images have copies in other domains")
    by_kind = {each.kind: each for each in find.copies(data, [(2, 12)], {(4, 5): 0.96, (5, 25): 0.99}, 0)}
    assert by_kind["copies-across-classes"].items == (Item((2, 12), "'cat', 'dog'"),)
    assert by_kind["near-duplicates"].items == (Item((4, 5, 25), "'a', 'b'"),)


def test_copies_that_straddle_the_split() -> None:
    data = dataset(PLAIN)
    held = {*data.split((), 0).iid.tolist()}
    out, kept = min(held & {*range(10)}), [index for index in range(10) if index not in held]
    (found,) = [each for each in find.copies(data, [], {(out, kept[0]): 1.0}, 0) if each.kind == "straddling"]
    assert found.text.startswith(
        "1 of the 8 images held out for the i.i.d. score (seed 0) has a copy that is trained on"
    )
    assert {each.kind for each in find.copies(data, [(kept[0], kept[1])], {}, 0)} == {"identical"}
    # Of a group both are on one side.
    grouped = replace(data, groups=np.where(np.isin(np.arange(40), [out, kept[0]]), out, data.groups))
    assert [*find.copies(grouped, [], {(out, kept[0]): 1.0}, 0)] == []


def test_groups_over_classes_and_domains() -> None:
    data = dataset(PLAIN)
    groups = data.groups.copy()
    groups[[1, 11]] = 0
    groups[[21]] = 5
    found = {each.kind: each for each in find.groups(replace(data, groups=groups))}
    assert found["groups-across-classes"].text == "1 of 37 groups has images of several classes"
    assert (
        found["groups-across-domains"].text == "1 of 37 groups has images in several domains: in training and in test"
    )
    assert found["groups-across-classes"].items == (Item((0, 1, 11), "'cat', 'dog'"),)
    assert [item.images for item in found["groups-across-domains"].items] == [(5, 21)]


def test_encodings_are_notes() -> None:
    data = dataset(PLAIN)
    found = [*find.encodings(data, {"misnamed": [3], "cmyk": [1, 2]})]
    assert [(each.kind, each.level) for each in found] == [("cmyk", "note"), ("misnamed", "note")]
    assert found[0].text == "2 images are in colours for print (CMYK): converted, and may look off"
    assert found[1].text == "1 image is of another format than the name says"
    assert [item.images for item in found[0].items] == [(1,), (2,)]
