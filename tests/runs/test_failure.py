"""What a run that was given up leaves in its folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from largedrop.errors import CollapseError, RunError, UserError
from largedrop.runs.failure import FAILURE_FILE, forget_failure, read_failure, write_failure


@pytest.mark.parametrize(("error", "trace"), [(CollapseError("it shrank"), ""), (RunError("cuDNN is tired"), "in …\n")])
def test_a_failure_is_read_as_it_was_written_and_forgotten(tmp_path: Path, error: RunError, trace: str) -> None:
    assert read_failure(tmp_path) is None
    write_failure(tmp_path, error, trace)
    found = read_failure(tmp_path)
    assert found is not None
    assert (type(found[0]), str(found[0]), found[1]) == (type(error), str(error), trace)
    for _ in range(2):
        forget_failure(tmp_path)
        assert read_failure(tmp_path) is None


@pytest.mark.parametrize("content", ["", "{", "[]", '{"reason": 3, "trace": ""}', '{"kind": "collapsed"}'])
def test_a_failure_that_cannot_be_read_is_none(tmp_path: Path, content: str) -> None:
    (tmp_path / FAILURE_FILE).write_text(content)
    assert read_failure(tmp_path) is None


def test_a_failure_that_cannot_be_removed(tmp_path: Path) -> None:
    (tmp_path / FAILURE_FILE).mkdir()
    with pytest.raises(UserError, match=r"^cannot remove .*failure\.json, which is a folder; remove it$"):
        forget_failure(tmp_path)
