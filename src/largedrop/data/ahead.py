"""Work on one item after the other, done by threads that run ahead of whoever takes the results."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

__all__ = ["in_order"]

Item = TypeVar("Item")

Output = TypeVar("Output")


def in_order(
    work: Callable[[Item], Output], items: Iterable[Item], ahead: int | None = None, workers: int | None = None
) -> Generator[Output, None, None]:
    """Yield ``work(item)`` in the order of ``items``, computed by threads.

    Pillow, hashlib and reading release the interpreter's lock. Close the iterator to stop early.

    Args:
        ahead: number of results that wait at most; by default two for each thread.
        workers: number of threads; by default as many as there are processors.
    """
    workers = workers or os.cpu_count() or 1
    pending: deque[Future[Output]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="largedrop")
    try:
        for item in items:
            pending.append(pool.submit(work, item))
            if len(pending) > (2 * workers if ahead is None else ahead):
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
