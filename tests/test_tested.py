"""Tests of largedrop.tested."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tests.helpers import refusal

from largedrop.config import Config, make_config


def config(**settings: Any) -> Config:
    return make_config(**{"data": "PACS", "fingerprint": "f00d", "test_domain": "sketch", **settings})


def test_several_test_domains_or_none() -> None:
    one, several = config(), config(also_tested=' "San Jose, CA",ink')
    assert (one.test_domains, one.unseen, one.split_key) == (("sketch",), ("sketch",), (("sketch",), 0, 0.2, ""))
    assert several.also_tested == '"San Jose, CA",ink'
    assert several.test_domains == ("sketch", "San Jose, CA", "ink")
    assert several.run_name.startswith("PACS-sketch-San Jose, CA-ink-d0.9-s0-")
    assert replace(several, left_out="photo").unseen == (*several.test_domains, "photo")
    assert several.digest() != one.digest()
    assert replace(several, also_tested="").digest() == one.digest()
    none = config(test_domain="")
    assert (none.test_domains, none.unseen) == ((), ())
    assert none.run_name == f"PACS-d0.9-s0-{none.digest()}"


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"also_tested": "ink,sketch"}, "the test domain 'sketch' is named twice"),
        ({"also_tested": "ink", "left_out": "ink"}, "left-out and test-domain are both 'ink'"),
        ({"also_tested": "ink", "test_domain": ""}, "also-tested 'ink' does not go without a test-domain"),
        (
            {"also_tested": '"ink'},
            "also-tested must be names separated by commas, in double quotes where they have a comma, not '\"ink'",
        ),
    ],
)
def test_test_domains_that_contradict_each_other(settings: dict[str, str], told: str) -> None:
    assert refusal(config, **settings) == told
