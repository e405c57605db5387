"""Workers as tasks of Ray, on a cluster that is there or on this machine."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

from ...errors import UserError
from .worker import Request, Worker

__all__ = ["RayWorkers"]

STORE = 80_000_000
"""Bytes of memory for Ray's objects on this machine, the least that it takes: workers share a folder and no objects."""

ANSWER = 40.0
"""Seconds in which the head must answer: after sixty without it Ray ends this process with a page of its own."""

SAVING = 60.0
"""Seconds that workers get to save their runs."""


class RayWorkers:
    """Workers as Ray's tasks; see ``follow.Workers``.

    Args:
        most: largest number of workers that would have a run.

    Raises:
        UserError: Ray is not installed, cannot be reached, or has no room for a worker.
    """

    def __init__(self, worker: Worker, request: Request, most: int) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # as will be Ray's default
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "error")  # what it tries while there is no answer
        try:
            import ray
        except ImportError as error:
            raise UserError('--launcher ray needs Ray: pip install "largedrop[ray]"') from error
        self._ray: Any = ray
        self._where = f"the Ray cluster at {request.address}" if request.address else "Ray on this machine"
        self._refs: list[Any] = []
        with _handlers_kept():
            self._connect(request)
        try:
            self.jobs, gpus = self._room(request, most)
        except BaseException:
            ray.shutdown()
            raise
        self._log = worker.log / "ray.log"
        self._worker = worker
        self._task = ray.remote(
            num_cpus=request.cpus, num_gpus=gpus, max_retries=0, max_calls=1, scheduling_strategy="SPREAD"
        )(_work)

    def _connect(self, request: Request) -> None:
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
        if request.address is None:
            options |= {"include_dashboard": False, "object_store_memory": STORE}
        try:
            self._ray.init(address=request.address or "local", **options)
        except Exception as error:  # Ray raises what it gets, of many kinds
            said = str(error).strip().split("\n")[0]
            raise UserError(f"{self._where} cannot be reached: {said or type(error).__name__}") from error

    def _room(self, request: Request, most: int) -> tuple[int, float]:
        """The number of workers, and the share of a GPU for each.

        Raises:
            UserError: no node has room for one.
        """
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        gpus = request.gpus
        if gpus is None:
            gpus = 1.0 if any(node.get("GPU") for node in nodes) else 0.0
        places = [
            min(node.get("CPU", 0.0) // request.cpus, node.get("GPU", 0.0) // gpus if gpus else float("inf"))
            for node in nodes
        ]
        if not sum(places):
            asked = f"{request.cpus} core(s)" + (f" and {gpus:g} GPU(s)" if gpus else "")
            raise UserError(f"no node of {self._where} has {asked} for a worker; --cpus and --gpus say what it gets")
        return min(request.jobs or int(sum(places)), most), gpus

    def start(self, count: int) -> None:
        """See ``follow.Workers``."""
        self._refs += [self._task.remote(self._worker) for _ in range(count)]

    def alive(self) -> int:
        """See ``follow.Workers``."""
        answers: list[int] = []
        asking = threading.Thread(target=lambda: answers.append(self._waiting()), daemon=True)
        asking.start()
        asking.join(ANSWER)
        if not answers:
            raise UserError(f"{self._where} does not answer any more; the same command goes on with what is left")
        return answers[0]

    def _waiting(self) -> int:
        self._ray.nodes()  # of the head, which a wait does not ask
        if self._refs:
            ended, self._refs = self._ray.wait(self._refs, num_returns=len(self._refs), timeout=0, fetch_local=False)
            for ref in ended:
                self._keep_error(ref)
        return len(self._refs)

    def _keep_error(self, ref: Any) -> None:
        """Write into a log what a worker failed with, where it could not."""
        try:
            self._ray.get(ref)
        except self._ray.exceptions.RayError as error:
            with self._log.open("a", encoding="utf-8") as log:
                print(f"{type(error).__name__}: {str(error).strip().split(chr(10))[-1]}", file=log)

    def leave(self) -> str:
        """See ``follow.Workers``."""
        for ref in self._refs:
            self._ray.cancel(ref, force=False)  # as Ctrl-C: each saves its run
        self._ray.wait(self._refs, num_returns=len(self._refs), timeout=SAVING)
        return "the workers have saved their runs"

    def __enter__(self) -> RayWorkers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        with _handlers_kept():
            self._ray.shutdown()


def _work(worker: Worker) -> int:
    return worker()


@contextmanager
def _handlers_kept() -> Iterator[None]:
    """Within the block, Ray may set its own handler of SIGTERM; the command's is set again."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
