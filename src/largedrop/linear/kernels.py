"""Steps of SGD on a group of linear models that read the same batches under the same masks, compiled by numba.

Two passes over the kept units do nearly all the work: x̃ W for the logits and x̃ᵀ E for the gradients. Both add up rows
of a table, each times a number, and keep sums of up to 64 columns in registers (``_adding``): what dropout removes
costs nothing. Every column, that is one class of one setting, is summed by itself in a fixed order, so its bits do not
depend on what is trained beside it. numba's loops do not get there by themselves; a few are written for LLVM directly.

Importing this module imports numba. What it compiles when first called is kept next to this file.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
import numpy as np
import numpy.typing as npt
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

__all__ = ["LANES", "compiled_once", "train"]

Function = TypeVar("Function", bound=Callable[..., Any])
Floats = npt.NDArray[Any]
"""float32, or float64 where exactness is tested; one type in a call."""
Longs = npt.NDArray[np.int64]
Ints = npt.NDArray[np.int32]

LANES = 16
"""Columns come in blocks of this many."""
_WIDEST = 4
"""Blocks whose sums are kept in registers together."""
_OPTIONS: Any = {"nogil": True, "error_model": "numpy"}  # no fastmath: results would depend on the processor
_INDEX, _INT32 = ir.IntType(64), ir.IntType(32)


def compiled_once(function: Function) -> Function:
    """Compile when first called, and keep the result where that is possible."""
    try:
        return cast(Function, numba.njit(cache=True, **_OPTIONS)(function))
    except (OSError, RuntimeError) as error:
        warnings.warn(
            f"the compiled kernels of linear training cannot be kept, so every process compiles them anew: {error}",
            RuntimeWarning,
            stacklevel=2,
        )
        return cast(Function, numba.njit(**_OPTIONS)(function))


_written = cast(Callable[[Any], Any], intrinsic)
"""A function whose instructions are written here."""
_declared = cast(Callable[[Any, Any, str], Any], cgutils.get_or_insert_function)


def _inner(function: Function) -> Function:
    """Compile as a part of what calls it."""
    return cast(Function, numba.njit(**_OPTIONS)(function))


class _Vectors:
    """What is needed to write LLVM's instructions on blocks of 16 numbers of an array's type."""

    def __init__(self, context: Any, builder: Any, signature: Any, args: Any) -> None:
        self.builder, self.kind = builder, signature.args[0].dtype
        self.bits = int(self.kind.bitwidth)
        self.element = context.get_data_type(self.kind)
        self.vector = ir.VectorType(self.element, LANES)
        self.words = ir.VectorType(ir.IntType(self.bits), LANES)
        self.args = [
            context.make_array(kind)(context, builder, value).data if isinstance(kind, types.Array) else value
            for kind, value in zip(signature.args, args, strict=True)
        ]

    def number(self, value: float) -> Any:
        return ir.Constant(self.vector, [value] * LANES)

    def pointer(self, data: Any, at: Any, block: int = 0) -> Any:
        place = self.builder.add(at, _INDEX(LANES * block))
        return self.builder.bitcast(self.builder.gep(data, [place]), self.vector.as_pointer())

    def load(self, pointer: Any) -> Any:
        return self.builder.load(pointer, align=self.bits // 8)

    def store(self, value: Any, pointer: Any) -> None:
        self.builder.store(value, pointer, align=self.bits // 8)

    def spread(self, value: Any) -> Any:
        undefined = ir.Constant(self.vector, ir.Undefined)
        first = self.builder.insert_element(undefined, value, _INT32(0))
        return self.builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(_INT32, LANES), [0] * LANES))

    def call(self, name: str, *values: Any) -> Any:
        """An intrinsic function of LLVM's on vectors, such as ``fma``: rounded once on every processor."""
        kind = ir.FunctionType(self.vector, [self.vector] * len(values))
        name = f"llvm.{name}.v{LANES}f{self.bits}"
        return self.builder.call(_declared(self.builder.module, kind, name), values)


def _adding(blocks: int) -> Any:
    """What adds up rows of a table, ``blocks`` × 16 columns wide, in registers.

    ``out[to:] += Σ_k x[at + step · places[k]] · table[origin + stride · places[k]:]`` over first ≤ k < last. Arrays are
    one-dimensional and nothing is checked. Even and odd k are summed apart: a sum waits for the one before it.
    """

    @_written
    def add(context: Any, x: Any, at: Any, step: Any, places: Any, first: Any, last: Any, table: Any, origin: Any,
            stride: Any, out: Any, to: Any) -> Any:  # fmt: skip
        long = types.int64

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            v = _Vectors(context, builder, signature, args)
            x, at, step, places, first, last, table, origin, stride, out, to = v.args

            def with_term(k: Any, sums: list[Any]) -> list[Any]:
                place = builder.sext(builder.load(builder.gep(places, [k])), _INDEX)
                value = v.spread(builder.load(builder.gep(x, [builder.add(at, builder.mul(step, place))])))
                row = builder.add(origin, builder.mul(stride, place))
                return [v.call("fma", value, v.load(v.pointer(table, row, b)), sums[b]) for b in range(blocks)]

            before = builder.block
            head, pair, rest, single, end = (builder.append_basic_block(name) for name in "hprse")
            targets = [v.pointer(out, to, block) for block in range(blocks)]
            starts = [v.load(target) for target in targets] + [v.number(0.0)] * blocks
            builder.branch(head)

            builder.position_at_end(head)
            k, sums = builder.phi(_INDEX), [builder.phi(v.vector) for _ in starts]
            following = builder.add(k, _INDEX(1))
            builder.cbranch(builder.icmp_signed("<", following, last), pair, rest)

            builder.position_at_end(pair)
            longer = with_term(k, sums[:blocks]) + with_term(following, sums[blocks:])
            k.add_incoming(first, before)
            k.add_incoming(builder.add(k, _INDEX(2)), pair)
            for total, start, more in zip(sums, starts, longer, strict=True):
                total.add_incoming(start, before)
                total.add_incoming(more, pair)
            builder.branch(head)

            builder.position_at_end(rest)
            builder.cbranch(builder.icmp_signed("<", k, last), single, end)
            builder.position_at_end(single)
            extended = with_term(k, sums[:blocks])
            builder.branch(end)

            builder.position_at_end(end)
            totals = [builder.phi(v.vector) for _ in targets]
            for total, plain, more in zip(totals, sums, extended, strict=False):
                total.add_incoming(plain, rest)
                total.add_incoming(more, single)
            for target, total, odd in zip(targets, totals, sums[blocks:], strict=True):
                v.store(builder.fadd(total, odd), target)
            return context.get_dummy_value()

        return types.void(x, long, long, places, long, long, table, long, long, out, long), codegen

    return add


_add_1, _add_2, _add_3, _add_4 = (_adding(blocks) for blocks in range(1, _WIDEST + 1))


@_written
def _descend(context: Any, weight: Any, velocity: Any, at: Any, gradient: Any, rate: Any, decay: Any, place: Any,
             factor: Any, momentum: Any) -> Any:  # fmt: skip
    """A step of ``torch.optim.SGD`` on a block: 16 weights from ``at``, settings' numbers from ``place``."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        v = _Vectors(context, builder, signature, args)
        weight, velocity, at, gradient, rate, decay, place, factor, momentum = v.args
        before = v.load(v.pointer(weight, at))
        decayed = v.call("fma", v.load(v.pointer(decay, place)), before, v.load(v.pointer(gradient, place)))
        moved = v.call("fma", v.spread(momentum), v.load(v.pointer(velocity, at)), decayed)
        size = builder.fmul(v.spread(factor), v.load(v.pointer(rate, place)))
        v.store(moved, v.pointer(velocity, at))
        v.store(v.call("fma", builder.fneg(size), moved, before), v.pointer(weight, at))
        return context.get_dummy_value()

    number = weight.dtype
    arrays = (gradient, rate, decay)
    return types.void(weight, velocity, types.int64, *arrays, types.int64, number, number), codegen


@_written
def _exponential(context: Any, values: Any, at: Any) -> Any:
    """e^x of a block in place, for x ≤ 0: 2ⁿ times a Taylor series of what is left, exact to the last bit or two."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        v = _Vectors(context, builder, signature, args)
        fraction, bias, terms, least = (23, 127, 8, -87.0) if v.bits == 32 else (52, 1023, 14, -708.0)
        # log 2 in two parts, of which the first has few enough bits for n times it to be exact.
        high = float(np.float32(0.693359375)) if v.bits == 32 else 6.93147180369123816490e-01
        low = math.log(2) - high if v.bits == 32 else 1.90821492927058770002e-10
        pointer = v.pointer(v.args[0], v.args[1])
        x = v.load(pointer)
        x = builder.select(builder.fcmp_ordered(">", x, v.number(least)), x, v.number(least))
        n = v.call("rint", builder.fmul(x, v.number(1 / math.log(2))))
        rest = v.call("fma", n, v.number(-high), x)
        rest = v.call("fma", n, v.number(-low), rest)
        series = v.number(1 / math.factorial(terms))
        for power in reversed(range(terms)):
            series = v.call("fma", series, rest, v.number(1 / math.factorial(power)))
        word = ir.IntType(v.bits)
        exponent = builder.add(builder.fptosi(n, v.words), ir.Constant(v.words, [word(bias)] * LANES))
        power_of_two = builder.bitcast(builder.shl(exponent, ir.Constant(v.words, [word(fraction)] * LANES)), v.vector)
        v.store(builder.fmul(series, power_of_two), pointer)
        return context.get_dummy_value()

    return types.void(values, types.int64), codegen


@_inner
def _add(x: Floats, at: int, step: int, places: Ints, first: int, last: int, table: Floats, origin: int, columns: int,
         out: Floats, to: int) -> None:  # fmt: skip
    """``_adding`` over all columns."""
    for start in range(0, columns, _WIDEST * LANES):
        blocks = min(_WIDEST, (columns - start) // LANES)
        if blocks == 4:
            _add_4(x, at, step, places, first, last, table, origin + start, columns, out, to + start)
        elif blocks == 3:
            _add_3(x, at, step, places, first, last, table, origin + start, columns, out, to + start)
        elif blocks == 2:
            _add_2(x, at, step, places, first, last, table, origin + start, columns, out, to + start)
        else:
            _add_1(x, at, step, places, first, last, table, origin + start, columns, out, to + start)


@_inner
def _errors(
    logits: Floats, at: int, bias: Floats, scale: Any, label: int, settings: int, classes: int, one: Any
) -> None:
    """From x̃ W of an image without its factor to softmax − onehot, in place."""
    for setting in range(settings):
        start = setting * classes
        most = scale * logits[at + start] + bias[start]
        for place in range(start, start + classes):
            value = scale * logits[at + place] + bias[place]
            logits[at + place] = value
            most = max(most, value)
        for place in range(start, start + classes):
            logits[at + place] -= most
    for start in range(0, len(bias), LANES):
        _exponential(logits, at + start)
    for setting in range(settings):
        start = at + setting * classes
        total = logits[start]
        for place in range(start + 1, start + classes):
            total += logits[place]
        share = one / total
        for place in range(start, start + classes):
            logits[place] *= share
        logits[start + label] -= one
    for place in range(at + settings * classes, at + len(bias)):
        logits[place] = one - one


@compiled_once
def train(
    x: Floats,
    width: int,
    labels: Longs,
    row_starts: Longs,
    row_places: Ints,
    unit_starts: Longs,
    unit_places: Ints,
    scale: Floats,
    taps: int,
    settings: int,
    classes: int,
    factors: Floats,
    rate: Floats,
    decay: Floats,
    momentum: Any,
    adapt: bool,
    head: tuple[Floats, Floats, Floats, Floats],
    adapted: tuple[Floats, Floats, Floats],
) -> None:
    """Some steps of SGD on all settings of a group. Nothing is checked, and the GIL is not held.

    Columns are classes within settings, (settings × classes,) and padding up to ``columns``.

    Args:
        x: the batches' features without dropout, (steps × rows × width,), a row's taps side by side and then padding.
        width: of a row of ``x``.
        labels: (steps, rows).
        row_starts: where each row's kept units begin, (steps or 1, rows + 1); 1 where they are the same in all steps.
        row_places: the kept units of each row, ascending.
        unit_starts: where each unit's kept rows begin, (steps or 1, units + 1).
        unit_places: the rows in which each unit is kept, ascending.
        scale: 1/(1 − λ), (1,).
        taps: of the network, each (units,) wide.
        settings: in the group.
        classes: of the problem.
        factors: of the learning rate in each step, (steps,).
        rate: learning rate of each column, (columns,).
        decay: L2 coefficient of each column, (columns,).
        momentum: of SGD, as the type of ``x``.
        adapt: whether v is trained.
        head: V (units × columns,), its momentum, b (columns,), its momentum; changed.
        adapted: v (taps × units × settings,), its momentum, and V ⊙ v (taps × units × columns,); changed.
            Without ``adapt`` the last is V itself and the others are empty.
    """
    weight, weight_velocity, bias, bias_velocity = head
    v, v_velocity, table = adapted
    steps, rows = labels.shape
    columns, units = len(bias), unit_starts.shape[1] - 1
    one = scale.dtype.type(1)
    factor = scale[0]
    errors, gradient = np.empty(rows * columns, scale.dtype), np.empty(columns, scale.dtype)
    sums = np.empty(taps * columns, scale.dtype)
    for step in range(steps):
        masks = step if row_starts.shape[0] > 1 else 0
        batch = step * rows * width
        errors[:] = 0
        for row in range(rows):
            first, last = row_starts[masks, row], row_starts[masks, row + 1]
            for tap in range(taps):
                at, origin = batch + row * width + tap * units, tap * units * columns
                _add(x, at, 1, row_places, first, last, table, origin, columns, errors, row * columns)
            _errors(errors, row * columns, bias, factor, labels[step, row], settings, classes, one)
        gradient[:] = 0
        for row in range(rows):
            for column in range(columns):
                gradient[column] += errors[row * columns + column]
        for column in range(columns):
            gradient[column] /= rows
        for block in range(0, columns, LANES):
            _descend(bias, bias_velocity, block, gradient, rate, decay, block, factors[step], momentum)
        whole = factor / rows
        for place in range(rows * columns):
            errors[place] *= whole
        for unit in range(units):
            first, last = unit_starts[masks, unit], unit_starts[masks, unit + 1]
            sums[:] = 0
            for tap in range(taps):
                at = batch + tap * units + unit
                _add(x, at, width, unit_places, first, last, errors, 0, columns, sums, tap * columns)
            if not adapt:
                for block in range(0, columns, LANES):
                    at = unit * columns + block
                    _descend(weight, weight_velocity, at, sums, rate, decay, block, factors[step], momentum)
                continue
            gradient[:] = 0
            for tap in range(taps):
                at = (tap * units + unit) * settings
                for setting in range(settings):
                    coefficient = v[at + setting]
                    total = one - one
                    for place in range(setting * classes, (setting + 1) * classes):
                        entry = sums[tap * columns + place]
                        gradient[place] += coefficient * entry
                        total += weight[unit * columns + place] * entry
                    place = setting * classes
                    moved = momentum * v_velocity[at + setting] + (total + decay[place] * coefficient)
                    v_velocity[at + setting] = moved
                    v[at + setting] = coefficient - factors[step] * rate[place] * moved
            for block in range(0, columns, LANES):
                at = unit * columns + block
                _descend(weight, weight_velocity, at, gradient, rate, decay, block, factors[step], momentum)
            for tap in range(taps):
                for setting in range(settings):
                    coefficient = v[(tap * units + unit) * settings + setting]
                    for place in range(setting * classes, (setting + 1) * classes):
                        product = coefficient * weight[unit * columns + place]
                        table[(tap * units + unit) * columns + place] = product
