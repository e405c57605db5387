"""Detection of collapsed runs, whose representation has shrunk to zero, and of diverged runs."""

from __future__ import annotations

import math
from collections import deque
from typing import Any

from ..errors import CollapseError

__all__ = ["CollapseWatch"]

WINDOW = 20
"""Number of steps over which the loss and the representation's size are averaged."""

EXPLODED = 10.0
"""A loss above this multiple of log(classes) is that of weights that have grown, not of guessing."""

SHRUNK = 0.1
"""A representation below this share of its first size has collapsed."""

CHANCE = 0.9
"""A loss above this share of log(classes) is that of guessing."""


class CollapseWatch:
    """Follows the loss and the root mean square of the representation.

    Dropout at rate λ multiplies the gradient's noise by λ/(1−λ). At too large a step size the network learns to zero
    its representation, since that removes the noise: the loss then stays at log(classes).

    Args:
        dropout: dropout rate λ, for the message.
        lr: learning rate, for the message.
        warm: whether the run started from a fitted head, for the message.
    """

    def __init__(self, classes: int, dropout: float, lr: float, warm: bool) -> None:
        self.chance = math.log(classes)
        self.dropout, self.lr, self.warm = dropout, lr, warm
        self.first: float | None = None
        self.losses: deque[float] = deque(maxlen=WINDOW)
        self.sizes: deque[float] = deque(maxlen=WINDOW)

    def see(self, step: int, loss: float, size: float) -> None:
        """Add a step: its loss in nats, and the root mean square of its representation before dropout.

        Raises:
            CollapseError: the run has collapsed or diverged; the message says what to change.
        """
        if not (math.isfinite(loss) and math.isfinite(size)):
            raise CollapseError(f"the run diverged at step {step}: the loss is {loss}. {self._advice()}")
        if self.first is None:
            self.first = size
        self.losses.append(loss)
        self.sizes.append(size)
        if len(self.losses) < WINDOW:
            return
        recent, share = sum(self.losses) / WINDOW, sum(self.sizes) / WINDOW / max(self.first, 1e-30)
        if share < SHRUNK and recent > EXPLODED * self.chance:
            raise CollapseError(f"the run diverged at step {step}: the loss is {recent:.3g}. {self._advice()}")
        if share < SHRUNK and recent > CHANCE * self.chance:
            raise CollapseError(
                f"the run collapsed at step {step}: its representation has shrunk to {share:.1%} of its first size and "
                f"its loss is {recent:.2f}, that of guessing (log of the classes: {self.chance:.2f}). {self._advice()}"
            )

    def state(self) -> dict[str, Any]:
        """The state for ``load``, as JSON types."""
        return {"first": self.first, "losses": list(self.losses), "sizes": list(self.sizes)}

    def load(self, state: dict[str, Any]) -> None:
        """Load a state.

        Raises:
            KeyError, TypeError, ValueError: the state is of another kind.
        """
        self.first = None if state["first"] is None else float(state["first"])
        self.losses = deque(map(float, state["losses"]), maxlen=WINDOW)
        self.sizes = deque(map(float, state["sizes"]), maxlen=WINDOW)

    def _advice(self) -> str:
        lower = f"lower --lr (it is {self.lr:g})"
        if self.dropout == 0:
            return f"Plain fine-tuning too fails at this rate: {lower}."
        warm = "" if self.warm else "start from --head warm, "
        return f"With dropout {self.dropout:g}, {warm}{lower} or lower --dropout."
