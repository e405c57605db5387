"""Blocks of 16 numbers in LLVM's instructions, for ``kernels``: numba's loops do not get there by themselves.

Numba keeps what it compiles until the file of the compiled function changes: touch ``kernels`` when you change this.
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

__all__ = [
    "LANES",
    "Floats",
    "Ints",
    "Longs",
    "Places",
    "compiled_once",
    "descend",
    "exponential",
    "over_columns",
    "part_of",
]


Function = TypeVar("Function", bound=Callable[..., Any])

Floats = npt.NDArray[Any]
"""float32, or float64 where exactness is tested; one type in a call."""

Longs = npt.NDArray[np.int64]

Ints = npt.NDArray[np.int32]

Places = npt.NDArray[np.uint16]


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


def part_of(function: Function) -> Function:
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


def _adding(blocks: int, rows: int, form: str) -> Any:
    """What adds up rows of a table, ``blocks`` × 16 columns wide, in registers, for some rows of x at once.

    ``out[to + apart · r:] += Σ_k x[at + along · r + i] · table[origin + stride · p:]`` over first ≤ k < last and r <
    ``rows``. Where zeros stand for what is dropped (``dense``) p is k and i is step · k, and several rows share what is
    loaded. Else p is ``places[k]``, and i is k (``packed``) or ``order[k]`` (``turned``). Arrays are one-dimensional
    and nothing is checked. Even and odd k are summed apart: a sum waits for the one before it.
    """

    @_written
    def add(context: Any, x: Any, at: Any, along: Any, step: Any, order: Any, places: Any, first: Any, last: Any,
            table: Any, origin: Any, stride: Any, out: Any, to: Any, apart: Any) -> Any:  # fmt: skip
        long = types.int64

        def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            v = _Vectors(context, builder, signature, args)
            x, at, along, step, order, places, first, last, table, origin, stride, out, to, apart = v.args
            row_starts = [builder.add(at, builder.mul(along, _INDEX(row))) for row in range(rows)]
            row_ends = [builder.add(to, builder.mul(apart, _INDEX(row))) for row in range(rows)]
            targets = [v.pointer(out, end, block) for end in row_ends for block in range(blocks)]
            count = len(targets)

            def listed(values: Any, k: Any) -> Any:
                return builder.zext(builder.load(builder.gep(values, [k])), _INDEX)

            def with_term(k: Any, sums: list[Any]) -> list[Any]:
                place = k if form == "dense" else listed(places, k)
                i = builder.mul(step, k) if form == "dense" else k if form == "packed" else listed(order, k)
                row = builder.add(origin, builder.mul(stride, place))
                entries = [v.load(v.pointer(table, row, block)) for block in range(blocks)]
                values = [v.spread(builder.load(builder.gep(x, [builder.add(start, i)]))) for start in row_starts]
                return [v.call("fma", values[n // blocks], entries[n % blocks], sums[n]) for n in range(count)]

            before = builder.block
            head, pair, rest, single, end = (builder.append_basic_block(name) for name in "hprse")
            starts = [v.load(target) for target in targets] + [v.number(0.0)] * count
            builder.branch(head)

            builder.position_at_end(head)
            k, sums = builder.phi(_INDEX), [builder.phi(v.vector) for _ in starts]
            following = builder.add(k, _INDEX(1))
            builder.cbranch(builder.icmp_signed("<", following, last), pair, rest)

            builder.position_at_end(pair)
            longer = with_term(k, sums[:count]) + with_term(following, sums[count:])
            k.add_incoming(first, before)
            k.add_incoming(builder.add(k, _INDEX(2)), pair)
            for total, start, more in zip(sums, starts, longer, strict=True):
                total.add_incoming(start, before)
                total.add_incoming(more, pair)
            builder.branch(head)

            builder.position_at_end(rest)
            builder.cbranch(builder.icmp_signed("<", k, last), single, end)
            builder.position_at_end(single)
            extended = with_term(k, sums[:count])
            builder.branch(end)

            builder.position_at_end(end)
            totals = [builder.phi(v.vector) for _ in targets]
            for total, plain, more in zip(totals, sums, extended, strict=False):
                total.add_incoming(plain, rest)
                total.add_incoming(more, single)
            for target, total, odd in zip(targets, totals, sums[count:], strict=True):
                v.store(builder.fadd(total, odd), target)
            return context.get_dummy_value()

        arrays = (x, long, long, long, order, places, long, long, table, long, long, out, long, long)
        return types.void(*arrays), codegen

    return add


@_written
def descend(context: Any, weight: Any, velocity: Any, at: Any, gradient: Any, to: Any, rate: Any, decay: Any,
             place: Any, factor: Any, momentum: Any) -> Any:  # fmt: skip
    """A step of ``torch.optim.SGD`` on 16 weights from ``at``: gradients from ``to``, settings from ``place``."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        v = _Vectors(context, builder, signature, args)
        weight, velocity, at, gradient, to, rate, decay, place, factor, momentum = v.args
        before = v.load(v.pointer(weight, at))
        decayed = v.call("fma", v.load(v.pointer(decay, place)), before, v.load(v.pointer(gradient, to)))
        moved = v.call("fma", v.spread(momentum), v.load(v.pointer(velocity, at)), decayed)
        size = builder.fmul(v.spread(factor), v.load(v.pointer(rate, place)))
        v.store(moved, v.pointer(velocity, at))
        v.store(v.call("fma", builder.fneg(size), moved, before), v.pointer(weight, at))
        return context.get_dummy_value()

    number = weight.dtype
    long = types.int64
    return types.void(weight, velocity, long, gradient, long, rate, decay, long, number, number), codegen


@_written
def exponential(context: Any, values: Any, at: Any) -> Any:
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


def over_columns(form: str, together: int) -> Any:
    """``_adding`` to any number of rows over all columns, as many rows at once as take up ``together`` sums."""
    one_1, one_2, one_3, one_4 = (_adding(blocks, 1, form) for blocks in range(1, _WIDEST + 1))
    all_1, all_2, all_3, all_4 = (_adding(blocks, max(1, together // blocks), form) for blocks in range(1, _WIDEST + 1))

    @part_of
    def add(x: Floats, at: int, along: int, step: int, order: Places, places: Places, first: int, last: int,
            table: Floats, origin: int, columns: int, out: Floats, to: int, apart: int, rows: int) -> None:  # fmt: skip
        for start in range(0, columns, _WIDEST * LANES):
            blocks = min(_WIDEST, (columns - start) // LANES)
            here, row = origin + start, 0
            while row < rows:
                many = max(1, together // blocks)
                a, o = at + row * along, to + row * apart + start
                if row + many <= rows:
                    row += many
                    if blocks == 4:
                        all_4(x, a, along, step, order, places, first, last, table, here, columns, out, o, apart)
                    elif blocks == 3:
                        all_3(x, a, along, step, order, places, first, last, table, here, columns, out, o, apart)
                    elif blocks == 2:
                        all_2(x, a, along, step, order, places, first, last, table, here, columns, out, o, apart)
                    else:
                        all_1(x, a, along, step, order, places, first, last, table, here, columns, out, o, apart)
                    continue
                row += 1
                if blocks == 4:
                    one_4(x, a, along, step, order, places, first, last, table, here, columns, out, o, apart)
                elif blocks == 3:
                    one_3(x, a, along, step, order, places, first, last, table, here, columns, out, o, apart)
                elif blocks == 2:
                    one_2(x, a, along, step, order, places, first, last, table, here, columns, out, o, apart)
                else:
                    one_1(x, a, along, step, order, places, first, last, table, here, columns, out, o, apart)

    return add
