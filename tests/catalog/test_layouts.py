"""Where each file of an archive belongs, in the layouts that copies of the datasets have."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest

from largedrop.catalog.facts import known, published
from largedrop.catalog.layouts import annotated, class_names, places_of
from largedrop.errors import UserError


def keys(name: str, path: str, annotations: Sequence[bytes] = (), removed: Sequence[str] = ()) -> list[str]:
    return [place.key for place in places_of(published(name), annotations, removed)(path.split("/"))]


@pytest.mark.parametrize(
    ("name", "path", "key"),
    [
        ("PACS", "kfold/art_painting/dog/pic_001.jpg", "art_painting/dog/pic_001.jpg"),
        ("PACS", "photo/house/1.png", "photo/house/1.png"),
        ("PACS", "pacs/images/Art Painting/Dog/1.JPG", "art_painting/dog/1.JPG"),
        ("VLCS", "VLCS/Caltech101/bird/a.jpg", "Caltech101/bird/a.jpg"),
        ("VLCS", "VLCS/PASCAL/crossval/4/imgs_1.jpg", "VOC2007/person/crossval_imgs_1.jpg"),
        (
            "OfficeHome",
            "OfficeHomeDataset/Real World/Alarm_Clock/00001.jpg",
            "Real World/Alarm_Clock/00001.jpg",
        ),
        ("OfficeHome", "office_home_dg/real_world/train/alarm_clock/1.jpg", "Real World/Alarm_Clock/train_1.jpg"),
        ("DomainNet", "clipart/t-shirt/clipart_328_000001.jpg", "clipart/t-shirt/clipart_328_000001.jpg"),
        ("ImageNet-V2", "imagenetv2-matched-frequency-format-val/3/ab.jpeg", "ImageNet-V2/n01491361/ab.jpeg"),
        ("ImageNet-A", "imagenet-a/n01498041/0.0_stingray.jpg", "ImageNet-A/n01498041/0.0_stingray.jpg"),
        ("ImageNet-Sketch", "sketch/n01440764/sketch_0.JPEG", "ImageNet-Sketch/n01440764/sketch_0.JPEG"),
        ("ObjectNet", "objectnet-1.0/images/air_freshener/1.png", None),
        ("ObjectNet", "objectnet-1.0/images/banana/1.png", "ObjectNet/banana/1.png"),
    ],
)
def test_images_are_found_in_every_layout(name: str, path: str, key: str | None) -> None:
    assert keys(name, path) == ([] if key is None else [key])


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("PACS", "README.txt"),
        ("PACS", "1.jpg"),
        ("PACS", "dog/1.jpg"),
        ("PACS", "photo/dog/notes.txt"),
        ("PACS", "photo/zebra/1.jpg"),
        ("PACS", "__MACOSX/kfold/photo/dog/._1.jpg"),
        ("PACS", "photo/train/dog/1.jpg"),
        ("VLCS", "VLCS/PASCAL/full/4/imgs_1.jpg"),
        ("ImageNet-A", "imagenet-a/n01440764/1.jpg"),
        ("ImageNet-A", "imagenet-a/6/1.jpg"),
        ("ImageNet-V2", "v2/1000/1.jpg"),
    ],
)
def test_what_is_no_image_of_the_dataset_belongs_nowhere(name: str, path: str) -> None:
    assert keys(name, path) == []


def test_listed_images_are_left_out() -> None:
    path = "clipart/bat/clipart_021_000001.jpg"
    assert keys("DomainNet", path, removed=[path]) == []
    assert keys("DomainNet", path, removed=["clipart/bat/clipart_021_000002.jpg"]) == [path]


COCO = {
    "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}, {"id": 3, "name": "car"}],
    "images": [
        {"id": "a", "file_name": "a.jpg", "location": 38},
        {"id": "b", "file_name": "some/b.jpg", "location": "100"},
        {"id": "c", "file_name": "c.jpg", "location": "7"},
    ],
    "annotations": [
        {"image_id": "a", "category_id": 1},
        {"image_id": "a", "category_id": 1},
        {"image_id": "a", "category_id": 2},
        {"image_id": "b", "category_id": 2},
        {"image_id": "b", "category_id": 3},
        {"image_id": "c", "category_id": 1},
        {"image_id": "gone", "category_id": 1},
    ],
}


def test_camera_traps_are_found_by_their_annotations() -> None:
    known = [json.dumps(COCO).encode()]
    assert keys("TerraIncognita", "eccv_18_all_images_sm/a.jpg", known) == [
        "location_38/cat/a.jpg",
        "location_38/dog/a.jpg",
    ]
    assert keys("TerraIncognita", "images/b.jpg", known) == ["location_100/dog/b.jpg"]
    assert keys("TerraIncognita", "images/c.jpg", known) == keys("TerraIncognita", "images/d.jpg", known) == []


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"images": 3}', b'{"categories": [{}]}', b"\xff"])
def test_other_annotations_are_refused(content: bytes) -> None:
    with pytest.raises(UserError, match="the annotations are not in the form of COCO with locations"):
        annotated(published("TerraIncognita"), [content])


def test_every_dataset_has_the_names_of_its_classes() -> None:
    for each in map(published, known()):
        assert len(class_names(each)) == each.class_count
        assert list(class_names(each)) == sorted(class_names(each))
