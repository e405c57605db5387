"""``finetune``: fine-tune on a dataset and return the run."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from types import NoneType
from typing import Any

from .config import DEFAULT_RECIPE
from .data.classes import ood_notes
from .data.dataset import Dataset
from .data.views.batches import open_views
from .errors import RunError, check_type, several
from .fast_paths import FastPaths, chosen_paths, only
from .reporter import Reporter
from .runs.checkpoint import check_handed_over
from .runs.folder import named_before
from .runs.run import Run
from .tracking.following import Opens, followed, trackers_of
from .training.batches import step_pixels
from .training.device import choose_device
from .training.features import FeatureCache
from .training.loop import train
from .training.resolve import resolve

__all__ = ["finetune"]


def finetune(
    data: Dataset,
    test_domain: str | Sequence[str] | None = None,
    *,
    output: str | Path | None = None,
    recipe: str = DEFAULT_RECIPE,
    device: str = "auto",
    plain: bool = False,
    progress: Callable[[float], None] | None = None,
    track: str | Opens | Sequence[str | Opens] = (),
    **settings: Any,
) -> Run:
    """Fine-tune on every domain but the test domains, and score on these; or on every domain.

    Args:
        data: dataset from ``open_dataset``.
        test_domain: name of the domain for the o.o.d. score, which is never trained on or selected on; or names of
            several, each of which is scored; or None: every domain is trained on, and there is no o.o.d. score. One
            without labels is not scored.
        output: folder of the run; by default ``Config.run_name`` in ``largedrop-runs``. A finished run in it is
            returned, an interrupted one is resumed.
        recipe: ``robust`` (minutes on a processor), ``short`` (the paper's method in minutes) or ``paper`` (its
            protocol), changed by ``settings``.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:1``.
        plain: take no fast path (``fast_paths.PATHS``).
        progress: called with the work since the last call, in evaluated images.
        track: name of a tracker, such as ``tensorboard``; a class or function that opens a run in one
            (``tracking.base.Tracker``); or several of these. One that fails ends nothing.
        settings: fields of ``Config``: ``model``, ``dropout``, ``steps``, ``lr``, ``size``, ``seed``, …; ``epochs``
            instead of ``steps``, as in ``training.resolve.schedule_of``.

    Returns:
        The finished run; ``run.model`` is the checkpoint to use, for ``load_model``.

    Raises:
        UserError: an argument is invalid, or the model of a run that was finished before is gone or damaged.
        RunError: the run has collapsed or diverged.

    Warns:
        UserWarning: the GPU was not examined by ``largedrop doctor``, or the images do not fit in its memory, so that
            it may be slow; a test domain has no labels, lacks classes, or has some that no training domain has; or a
            tracker has failed.
    """
    caller, trackers = _Caller(progress), trackers_of(track)
    with only(FastPaths()) if plain else nullcontext(), followed(caller, trackers) as reporter:
        run = _finetune(data, test_domain, output, recipe, device, reporter, settings)
    check_handed_over(run)  # it may have been finished before
    return run


def _finetune(
    data: Dataset,
    test_domain: str | Sequence[str] | None,
    output: str | Path | None,
    recipe: str,
    device: str,
    reporter: Reporter,
    settings: Mapping[str, Any],
) -> Run:
    check_type(data, Dataset, "data must be a dataset from open_dataset")
    check_type(output, (str, Path, NoneType), "output must be the path of a folder")
    torch_device = choose_device(device)
    folders = [Path(output)] if output is not None else sorted(Path("largedrop-runs").glob("*"))
    data = named_before(data, (folder / "config.json" for folder in folders))
    tested = () if test_domain is None else several(test_domain, "test_domain must be the name of a domain, or names")
    config = resolve(data, torch_device, recipe=recipe, test_domain=tested, **settings)
    folder = Path(output) if output is not None else Path("largedrop-runs") / config.run_name
    pixels = step_pixels(config, config.split_of(data))
    chosen = chosen_paths(torch_device, pixels)
    if chosen.slow:
        reporter.note(chosen.why)
    for domain in filter(data.has_no_labels, tested):
        reporter.note(f"No image of '{domain}' has a label: it is not scored.")
    for line in ood_notes(data.lacking, data.domains, config.test_domains, config.unseen):
        reporter.note(line)
    features = FeatureCache(open_views(data, torch_device, reporter, pixels=pixels))
    if config.fit == "all":
        return train(config, data, folder, features=features, reporter=reporter)
    from .linear.runs import train_linear_runs

    ((_, run),) = train_linear_runs([(config, folder)], data, features.views, reporter)
    if isinstance(run, RunError):
        raise run
    return run


class _Caller(Reporter):
    """Calls a function with the work, and turns notes into warnings."""

    def __init__(self, progress: Callable[[float], None] | None) -> None:
        self.progress = progress

    def advance(self, work: float) -> None:
        if self.progress is not None:
            self.progress(work)

    def note(self, text: str) -> None:
        warnings.warn(text, stacklevel=5)
