"""Options made from the config's fields: every field has one, or says where else it comes from."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import pytest
from tests.helpers import refusal
from typer.models import OptionInfo

from largedrop.cli import app, main
from largedrop.cli.compare import compare
from largedrop.cli.options import columns
from largedrop.cli.train import train
from largedrop.config import ABOUT, RECIPES, defaults_of


@pytest.mark.parametrize("command", [train, compare], ids=lambda command: str(command.__name__))
@pytest.mark.parametrize("name", ABOUT)
def test_every_field_is_on_the_command_line(name: str, command: Callable[..., None]) -> None:
    options = inspect.signature(command).parameters
    if ABOUT[name].option:
        assert options[name].default is None  # the recipe's is taken
    elif name == "also_tested":  # by several --test-domain
        assert {"test_domain", "test_domains"} & {*options}
    elif not ABOUT[name].elsewhere.startswith("it follows from") and (command, name) != (compare, "left_out"):
        assert {name, f"{name}s"} & {*options}, f"{name} cannot be set; let About.elsewhere say why"


@pytest.mark.parametrize("command", ["train", "compare"])
def test_help_says_what_each_option_is_and_its_defaults(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    said = "".join(capsys.readouterr().out.split())  # lines end where the terminal does
    for name, about in ABOUT.items():
        if not about.option:
            continue
        values = {recipe: defaults_of(recipe)[name] for recipe in RECIPES}
        robust = values["robust"]
        each = ",".join(f"{recipe}:{value}" for recipe, value in values.items())
        default = f"[default:{robust}]" if len(set(values.values())) == 1 else f"[default:{each}]"
        shown = "" if default in ("[default:None]", "[default:False]") else default
        assert f"--{name.replace('_', '-')}" in said
        assert "".join(about.help.split()) + shown in said


def test_a_switch_has_no_opposite(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--help"]) == 0
    assert "--no-" not in capsys.readouterr().out


def test_columns_of_a_table() -> None:
    assert columns([]) == {}
    assert columns(["label=species", " domain = a=b"]) == {"label": "species", "domain": " a=b"}
    assert refusal(columns, ["species"]) == "--column species must be like label=species"
    assert refusal(columns, ["label=a", "label=b"]) == "--column names two columns for the label"


def test_every_option_that_is_shown_by_another_word_has_its_name_said() -> None:
    """Without it typer 0.27 takes the word for the name: ``sweep --DATA``."""
    shown = [
        (
            parameter.name,
            (option.default, *(option.param_decls or ())),
        )  # within Annotated the first name is the default's
        for command in app.registered_commands
        for parameter in inspect.signature(command.callback, eval_str=True).parameters.values()  # type: ignore[arg-type]
        for option in getattr(parameter.annotation, "__metadata__", ())
        if isinstance(option, OptionInfo) and option.metavar
    ]
    assert ("data", ("--data",)) in shown
    for name, said in shown:
        assert said[:1] == (f"--{name.replace('_', '-')}",), name
