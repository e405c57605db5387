"""Launchers: they start workers, each of which takes the runs of a sweep that no other has.

What a worker does is the same wherever it is started (``largedrop sweep … --worker``): the folder of the sweep says
what is left (``lease``, ``experiments.tasks``), so workers of several launchers and machines share one. To add a
launcher is to write a class with the methods of ``follow.Workers``, its line here, and its name in
``cli/launching.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ...errors import UserError
from ...reporter import Reporter
from ..sweep import SweepPlan
from .follow import Workers, follow_workers
from .worker import Request, Worker

__all__ = ["Request", "launch"]


def launch(name: str, worker: Worker, planned: SweepPlan, request: Request, reporter: Reporter) -> None:
    """Start workers and wait until every run of a plan has ended.

    Args:
        name: ``ray`` or ``slurm``.
        reporter: receives the work of each run that ends, runs that were given up, and notes; asked whether to stop.

    Raises:
        UserError: the launcher is not installed or cannot be reached, its workers end without ending a run, or the
            folder cannot be written.
        Interrupted: the reporter asks to stop.
    """
    if not planned.pending:
        return
    try:
        worker.log.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write {worker.log}: {error.strerror or error}") from error
    with _WORKERS[name](worker, request, len(planned.pending)) as workers:
        follow_workers(workers, planned, worker.log, reporter)


def _ray(worker: Worker, request: Request, most: int) -> Workers:
    from .ray import RayWorkers

    return RayWorkers(worker, request, most)


def _slurm(worker: Worker, request: Request, most: int) -> Workers:
    from .slurm import SlurmWorkers

    return SlurmWorkers(worker, request, most)


_WORKERS: Mapping[str, Callable[[Worker, Request, int], Workers]] = {"ray": _ray, "slurm": _slurm}
