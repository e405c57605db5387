"""Splits: by seed, without overlap, stratified, and with groups on one side."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from tests.helpers import refusal

from largedrop.data.dataset import Dataset, IntArray, check_names
from largedrop.errors import UserError


class NoImages:
    """Stands where images are not looked at."""

    bound = 320

    def __len__(self) -> int:
        return 0

    def __getitem__(self, index: int, /) -> npt.NDArray[np.uint8]:
        raise IndexError(index)


def dataset(counts: npt.ArrayLike, shared_groups: bool = False) -> Dataset:
    """A dataset with ``counts[domain][class]`` images; if shared, the j-th of a class is one thing in every domain."""
    table = np.asarray(counts)
    cells = [
        (d, c, number) for d, row in enumerate(table.tolist()) for c, count in enumerate(row) for number in range(count)
    ]
    domain_ids, labels, numbers = np.array(cells, dtype=np.int64).T
    groups = labels * 1000 + numbers if shared_groups else np.arange(len(cells), dtype=np.int64)
    return Dataset(
        name="toy",
        classes=tuple(f"class{index}" for index in range(table.shape[1])),
        domains=tuple("abcdefgh"[: table.shape[0]]),
        labels=labels,
        domain_ids=domain_ids,
        groups=groups,
        keys=tuple(f"{d}/{c}/{number}" for d, c, number in cells),
        images=NoImages(),
        fingerprint="",
    )


@pytest.fixture
def plain() -> Dataset:
    return dataset([[50, 20, 5], [30, 40, 10], [100, 2, 3], [10, 10, 10]])


@pytest.fixture
def shared() -> Dataset:
    return dataset([[50, 20, 5]] * 4, shared_groups=True)


@pytest.mark.parametrize("name", ["plain", "shared"])
def test_a_split_is_a_partition_and_leaves_the_test_domain_out(name: str, request: pytest.FixtureRequest) -> None:
    data = request.getfixturevalue(name)
    for test_domain in data.domains:
        split = data.split(test_domain, seed=3)
        assert split.test_domains == (test_domain,)
        assert split.train_domains == tuple(domain for domain in data.domains if domain != test_domain)
        parts = [*split.train, split.iid, split.ood]
        assert sorted(np.concatenate(parts).tolist()) == list(range(len(data)))
        np.testing.assert_array_equal(split.ood, data.indices(test_domain))
        for domain, train in zip(split.train_domains, split.train, strict=True):
            assert set(data.domain_ids[train].tolist()) == {data.domain_index(domain)}
        names = [split.train_domains[number] for number in split.iid_domains]
        assert names == [data.domains[number] for number in data.domain_ids[split.iid]]
        for part in parts:
            assert part.dtype == np.int64
            assert (np.diff(part) > 0).all()


def test_a_split_depends_on_the_seed_alone(plain: Dataset) -> None:
    first, again, other = plain.split("a", 0), plain.split("a", 0), plain.split("a", 1)
    np.testing.assert_array_equal(first.iid, again.iid)
    for one, two in zip(first.train, again.train, strict=True):
        np.testing.assert_array_equal(one, two)
    assert set(first.iid.tolist()) != set(other.iid.tolist())
    # What is held out of a domain is the same whichever other domain is tested on.
    in_c = plain.domain_ids == plain.domain_index("c")
    held = [set(plain.split(domain, 0).iid.tolist()) & set(np.flatnonzero(in_c).tolist()) for domain in "abd"]
    assert held[0] == held[1] == held[2] != set()


def test_the_share_is_a_fifth_of_each_class_of_each_domain(plain: Dataset) -> None:
    split = plain.split("d", 0)
    for domain in range(3):
        for label in range(3):
            stratum = np.flatnonzero((plain.domain_ids == domain) & (plain.labels == label))
            held = np.isin(stratum, split.iid).sum()
            assert held == min(max(1, round(0.2 * len(stratum))), len(stratum) - 1)
    assert plain.split("d", 0, held_out=0.5).iid.size == pytest.approx(0.5 * 260, abs=5)


def test_at_least_one_image_is_on_each_side() -> None:
    data = dataset([[2, 3], [2, 2]])
    for seed in range(20):
        for share in (0.0, 0.2, 1.0):
            split = data.split("b", seed, held_out=share)
            assert sorted(set(data.labels[split.iid].tolist())) == [0, 1]
            assert sorted(set(data.labels[split.train[0]].tolist())) == [0, 1]


def test_groups_that_span_domains_stay_together(shared: Dataset) -> None:
    for seed in range(5):
        split = shared.split("a", seed)
        train = np.concatenate(split.train)
        assert not set(shared.groups[train].tolist()) & set(shared.groups[split.iid].tolist())
        held = [np.unique(shared.groups[split.iid[shared.labels[split.iid] == label]]).size for label in range(3)]
        assert held == [10, 4, 1]
        assert len(split.iid) == 3 * 15  # every drawing of each


def test_every_image_is_held_out_about_as_often() -> None:
    data = dataset([[40, 40], [2, 2]])
    share = np.mean([np.isin(np.arange(80), data.split("b", seed).iid) for seed in range(400)], axis=0)
    # 400 draws of probability 0.2: the standard error is 0.02
    assert abs(share.mean() - 0.2) < 1e-12
    assert np.abs(share - 0.2).max() < 5 * 0.02


def test_unknown_and_only_domain(plain: Dataset) -> None:
    assert refusal(plain.split, "A", 0) == "no domain 'A' in toy; did you mean 'a'? (there are: a, b, c, d)"
    assert refusal(plain.indices, plain.classes[0]) == (
        f"no domain '{plain.classes[0]}' in toy; which is a class here: are the levels class/domain/image? "
        "there are: a, b, c, d"
    )
    assert refusal(plain.indices, "sketch") == "no domain 'sketch' in toy; there are: a, b, c, d"
    said = refusal(dataset([[5, 5]]).split, "a", 0)
    assert said == "toy has only the domain 'a': testing on it leaves none to train on"


def test_check_names() -> None:
    check_names("class", ["a", "b"])
    with pytest.raises(UserError, match=r"^the class 'a' is named twice$"):
        check_names("class", ["a", "b", "a"])


def test_length_and_indices(plain: Dataset) -> None:
    assert len(plain) == 290
    assert plain.indices("c").tolist() == list(range(155, 260))


def test_a_domain_that_is_left_out_is_nowhere(plain: Dataset) -> None:
    whole, without = plain.split("a", 3), plain.split("a", 3, left_out="b")
    assert without.train_domains == tuple(name for name in whole.train_domains if name != "b")
    gone = set(plain.indices("b").tolist())
    for part in (*without.train, without.iid, without.ood):
        assert not gone & set(part.tolist())
    assert set(without.iid.tolist()) == set(whole.iid.tolist()) - gone  # who is held out does not change
    with pytest.raises(UserError, match="no domain 'z'"):
        plain.split("a", 3, left_out="z")


def test_a_domain_with_one_image_of_each_class_has_none_held_out() -> None:
    split = dataset([[5, 5], [1, 1], [5, 5]]).split("c", 0)
    assert split.train_domains == ("a", "b")
    assert split.iid_domains.tolist() == [0, 0]


def test_classes_that_a_domain_lacks() -> None:
    data = dataset([[5, 0, 5], [5, 1, 0], [5, 0, 0]])
    assert data.lacking == {"a": ("class1",), "b": ("class2",), "c": ("class1", "class2")}
    assert dataset([[5, 5]]).lacking == {}
    split = data.split("b", 0)
    assert sorted(set(data.labels[split.iid].tolist())) == [0, 2]
    assert sorted(set(data.labels[split.ood].tolist())) == [0, 1]
    held = data.split("a", 0).iid  # the single image of class1 is trained on
    assert sorted(set(data.labels[held].tolist())) == [0]


def test_splits_that_leave_nothing_to_learn_or_to_score() -> None:
    said = "without 'a', toy has only the class 'class0' to train on; two are needed"
    assert refusal(dataset([[5, 5], [5, 0], [5, 0]]).split, "a", 0) == said
    apart = dataset([[5, 5, 0], [5, 5, 0], [0, 0, 5]])
    said = "'c' has no class of the domains to train on: none of it could be predicted"
    assert refusal(apart.split, "c", 0) == said
    assert apart.split("a", 0).train_domains == ("b", "c")
    assert refusal(dataset([[5, 5], [1, 1], [5, 5]]).split, "a", 0, left_out="c") == (
        "without 'a' and 'c', toy has a single image of each class in each domain: none can be held out for the i.i.d. "
        "score"
    )


def test_a_split_that_was_given() -> None:
    parts = np.array([0, 0, 1, 2, 0, 0, 1, 1, *[0] * 10, 0, 2, 2, 1, 0, 0], dtype=np.int64)
    data = replace(dataset([[4, 4], [5, 5], [3, 3]]), parts=parts)
    split = data.split("c", 0)
    assert split.train[0].tolist() == [0, 1, 4, 5]
    assert split.iid[:3].tolist() == [2, 6, 7]
    assert len(split.train[1]) == 8  # of a domain without validation images a fifth is held out, by seed
    assert split.iid[3:].tolist() != data.split("c", 1).iid[3:].tolist()
    assert split.ood.tolist() == [19, 20]  # only what is for the test
    assert data.split("b", 0).ood.tolist() == list(range(8, 18))
    lines = data.split_table(split, 0, 0.2).splitlines()
    assert lines[:5] == [
        "key,split,used",
        "0/0/0,train,train",
        "0/0/1,train,train",
        "0/0/2,validation,iid",
        "0/0/3,test,",
    ]
    assert [line.rpartition("/")[2] for line in lines[-6:]] == [
        "0,train,", "1,test,ood", "2,test,ood", "0,validation,", "1,train,", "2,train,"
    ]  # fmt: skip
    for part in (1, 2):  # all of a domain held out, or for the test
        gone = replace(data, parts=np.where(data.domain_ids == 0, part, parts))
        assert refusal(gone.split, "c", 0) == "the split that was given has no image of 'a' to train on"
    only = replace(data, parts=np.where(data.labels == 1, 1, 0))  # a class that is held out only
    assert refusal(only.split, "c", 0) == "without 'c', toy has only the class 'class0' to train on; two are needed"


def test_one_group_of_each_class_cannot_be_held_out() -> None:
    data = dataset([[3, 3], [3, 3]])
    data = replace(data, groups=data.domain_ids * 2 + data.labels)
    assert refusal(data.split, "a", 0) == (
        "without 'a', toy has a single group of each class in each domain: none can be held out for the i.i.d. score"
    )


@pytest.mark.parametrize("name", ["plain", "shared"])
def test_several_test_domains_are_all_left_out(name: str, request: pytest.FixtureRequest) -> None:
    data = request.getfixturevalue(name)
    split, one = data.split(("c", "a"), seed=3), data.split("c", seed=3, left_out="a")
    assert (split.train_domains, split.test_domains) == (("b", "d"), ("c", "a"))
    for ours, theirs in zip((*split.train, split.iid), (*one.train, one.iid), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(split.ood, np.sort(np.concatenate([data.indices("a"), data.indices("c")])))
    assert [split.test_domains[number] for number in split.ood_domains] == [
        data.domains[number] for number in data.domain_ids[split.ood]
    ]
    np.testing.assert_array_equal(one.ood_domains, 0 * one.ood)


def test_without_a_test_domain_every_domain_is_trained_on(plain: Dataset) -> None:
    split = plain.split((), seed=3)
    assert (split.train_domains, split.test_domains) == (plain.domains, ())
    assert (len(split.ood), len(split.ood_domains)) == (0, 0)
    np.testing.assert_array_equal(np.sort(np.concatenate([*split.train, split.iid])), np.arange(len(plain)))
    for number, domain in enumerate("abcd"):
        np.testing.assert_array_equal(split.iid[split.iid_domains == number], _held_out(plain, domain))


def _held_out(data: Dataset, domain: str) -> IntArray:
    split = data.split("a" if domain != "a" else "b", seed=3)
    return split.iid[data.domain_ids[split.iid] == data.domain_index(domain)]


def test_one_domain_alone_can_be_trained_on_and_not_tested_on() -> None:
    data = dataset([[5, 5]])
    split = data.split((), 0)
    assert (split.train_domains, len(split.train[0]), len(split.iid), len(split.ood)) == (("a",), 8, 2, 0)
    assert refusal(data.split, "a", 0) == "toy has only the domain 'a': testing on it leaves none to train on"
    assert refusal(data.split, (), 0, 0.2, "a") == "without 'a', toy has no domain to train on"
    assert refusal(dataset([[1, 1]]).split, (), 0) == (
        "toy has a single image of each class in each domain: none can be held out for the i.i.d. score"
    )


def test_each_of_several_test_domains_must_have_what_is_trained_on() -> None:
    data = dataset([[5, 5, 0], [5, 5, 0], [0, 0, 5], [5, 5, 5]])
    assert data.split(("b", "d"), 0).test_domains == ("b", "d")
    assert (
        refusal(data.split, ("a", "b", "c", "d"), 0)
        == "without 'a' and 'b' and 'c' and 'd', toy has no domain to train on"
    )
    assert refusal(data.split, ("b", "zzz"), 0) == "no domain 'zzz' in toy; there are: a, b, c, d"
    assert (
        refusal(data.split, ("c", "d"), 0)
        == "'c' has no class of the domains to train on: none of it could be predicted"
    )
