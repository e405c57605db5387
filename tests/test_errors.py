"""Errors: what is nearest to a misspelt name, and how that is said."""

from __future__ import annotations

import pytest

from largedrop.errors import CollapseError, Interrupted, UserError, nearest, one_of, out_of_memory, unanswered


@pytest.mark.parametrize(
    ("name", "valid", "found"),
    [
        ("skech", ["art_painting", "cartoon", "sketch"], "sketch"),
        ("SKETCH", ["photo", "sketch"], "sketch"),
        ("photo", ["Photo", "PHOTO"], "Photo"),
        ("real world", ["Art", "Real World"], "Real World"),
        ("xyz", ["art_painting", "sketch"], None),
        ("", ["a"], None),
        ("a", [], None),
    ],
)
def test_nearest(name: str, valid: list[str], found: str | None) -> None:
    assert nearest(name, iter(valid)) == found


def test_one_of_names_the_nearest_and_all_that_is_valid() -> None:
    assert one_of("skech", iter(["cartoon", "sketch"])) == "did you mean 'sketch'? (there are: cartoon, sketch)"
    assert one_of("xyz", ["cartoon", "sketch"]) == "there are: cartoon, sketch"


def test_one_of_cuts_long_lists_and_counts_them() -> None:
    valid = [f"class{number:02d}" for number in range(13)]
    assert one_of("zzz", valid[:12]) == "there are: " + ", ".join(valid[:12])
    assert one_of("zzz", valid) == "there are: " + ", ".join(valid[:12]) + ", … (13 in all)"
    assert one_of("class12", valid, most=2) == "did you mean 'class12'? (there are: class00, class01, … (13 in all))"


def test_a_collapse_is_a_users_error_and_an_interruption_is_none() -> None:
    assert issubclass(CollapseError, UserError)
    assert not issubclass(Interrupted, UserError)
    assert not issubclass(UserError, (ValueError, OSError))


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (MemoryError(), True),
        (RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory: you …"), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
        (ValueError("a memory"), False),
    ],
)
def test_what_says_that_memory_was_full(error: Exception, full: bool) -> None:
    assert out_of_memory(error) is full


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (OSError(5, "Input/output error", "/shared/run"), "/shared/run: Input/output error; the file system failed"),
        (TimeoutError(110, "Connection timed out"), "Connection timed out; the file system failed"),
        (OSError(28, "No space left on device"), ""),
        (FileNotFoundError(2, "No such file or directory"), ""),
        (UserError("cannot write x"), ""),
    ],
)
def test_what_says_that_a_file_system_did_not_answer(error: Exception, told: str) -> None:
    assert unanswered(error).partition(" or ")[0] == told
