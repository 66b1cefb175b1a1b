"""Dropout, and the counter-based random numbers behind it.

Random bits are a function of a key and a counter, Philox4x32-10 (Salmon, Moraes, Dror, Shaw: "Parallel random numbers:
as easy as 1, 2, 3", SC 2011): no generator passes from element to element, so that the same element gets the same bits
whatever the threads, the layout or the vectors, and the backward pass makes the mask again instead of keeping it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from cnncc.errors import GraphError
from cnncc.ir.types import Type
from cnncc.ops.common import Gradients, check_float
from cnncc.ops.lowering import Lowering, Operand
from cnncc.ops.plain import random as plain
from cnncc.ops.registry import Arg, Sample, define
from cnncc.ops.written import written

ROUNDS = 10
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
_WORD = 2**32

Words = tuple[Any, Any, Any, Any]


def philox(m: Any, counter: Words, key: tuple[Any, Any], done: Callable[[Words], Any], index: int = 0) -> Any:
    """`done(words)` with the four words of Philox4x32-10, for words of u32: expressions of TVM or arrays of numpy.

    m: the namespace of formulas (`cnncc.ops.math`), whose `let` names what is used twice. index: rounds made.
    """
    if index == ROUNDS:
        return done(counter)
    c0, c1, c2, c3 = counter
    k0, k1 = (k + m.like(index * w % _WORD, k) for k, w in zip(key, WEYL, strict=True))

    def product(word: Any, factor: int) -> Any:
        wide = m.cast(word, "u64")
        return wide * m.like(factor, wide)

    def high(p: Any) -> Any:
        return m.cast(p >> m.like(32, p), "u32")

    def low(p: Any) -> Any:
        return m.cast(p, "u32")

    def mixed(p0: Any, p1: Any) -> Any:
        return philox(m, (high(p1) ^ c1 ^ k0, low(p1), high(p0) ^ c3 ^ k1, low(p0)), key, done, index + 1)

    return m.let(product(c0, MULTIPLIERS[0]), lambda p0: m.let(product(c2, MULTIPLIERS[1]), lambda p1: mixed(p0, p1)))


@dataclass(frozen=True)
class DropoutAttrs:
    """p: the probability that an element becomes zero."""

    p: float = 0.5


@dataclass(frozen=True)
class DropoutTrainAttrs(DropoutAttrs):
    """stream: tells the masks of one step apart. axes: so many leading axes have a mask of their own, along the others
    it is the same (2: whole channels); 0 means all axes."""

    stream: int = 0
    axes: int = 0


def _check(attrs: DropoutAttrs) -> None:
    if not 0 <= attrs.p <= 1:
        raise GraphError(f"p must be a probability, from 0 to 1, got {attrs.p}")


def _infer(attrs: DropoutAttrs, x: Type) -> Type:
    """Any floating-point x."""
    check_float(x=x)
    _check(attrs)
    return x


dropout = define(
    "dropout",
    ("x",),
    attrs=DropoutAttrs,
    infer=_infer,
    formula=lambda m, a, x: x,
    grad=lambda g: (g.dy,),
    samples=(Sample((Arg((2, 3, 4)),), DropoutAttrs(0.3)),),
    doc="Dropout in inference: x. A training step puts `dropout_train` in its place.",
)


def _train_infer(attrs: DropoutTrainAttrs, x: Type, key: Type) -> Type:
    """Any floating-point x; the key is u32[3]."""
    check_float(x=x)
    _check(attrs)
    if key.dtype != "u32" or key.shape != (3,):
        raise GraphError(f"key must be u32[3] (seed, seed, step), got {key}")
    if not 0 <= attrs.axes <= x.rank:
        raise GraphError(f"axes must be from 0 to the rank {x.rank}, got {attrs.axes}")
    return x


def _own_axes(attrs: DropoutTrainAttrs, rank: int) -> int:
    return attrs.axes or rank


def _threshold(attrs: DropoutTrainAttrs) -> int:
    return round(attrs.p * _WORD)


def _scale(attrs: DropoutTrainAttrs) -> float:
    return 1 / (1 - attrs.p)


def _train_element(
    c: Lowering, attrs: DropoutTrainAttrs, out: Type, xs: Sequence[Operand], index: tuple[Any, ...]
) -> Any:
    x, key = xs
    zero = c.const(0, out.dtype)
    if _threshold(attrs) == _WORD:
        return zero
    place: Any = c.dim(0)
    for i, extent in zip(index[: _own_axes(attrs, out.rank)], out.shape, strict=False):
        place = place * c.dim(extent) + i
    m = c.math
    seed, step = tuple(key(c.dim(k)) for k in (0, 1)), key(c.dim(2))
    wide = m.cast(place, "u64")  # an index may have 32 bits only, which cannot be shifted by as many
    words = (m.cast(wide, "u32"), m.cast(wide >> m.like(32, wide), "u32"), step, c.const(attrs.stream, "u32"))

    def kept(words: Words) -> Any:
        return m.where(
            words[0] >= c.const(_threshold(attrs), "u32"), x(*index) * c.const(_scale(attrs), out.dtype), zero
        )

    return philox(m, words, (seed[0], seed[1]), kept)


def _train_grad(g: Any) -> Gradients:
    """y = x mask / (1 - p); dx = dy mask / (1 - p), with the mask made again."""
    a = g.attrs
    return (g.b.dropout_train(g.dy, g.inputs[1], p=a.p, stream=a.stream, axes=a.axes), None)


_KEY = Arg((3,), "u32", value=(0x12345678, 0x9ABCDEF0, 7))

dropout_train = define(
    "dropout_train",
    ("x", "key"),
    attrs=DropoutTrainAttrs,
    infer=_train_infer,
    **written(plain.dropout_train, lambda a, x, key: {"p": a.p, "stream": a.stream, "axes": _own_axes(a, x.rank)}),
    grad=_train_grad,
    element=_train_element,
    moves=False,
    samples=(
        Sample((Arg((2, 5, 4, 3)), _KEY), DropoutTrainAttrs(0.3)),
        Sample((Arg((3, 6, 4, 4)), _KEY), DropoutTrainAttrs(0.5, 3, 2)),
        Sample((Arg((4, 7)), _KEY), DropoutTrainAttrs(1.0)),
    ),
    doc="x / (1 - p) where the element's random number is at least p, otherwise 0. The number is Philox4x32-10 of the "
    "element's place (row-major), the step key[2] and the stream, with the seed key[0], key[1].",
)
