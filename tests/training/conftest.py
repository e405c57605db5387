"""What the tests of the training share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from largedrop.runtime import one_thread


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Networks this small gain nothing from a second core, and wait for it where it is busy."""
    with one_thread():
        yield
