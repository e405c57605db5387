"""The schedule of a run: at which steps it is evaluated, and the learning rate at each."""

from __future__ import annotations

import math

__all__ = ["Schedule"]


class Schedule:
    """What follows from the fields of a ``Config`` that say how long and at what rate it trains; see there."""

    steps: int
    eval_every: int
    schedule: str
    warmup: float
    decay_at: float
    decay_again_at: float

    @property
    def milestones(self) -> tuple[int, int]:
        """Steps from which the learning rate of schedule ``step`` is a tenth, and a hundredth."""
        return self._steps_in(self.decay_at), self._steps_in(self.decay_again_at)

    @property
    def warmup_steps(self) -> int:
        """W, the steps over which the learning rate rises."""
        return self._steps_in(self.warmup)

    def _steps_in(self, share: float) -> int:
        return math.ceil(round(self.steps * share, 6))  # 100 × 0.07 is a little more than 7

    def lr_factor(self, step: int) -> float:
        """Factor of the learning rates at ``step``, counted from 0: (step + 1) / W in the warm-up, then the schedule's.

        ``cosine`` is (1 + cos πt) / 2 with t from 0 to 1 over the steps after the warm-up (Loshchilov & Hutter, 2017,
        arXiv 1608.03983, equation 5, without restarts).
        """
        rising = self.warmup_steps
        if step < rising:
            return (step + 1) / rising
        if self.schedule == "cosine":
            return (1 + math.cos(math.pi * (step - rising) / max(1, self.steps - rising))) / 2
        return 0.1 ** sum(step >= milestone for milestone in self.milestones)

    @property
    def evaluations(self) -> tuple[int, ...]:
        """Steps after which the network is evaluated; the last is ``steps``."""
        return (*range(self.eval_every, self.steps, self.eval_every), self.steps)
