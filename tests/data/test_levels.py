"""Levels of folders that are not domain/class/image."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product
from pathlib import Path

import pytest
from PIL import Image
from tests.helpers import list_images, refusal

TABLE = "or list the images in a table with the columns path, label and domain"


def made(root: Path, *levels: str) -> Path:
    """A folder with two images in each of the folders ``levels``, of which each is a level's names."""
    for folders in product(*(names.split(",") for names in levels)):
        (root / "/".join(folders)).mkdir(parents=True)
        for name in "ab":
            Image.new("RGB", (8, 8)).save(root / "/".join(folders) / f"{name}.png")
    return root


def notes(root: Path) -> Iterable[str]:
    return list_images(root).notes


@pytest.mark.parametrize(
    ("levels", "said"),
    [
        (
            ("caltech,sun,voc", "train,test", "cat,dog"),
            "the folders 'test', 'train' in 'caltech' are splits, not classes: put what is in them into caltech/cat …",
        ),
        (
            ("CALTECH,SUN", "crossval,full,test,train", "0,1,2"),
            "the folders 'crossval', 'full', 'test', 'train' in 'CALTECH' are splits, not classes: put what is in them "
            "into CALTECH/0 …",
        ),
        (
            ("a,b", "Training_set,Validation"),
            "the folders 'Training_set', 'Validation' in 'a' are splits, not classes: it is domain/class/image",
        ),
        (
            ("train,val", "sun,voc", "cat,dog"),
            "the outer folders 'train', 'val' are splits, and the classes lie a level deeper: put what is in them into "
            "a folder for each domain",
        ),
        (
            ("amazon,dslr", "images", "bike,mug"),
            "between domains and classes is a further level, 'images': put its folders ('bike', 'mug') directly into "
            "each domain",
        ),
        (
            ("dog,elephant,horse", "art_painting,photo,sketch"),
            "the levels are swapped: the outer folders are the domains, and the inner ones here are called "
            "'art_painting', 'photo', 'sketch': make it domain/class/image",
        ),
    ],
)
def test_levels_that_are_refused(tmp_path: Path, levels: tuple[str, ...], said: str) -> None:
    root = made(tmp_path / "data", *levels)
    assert refusal(list_images, root) == f"{root}: {said}, {TABLE}"


@pytest.mark.parametrize(
    ("levels", "said"),
    [
        (("train,test", "cat,dog"), "the domains are called 'test', 'train': splits of one domain are no domains"),
        (
            ("a,b", "cat,dog", "train,test"),
            "the folders 'test', 'train' inside the classes are taken together, as one class each",
        ),
        (
            ("a,b", "2019,2020", "cat,dog"),
            "every class has the same folders inside ('cat', 'dog'): if these are classes, a level is too much",
        ),
        (
            ("cat,dog", "d1,d2,d3"),
            "the 2 outer folders are taken for domains and the 3 inner ones for classes ('d1', 'd2', 'd3'): if it is "
            f"class/domain/image, make it domain/class/image, {TABLE}",
        ),
        (
            ("apple,bike,cup,desk,egg,fan", "left,middle,right"),
            "the 6 outer folders are taken for domains and the 3 inner ones for classes ('left', 'middle', 'right'): "
            f"if it is class/domain/image, make it domain/class/image, {TABLE}",
        ),
    ],
)
def test_levels_that_may_be_meant_otherwise_are_said(tmp_path: Path, levels: tuple[str, ...], said: str) -> None:
    assert said in notes(made(tmp_path / "data", *levels))


@pytest.mark.parametrize(
    "levels",
    [
        ("photo,sketch", "cat,dog"),
        ("d1,d2,d3", "cat,dog"),
        ("d1,d2,d3,d4,d5,d6,d7", "cat,dog"),
        ("city,coast", "bus,car,train"),
        ("a,b", "test,toast"),
        ("hospital_1,hospital_2", "normal,tumor", "x"),
        ("photo,sketch", "art,clipart"),
    ],
)
def test_levels_that_are_right_are_not_spoken_of(tmp_path: Path, levels: tuple[str, ...]) -> None:
    assert notes(made(tmp_path / "data", *levels)) == ()


def test_splits_beside_the_classes_that_they_hold(tmp_path: Path) -> None:
    root = made(made(tmp_path / "data", "a,b", "cat,dog"), "b", "train,test", "cat,dog")
    said = "the folders 'test', 'train' in 'b' are splits, not classes: put what is in them into b/cat …"
    assert refusal(list_images, root) == f"{root}: {said}, {TABLE}"


def test_splits_without_classes(tmp_path: Path) -> None:
    root = made(tmp_path / "data", "train,test")
    said = "the folders 'test', 'train' in 'all' are splits, not classes: it is domain/class/image"
    assert refusal(list_images, root) == f"{root}: {said}, {TABLE}"


def test_one_domain_with_a_level_of_splits_is_enough(tmp_path: Path) -> None:
    root = made(made(tmp_path / "data", "a,b", "cat,dog"), "c", "train,test", "cat,dog")
    assert refusal(list_images, root).startswith(f"{root}: the folders 'test', 'train' in 'c' are splits, not classes")


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ("d1_cat,d1_dog,d2_cat,d2_dog", "the classes are every pair of 'd1', 'd2' and 'cat', 'dog'"),
        (
            "red fox-day,red fox-night,hare-day,hare-night",
            "the classes are every pair of 'hare', 'red fox' and 'day', ",
        ),
        ("a_b_cat,a_b_dog,c_cat,c_dog", "the classes are every pair of 'a_b', 'c' and 'cat', 'dog'"),
        ("red_fox,arctic_fox,hare", ""),
        ("red_fox,arctic_fox,red_deer", ""),
        ("red_fox,arctic_fox", ""),
        ("cat,dog", ""),
    ],
)
def test_a_domain_and_a_class_in_one_name_are_noticed(tmp_path: Path, names: str, said: str) -> None:
    found = [note for note in notes(made(tmp_path / "all", names)) if "every pair" in note]
    assert [note.startswith(said) for note in found] == [True] * bool(said)
    assert not [note for note in notes(made(tmp_path / "two", "x,y", names)) if "every pair" in note]
