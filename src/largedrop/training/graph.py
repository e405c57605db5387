"""A training step as a CUDA graph: recorded once, then replayed without Python or a launch per kernel."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

import torch
from torch import Tensor

__all__ = ["GraphedStep"]


class GraphedStep:
    """Calls a training step; on a GPU from a CUDA graph, once it has been called a few times without.

    Every call is one step, on its own inputs, as if ``function`` had been called with them: the first ``warmup`` calls
    run it as it is (libraries choose kernels and optimisers make their state then, which cannot be recorded), the next
    one records it, which computes nothing, and from then on the record is replayed. The warm-up runs on the stream that
    is recorded later, so that autograd meets one stream only. Anywhere but on CUDA the function is simply called;
    inputs are checked and results copied there too, and that is what the tests run.

    Conditions on ``function``, since only its kernels are recorded, with their addresses and Python numbers:

    - It calls ``optimizer.zero_grad(set_to_none=True)`` before its backward pass, so that the gradients are allocated
      in the graph's own memory, and enters autocast itself, so that no cast weights outlive a step.
    - It reads nothing on the host: no ``float()``, no ``item()``, no shape that depends on values. No copy from memory
      that is not pinned, either. CUDA refuses to record those.
    - Whatever changes between steps is a tensor that is changed in place: an input, a weight, the learning rate. A
      number would stay what it was when the step was recorded. So a parameter group's ``lr`` is a tensor on the device,
      and a schedule does ``group["lr"].fill_(rate)`` rather than assign. Optimisers that read it there, and count their
      steps there, are Adam and AdamW with ``capturable=True`` and SGD with ``fused=True`` (without, it reads ``lr`` on
      the host); SGD's first step, which starts the momentum, is why there is at least one step of warm-up.
    - Modules stay in the mode (training or evaluation) and tensors at the addresses that were recorded: load a state
      dict by copying into the parameters, as ``load_state_dict`` does, and never assign others.

    Random numbers (dropout) come from torch's default generator of the device. A graph records neither its seed nor its
    offset: a replay first fills them into tensors that the recorded kernels read, and moves the generator on as the
    step would have done. So ``torch.manual_seed`` between two calls has its effect, and a replayed step draws what the
    same step would draw without a graph. Inside ``function`` it must not be called.

    Where recording fails, that call and all later ones run the function as it is, and ``note`` is told why.

    Args:
        function: does one step, from inputs to results.
        warmup: number of calls before the recorded one, 1 or more.
        note: receives a line for the user where the step cannot be recorded.

    Raises:
        ValueError: ``warmup`` is less than 1.
    """

    def __init__(
        self,
        function: Callable[..., tuple[Tensor, ...]],
        device: torch.device,
        warmup: int = 3,
        note: Callable[[str], None] = lambda text: None,
    ) -> None:
        if warmup < 1:
            raise ValueError(f"warmup must be 1 or more, not {warmup}")
        self._function = function
        self._device = device
        self._note = note
        self._graphed = device.type == "cuda"
        self._left: float = warmup
        self._form: list[tuple[tuple[int, ...], torch.dtype]] | None = None
        self._inputs: tuple[Tensor, ...] = ()
        self._outputs: tuple[Tensor, ...] = ()
        self._graph: torch.cuda.CUDAGraph | None = None

    @property
    def refused(self) -> bool:
        """Whether recording was tried and failed."""
        return self._left == math.inf

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Do one step.

        Args:
            inputs: tensors with the shapes and types of the first call, on any device; copied without synchronisation
                from pinned memory or from the same device.

        Returns:
            Detached copies of the results, which no later step overwrites. Keep them on the device, and read many at
            once (``torch.stack(losses).tolist()``).

        Raises:
            ValueError: an input's shape or type differs from that of the first call.
        """
        self._check(inputs)
        if not self._graphed:
            return _copies(self._function(*inputs))
        if not self._inputs:
            self._inputs = tuple(torch.empty_like(each, device=self._device) for each in inputs)
        for static, given in zip(self._inputs, inputs, strict=True):
            static.copy_(given, non_blocking=True)
        if self._left > 0:
            self._left -= 1
            return self._warm_up()
        if self._graph is None:
            self._record()
        if self._graph is None:
            return self._warm_up()
        self._graph.replay()
        return _copies(self._outputs)

    def close(self) -> None:
        """Free the record, its memory, the inputs and the results, and forget the function; no call may follow.

        The function is often a method of what owns this object, and that cycle would keep a network and its graph in
        the device's memory until Python's collector happens to come.
        """
        if self._graph is not None:
            self._graph.reset()
        self._graph, self._inputs, self._outputs, self._function = None, (), (), _closed

    def _check(self, inputs: tuple[Tensor, ...]) -> None:
        form = [(tuple(each.shape), each.dtype) for each in inputs]
        if self._form is None:
            self._form = form
        if form != self._form:
            given, first = (", ".join(f"{shape} {dtype}" for shape, dtype in each) for each in (form, self._form))
            raise ValueError(f"the step was first called with {first} and is now called with {given}")

    def _warm_up(self) -> tuple[Tensor, ...]:
        """Call the function on the side stream; the current stream waits for it, the host does not."""
        here = torch.cuda.current_stream(self._device)
        side = _side_stream(self._device)
        side.wait_stream(here)
        with torch.cuda.stream(side):
            outputs = self._function(*self._inputs)
        here.wait_stream(side)
        # Copied on the current stream: the side stream may use the originals' memory again only after the next wait.
        return _copies(outputs)

    def _record(self) -> None:
        graph, here = torch.cuda.CUDAGraph(), torch.cuda.current_stream(self._device)
        drawn = torch.cuda.get_rng_state(self._device)
        side = _side_stream(self._device)
        try:
            # Other threads may use the device meanwhile (pin memory for the next batch); only this thread is recorded.
            with _no_collection(), torch.cuda.graph(graph, stream=side, capture_error_mode="thread_local"):
                outputs = self._function(*self._inputs)
                self._outputs = tuple(each.detach() for each in outputs)
            self._graph = graph
        except RuntimeError as error:
            self._left, self._outputs = math.inf, ()
            # A recording that failed may leave torch's generator in the state of being recorded, in which it refuses
            # to draw. The gradients, in the record's memory, are dropped by the function itself.
            fresh = torch.Generator(self._device).graphsafe_get_state()
            torch.cuda.default_generators[self._device.index].graphsafe_set_state(fresh)
            torch.cuda.set_rng_state(drawn, self._device)
            # What the step met first; the end of a recording then only says that there was something.
            why = str(error.__context__ or error).partition("\n")[0]
            self._note(f"training steps are not recorded as a CUDA graph, and may take longer: {why}")
        finally:
            torch.cuda.set_stream(here)  # torch leaves the other one current where the end of a recording fails


@cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    """The stream of all recordings on a device: libraries keep memory for each stream that they have met."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


@contextmanager
def _no_collection() -> Iterator[None]:
    """Python's collector comes before the block and not within: a CUDA graph that it frees ends any recording."""
    gc.collect()
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _closed(*inputs: Tensor) -> tuple[Tensor, ...]:
    raise RuntimeError("the step was closed")


def _copies(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(each.detach().clone() for each in tensors)
