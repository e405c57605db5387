"""What a run does that finds no memory: it goes on with its images on the host, or ends with one line."""

from __future__ import annotations

from collections.abc import Callable

from ..config import Config
from ..errors import NoMemoryError, out_of_memory
from ..reporter import Relay, Reporter
from ..runs.run import Run
from ..runtime import forget_peak, free_memory
from .features import FeatureCache

__all__ = ["in_memory"]


def in_memory(attempt: Callable[[Reporter], Run], config: Config, features: FeatureCache, reporter: Reporter) -> Run:
    """Do ``attempt``, and once more where it finds no memory and the images lie in a GPU's: without them.

    Args:
        attempt: trains the run, from its last state if there is one; gets a reporter.
        config: config of the run, for the message.
        features: features of the run, whose views are then, and for the runs after it, made on the processor.
        reporter: receives the work, and a note where it is done again.

    Raises:
        NoMemoryError: there was none, or none without the images either.
    """
    for _ in range(2):
        counted = Relay(reporter)
        forget_peak(features.views.device)
        try:
            return attempt(counted)
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
        # Only here, where no exception is handled, is nothing kept of the attempt.
        free_memory()
        reporter.advance(-counted.done)
        if not features.leave_device():
            break
        free_memory()
        reporter.note("the GPU has too little memory: its images are removed, and views are made on the processor")
    raise NoMemoryError(
        f"a run of {config.model} at {config.size} px with {config.batch} images of each domain in a batch needs more "
        f"memory than {features.views.device} has free; a smaller --batch or --size needs less"
    )
