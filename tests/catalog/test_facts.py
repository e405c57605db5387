"""The facts of published datasets agree with each other, and with what is known elsewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from timm.data.imagenet_info import ImageNetInfo

import largedrop
from largedrop.catalog.facts import IMAGENET, Published, known, named_like, published
from largedrop.errors import UserError

PAPER = {"PACS": 9991, "VLCS": 10729, "OfficeHome": 15588, "TerraIncognita": 24330, "DomainNet": 586575}
SHIFTED = ("ImageNet-V2", "ImageNet-A", "ImageNet-R", "ImageNet-Sketch", "ObjectNet")

EVERY = [published(name) for name in known()]


def test_the_papers_datasets_and_the_sets_of_figure_1_are_known() -> None:
    assert known() == (*PAPER, *SHIFTED)
    assert {each.name: each.images for each in EVERY if each.kind == "domains"} == PAPER
    assert tuple(each.name for each in EVERY if each.kind == "shifted ImageNet") == SHIFTED
    assert [each.class_count for each in EVERY] == [7, 5, 65, 10, 345, 1000, 200, 200, 1000, 113]


@pytest.mark.parametrize("facts", EVERY, ids=lambda facts: facts.name)
def test_facts_agree_with_each_other(facts: Published) -> None:
    assert facts.images in (None, sum(facts.domains.values()))
    assert list(facts.classes) == sorted(set(facts.classes))
    assert list(facts.imagenet) == sorted(set(facts.imagenet))
    assert set(facts.imagenet) <= set(range(IMAGENET))
    assert sum(map(bool, (facts.classes, facts.imagenet, facts.classes_of))) == 1
    assert facts.aliases.keys() <= facts.domains.keys()
    assert len(facts.domain_names) == len({name.lower() for name in (*facts.domains, *sum(facts.aliases.values(), ()))})
    assert facts.layout in ("folders", "classes", "camera traps")
    assert bool(facts.files) != bool(facts.by_hand)
    assert all((facts.licence, facts.citation, facts.home.startswith("http"), facts.folder))


@pytest.mark.parametrize("facts", [each for each in EVERY if each.files], ids=lambda facts: facts.name)
def test_sources_have_checksums_of_the_right_length(facts: Published) -> None:
    assert len({file.name for file in facts.files}) == len(facts.files)
    assert {file.use for file in facts.files} <= {"images", "annotations", "remove"}
    for source in (source for file in facts.files for source in file.sources):
        assert source.url.startswith(("https://", "http://csr.bu.edu/"))
        assert re.fullmatch("([0-9a-f]{32})?", source.md5)
        assert re.fullmatch("([0-9a-f]{64})?", source.sha256)
        assert source.md5 or not source.url.startswith("http://"), "what comes unencrypted must have a checksum"
        assert source.size is None or source.size > 0


@pytest.mark.parametrize("subset", ["a", "r"])
def test_the_subsets_of_imagenet_are_timms(subset: str) -> None:
    names = ImageNetInfo("imagenet-1k").label_names()
    folder = Path(ImageNetInfo.__init__.__globals__["__file__"]).parent / "_info"
    expected = (folder / f"imagenet_{subset}_synsets.txt").read_text().split()
    assert [names[index] for index in published(f"ImageNet-{subset.upper()}").imagenet] == expected


def test_each_class_of_imagenet_is_right_for_one_class_of_objectnet_at_most() -> None:
    mapping = published("ObjectNet").classes_of
    indices = sum(mapping.values(), ())
    assert len(indices) == len(set(indices)) == 125
    told = ImageNetInfo("imagenet-1k").index_to_description
    found = {name: [told(index).split(",")[0] for index in mapping[name]] for name in ("banana", "alarm_clock")}
    assert found == {"banana": ["banana"], "alarm_clock": ["analog clock", "digital clock"]}


def test_names_are_found_as_people_write_them() -> None:
    assert published("imagenet_a") is published("ImageNet-A") is named_like("imagenet-a")
    assert named_like("office_home") is published("OfficeHome")
    assert published("VLCS").domain_names["pascal"] == "VOC2007"
    assert named_like("my-images") is None
    with pytest.raises(
        UserError, match=re.escape("no published dataset 'DomainNed' is known; did you mean 'DomainNet'?")
    ):
        published("DomainNed")


def test_facts_as_json_leave_out_what_is_not_known() -> None:
    facts = published("ObjectNet").to_json()
    assert facts["domains"] == {"ObjectNet": 0}
    assert facts["classes_of"]["alarm_clock"] == (409, 530)
    assert not {"images", "files", "classes"} & facts.keys()
    assert (Path(largedrop.__file__).parent / "catalog" / "facts.toml").is_file()
