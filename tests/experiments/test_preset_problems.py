"""All that can be wrong with a preset of one's own, and how it is told."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.experiments.presets import PLAIN, written

from largedrop.config import OBJECTIVES
from largedrop.errors import UserError
from largedrop.experiments.preset import preset_names, read_preset
from largedrop.experiments.preset_problems import FIELDS
from largedrop.valid import choice


def refusal(source: str | Path) -> str:
    with pytest.raises(UserError) as caught:
        read_preset(source)
    return str(caught.value)


def test_a_misspelt_name_names_the_nearest() -> None:
    there = ", ".join(preset_names())
    assert refusal("paper-figur-2") == (
        f"no preset 'paper-figur-2' and no such file; did you mean 'paper-figure-2'? (there are: {there})"
    )


def test_files_that_are_none(tmp_path: Path) -> None:
    path = written(tmp_path, "title = \n")
    assert refusal(path).startswith(f"{path} is not a TOML file: ")
    path.write_bytes(b'title = "\xff"\n')
    assert refusal(path).startswith(f"{path} is not a TOML file: ")
    assert refusal(tmp_path).startswith(f"no preset '{tmp_path}' and no such file; ")
    assert refusal(written(tmp_path, PLAIN + "[grid]\nlr = [1]\nlr = [2]\n")).startswith(f"{path} is not a TOML file: ")


def test_everything_that_is_wrong_is_said_at_once(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        """
titel = "Mine"
recipe = "long"
test_domains = ["a", "b", "a"]
leave_out = "photo"
afterwards = ["acros"]
[settings]
left_out = "a"
steps = 0
lr = 1e-3
droput = 0.5
precision = "float32"
model = 50
[grid]
lr = [1e-3, 1e-2]
dropout = [0, 0.5, 0.0, 1.0]
seed = []
weight_decay = 1e-4
batch = [8, "many"]
[small]
jobs = 2
test_domains = []
afterwards = "across"
[small.settings]
held_out = 2.0
objective = "irmv1"
""",
    )
    assert refusal(path).splitlines() == [
        f"{path}: 22 mistakes",
        "  titel: unknown key; did you mean 'title'? (there are: title, figure, recipe, settings, grid, variants, "
        "test_domains, leave_out, afterwards, small)",
        "  title: a preset needs one, a line that says what is compared",
        "  recipe: unknown recipe 'long'; there are: robust, short, paper",
        "  settings.left_out: no preset sets it; say leave_out = true beside test_domains",
        "  settings.steps: steps must be a whole number from 1 to 10**7, not 0",
        f"  settings.droput: unknown field; did you mean 'dropout'? (there are: {', '.join(FIELDS)})",
        "  settings.precision: no preset sets it; it is given with --precision",
        "  settings.model: model must be a name, not 50",
        "  grid.lr: it is in settings too; keep one of them",
        "  grid.dropout: 0.0 is named twice",
        "  grid.dropout: dropout must be in [0, 1), not 1.0",
        "  grid.seed: an empty list leaves nothing to run",
        "  grid.weight_decay: must be a list, not 0.0001; what every run has belongs in settings",
        "  grid.batch: batch must be a whole number from 1 to 10**7, not 'many'",
        "  test_domains: 'a' is named twice",
        "  leave_out: must be true or false, not 'photo'",
        "  afterwards: nothing is called 'acros'; did you mean 'across'? (there are: across, interpolation)",
        "  small.jobs: unknown key; there are: recipe, settings, grid, variants, test_domains, leave_out, afterwards",
        "  small.settings.held_out: held-out must be in (0, 1), not 2.0",
        f"  small.settings.objective: objective must be {choice(*OBJECTIVES)[0]}, not 'irmv1'",
        "  small.test_domains: an empty list leaves nothing to run",
        "  small.afterwards: must be a list of names, not 'across'",
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("figure = 2\n", "figure: must be text, not 2"),
        ("small = 'yes'\n", "small: must be a table [small], not 'yes'"),
        ("settings = 1\n", "settings: must be a table [settings], not 1"),
        ("test_domains = 'a'\n", "test_domains: must be 'all' or a list of names, not 'a'"),
        (
            "[settings]\ntest_domain = 'a'\n",
            "settings.test_domain: no preset sets it; name the domains in test_domains",
        ),
        ("[settings]\nlr = nan\n", "settings.lr: lr must be above 0, not nan"),
        ("[settings]\nseed = true\n", "settings.seed: seed must be a whole number from 0 to 2**32 - 1, not True"),
        ("variants = []\n", "variants: must be tables [[variants]], one or more"),
        ("[[variants]]\ndropout = 0\n[[variants]]\ndropout = 0.0\n", "variants[2]: the same as variants[1]"),
        (
            "[[variants]]\ndropout = 0\n[[variants]]\ndropout = 0.9\nlr = 1\n",
            "variants[1]: it lacks lr, which other variants set",
        ),
        ("[grid]\nlr = [1]\n[[variants]]\nlr = 2\n", "variants.lr: it is in grid too; keep one of them"),
        (
            "[[variants]]\nlr = 2\n[small.settings]\nlr = 1\n",
            "small.settings.lr: the variants set it too; give [small] variants of its own",
        ),
    ],
)
def test_one_mistake_is_one_line(tmp_path: Path, text: str, problem: str) -> None:
    path = written(tmp_path, PLAIN + text)
    assert refusal(path) == f"{path}: {problem}"


def test_fields_that_contradict_each_other_are_said_for_each_scale_once(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        PLAIN + "[settings]\ndecay_at = 0.5\n[grid]\nseed = [0, 1]\nfit = ['all', 'probe']\n"
        "objective = ['vrex']\n[small.settings]\ndecay_again_at = 0.25\nobjective = 'erm'\n",
    )
    assert refusal(path).splitlines() == [
        f"{path}: 2 mistakes",
        "  objective 'vrex' does not go with fit 'probe'",
        "  small: decay-again-at (0.25) comes before decay-at (0.5)",
    ]
