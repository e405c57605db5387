"""Settings: what differs between runs, how it is printed and sorted, and what is chosen among."""

from __future__ import annotations

import itertools
from typing import Any

from tests.helpers import record

from largedrop.runs.record import Record
from largedrop.selection.settings import Setting, candidates_of, settings_of


def test_a_setting_is_what_differs_but_for_seed_and_domain() -> None:
    records = [
        record("a", 0, 0.5, 0.5, lr=0.1, size=96, left_out="c"),
        record("b", 1, 0.5, 0.5, lr=0.2, size=96, head="warm"),
    ]
    make = settings_of(records)
    assert make(records[0]) == Setting("fine-tuning", 0.0, (("lr", 0.1),))
    assert str(make(records[1])) == "fine-tuning, dropout 0, head warm, lr 0.2"
    assert len({make(records[0]), make(records[0]), make(records[1])}) == 2
    assert make(records[1]).without("lr") == Setting("fine-tuning", 0.0, (("head", "warm"),))
    assert make(records[1]).only("lr", "head") == "head warm, lr 0.2"


def test_settings_are_in_order_of_method_rate_and_value() -> None:
    settings = [
        Setting(method, rate, (("lr", lr),))
        for method, rate, lr in itertools.product(("linear-probe", "fine-tuning"), (0.9, 0.0), (0.5, 0.1, "a"))
    ]
    printed = [str(setting) for setting in sorted(settings, key=Setting.order)]
    assert printed[:4] == [
        "fine-tuning, dropout 0, lr 0.1",
        "fine-tuning, dropout 0, lr 0.5",
        "fine-tuning, dropout 0, lr a",
        "fine-tuning, dropout 0.9, lr 0.1",
    ]
    assert printed[6] == "linear-probe, dropout 0, lr 0.1"


def test_a_group_is_what_settings_share_without_the_tuned_ones() -> None:
    settings = [Setting("fine-tuning", 0.9, (("lr", lr), ("size", size))) for lr in (0.2, 0.1) for size in (96, 64)]
    found = candidates_of(settings, ("lr",))
    assert [str(group) for group in found] == ["fine-tuning, dropout 0.9, size 64", "fine-tuning, dropout 0.9, size 96"]
    assert [setting.value("lr") for setting in next(iter(found.values()))] == ["0.1", "0.2"]
    assert len(candidates_of(settings, ())) == 4


def test_plain_fine_tuning_has_no_dropout_and_no_rival() -> None:
    usual = (("block_dropout", 0.0), ("lr", 0.1), ("objective", "erm"), ("penalty", None))
    plain = Setting("fine-tuning", 0.0, usual)
    assert plain.baseline
    assert str(plain) == "fine-tuning, dropout 0, lr 0.1"
    for item in (("block_dropout", 0.1), ("objective", "vrex"), ("penalty", 2.5)):
        rival = Setting("fine-tuning", 0.0, tuple(sorted({**dict(usual), **dict([item])}.items())))
        assert rival.rival
        assert not rival.baseline
        assert str(rival) == f"fine-tuning, dropout 0, {rival.others}"
        assert f"{item[0]} {item[1]}" in rival.others
        assert rival.common == plain.common == Setting("fine-tuning", 0.0, (("lr", 0.1),))
        assert plain.order() < rival.order()
    assert not Setting("fine-tuning", 0.9, usual).baseline
    assert not Setting("ensemble", 0.0, usual).baseline


def test_masks_belong_to_dropout() -> None:
    records = [
        record("a", 0, 0.5, 0.5, dropout=dropout, masks=masks, objective=objective)
        for objective in ("erm", "vrex")
        for dropout, masks in ((0.0, 1), (0.9, 1), (0.9, 16))
    ]
    make = settings_of(records)
    assert [make(each).items for each in records[:3]] == [
        (("objective", "erm"),),
        (("masks", 1), ("objective", "erm")),
        (("masks", 16), ("objective", "erm")),
    ]
    assert make(records[2]).common == Setting("fine-tuning", 0.9)
    # One number of masks at all rates above 0 is no item, whatever is stored of runs without dropout.
    same = [each for each in records if (each.dropout, each.settings["masks"]) != (0.9, 1)]
    assert {settings_of(same)(each).items for each in same} == {(("objective", name),) for name in ("erm", "vrex")}


def test_the_probe_of_a_fine_tuning_is_the_same_whatever_head_it_began_from() -> None:
    def made(method: str, head: str, **more: Any) -> Record:
        return record("a", 0, 0.5, 0.5, method, head=head, **more)

    records = [made(name, head) for name in ("fine-tuning", "linear-probe") for head in ("warm", "zero")]
    make = settings_of(records)
    assert [make(each).items for each in records] == [(("head", "warm"),), (("head", "zero"),), (), ()]
    fits = [made("linear-probe", head, fit="probe") for head in ("warm", "random")]
    assert [settings_of(fits)(each).items for each in fits] == [(("head", "warm"),), (("head", "random"),)]


def test_alpha_is_never_compared_and_falls_in_the_order_of_settings() -> None:
    settings = [Setting("wise-ft", 0.9, (("alpha", alpha), ("lr", lr))) for alpha in (0.0, 0.5, 1.0) for lr in (1, 2)]
    found = candidates_of(settings, ())
    assert [str(group) for group in found] == ["wise-ft, dropout 0.9, lr 1", "wise-ft, dropout 0.9, lr 2"]
    assert [setting.alpha for setting in next(iter(found.values()))] == ["1", "0.5", "0"]
    assert len(candidates_of(settings)) == 1
    assert [setting.alpha for setting in found] == ["", ""]
