"""Freed memory stays with the process, and torch's threads are as many as before."""

from __future__ import annotations

import gc
import platform
import subprocess
import sys
import weakref

import pytest
import torch

from largedrop import runtime
from largedrop.runtime import forget_peak, free_memory, one_thread, peak_memory, without_collector

CPU = torch.device("cpu")

SCRIPT = """
import resource, torch
from largedrop.runtime import keep_freed_memory

def faults():
    for _ in range(10):
        torch.zeros(64 << 20, dtype=torch.uint8)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        torch.zeros(64 << 20, dtype=torch.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

torch.set_num_threads(1)
default = faults()
assert keep_freed_memory() and keep_freed_memory()
print(default, faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not GNU's")
def test_large_blocks_are_not_cleared_anew_by_the_kernel() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    default, kept = map(int, done.stdout.split())
    assert default > 1000  # 64 MiB in pages of 4 KiB, unless the kernel uses larger ones
    assert kept < default / 3  # none, but for a block that may still find its place


def test_other_c_libraries_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert runtime.keep_freed_memory.__wrapped__() is False


def test_the_collector_rests_inside_and_goes_on_outside_where_it_did() -> None:
    @without_collector()
    def fails() -> None:
        assert not gc.isenabled()
        raise ValueError("it")

    assert gc.isenabled()
    with pytest.raises(ValueError, match=r"^it$"):
        fails()
    assert gc.isenabled()
    with without_collector():
        with without_collector():
            pass
        assert not gc.isenabled()
    assert gc.isenabled()


def test_one_thread_inside_and_as_many_as_before_outside() -> None:
    torch.set_num_threads(2)
    with one_thread():
        assert torch.get_num_threads() == 1
        with one_thread():
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2


def test_an_exception_gives_the_threads_back() -> None:
    torch.set_num_threads(2)
    with pytest.raises(KeyError), one_thread():
        raise KeyError
    assert torch.get_num_threads() == 2


def test_what_a_cycle_keeps_is_freed_and_a_gpus_cache_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    class Node:
        other: Node

    one, two = Node(), Node()
    one.other, two.other = two, one
    kept = weakref.ref(one)
    del one, two
    calls: list[str] = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: calls.append("emptied"))
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    free_memory()
    assert kept() is None
    assert calls == []  # it would wake a GPU that nobody uses
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    free_memory()
    assert calls == ["emptied"]


@pytest.mark.skipif(platform.system() != "Linux", reason="no other system tells")
def test_the_largest_memory_is_of_what_was_done_since() -> None:
    large = torch.ones(512 << 20, dtype=torch.uint8)
    before = peak_memory(CPU)["host"]
    del large
    forget_peak(CPU)
    after = peak_memory(CPU)
    # Where another test has had freed memory kept, it is still there.
    assert before - after["host"] > 400 << 20 or before - after["host"] < 100 << 20
    torch.ones(512 << 20, dtype=torch.uint8)
    assert peak_memory(CPU)["host"] > 400 << 20
    assert set(after) == {"host"}
