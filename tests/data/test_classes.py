"""What is said about classes that not every domain has."""

from __future__ import annotations

from largedrop.data.classes import alike_notes, named, ood_notes, opening_notes, unlearnable

DOMAINS = ("a", "b", "c")
LACKING = {"a": ["owl"], "b": ["owl", "emu"], "c": ["emu"]}


def test_many_names_are_cut() -> None:
    assert named(list("abcde")) == "'a', 'b', 'c', 'd', 'e'"
    assert named(list("abcdefg")) == "'a', 'b', 'c', 'd', 'e' and 2 more"


def test_a_class_cannot_be_learned_where_no_training_domain_has_it() -> None:
    assert unlearnable(LACKING, DOMAINS, "c") == ("owl",)
    assert unlearnable(LACKING, DOMAINS, "a") == ("emu",)
    assert unlearnable(LACKING, DOMAINS, "b") == ()
    assert unlearnable({"a": ["owl"]}, DOMAINS, "b", "c") == ("owl",)
    assert unlearnable({}, DOMAINS, "a", "b") == ()
    assert unlearnable({}, ("a",), "a") == ()


def test_names_that_differ_in_their_spelling_alone_are_told() -> None:
    assert list(alike_notes("classes", ["1", "12", "1-2", "2", "cat", "catfish"])) == []
    assert list(alike_notes("domains", ["day", "Day", "night"])) == [
        "domains: 'day', 'Day' are taken for different ones; are they the same, written differently?"
    ]
    for names in (["1", "1.0"], ["red fox", "red_fox"], ["fox", "ｆｏｘ"]):
        assert "taken for different" in next(alike_notes("classes", names))


def test_what_is_said_on_opening() -> None:
    assert list(opening_notes({}, 3, [])) == []
    many = {f"d{number}": ["owl"] for number in range(7)}
    (line,) = opening_notes(many, 3, [])
    assert line == (
        "classes: the 3 of all domains, each domain scored on those it has; 'd0' lacks 'owl'; 'd1' lacks 'owl'; "
        "'d2' lacks 'owl'; 'd3' lacks 'owl'; 'd4' lacks 'owl'; and 2 more domains lack some "
        "(--classes common leaves these out)"
    )
    assert list(opening_notes({}, 3, ["a/owl"])) == ["a single image, never held out where it is trained on: 'a/owl'"]


def test_what_is_said_of_an_accuracy() -> None:
    assert list(ood_notes({}, DOMAINS, ["a"], ["a"])) == []
    assert list(ood_notes(LACKING, DOMAINS, ["c"], ["c"])) == [
        "'c' lacks 'emu': o.o.d. accuracy there is over the classes it has.",
        "No domain trained on has 'owl' of 'c': its images count as wrong there.",
    ]
    assert list(ood_notes({"a": ["owl", "emu"], "b": ["owl", "emu"]}, DOMAINS, ["c"], ["c"])) == [
        "No domain trained on has 'emu', 'owl' of 'c': their images count as wrong there."
    ]
