"""An algorithm: one way to run one kind of kernel on one kind of machine, declared in one place.

An algorithm serves one op (its anchor) and takes the whole region around it: `load` reads the first operand (a
prologue may be folded into it) and `finish` turns the anchor's result into the region's (bias, activation, residual),
both at given indices, so the definition and the schedule never know what was fused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cnncc.ir.layout import PLAIN, Layout
from cnncc.targets.target import Target

if TYPE_CHECKING:
    from tvm import te
    from tvm.s_tir import Schedule


@dataclass(frozen=True)
class Layouts:
    """Layouts of the first operand, of the weights as the kernel reads them (None: no weights), and of the result."""

    x: Layout = PLAIN
    w: Layout | None = None
    out: Layout = PLAIN


@dataclass(frozen=True)
class Cost:
    """A modelled time in seconds on the whole machine, with the work it comes from."""

    seconds: float
    flops: float = 0.0
    bytes: float = 0.0


@dataclass(frozen=True)
class Algorithm:
    """One declaration. `P` below is the op's problem record, `T` the algorithm's own frozen tile record.

    applies(P, target) -> str | None: the reason why it does not apply, in words, or None.
    layouts(P, target) -> Layouts.
    tiles_for(P, target) -> T: pure, imports no TVM.
    pooled(P, target) -> str | None: for a convolution with a max pool behind it, the reason why it cannot make that
        instead of the convolution's own results, or None.
    candidates(P, target) -> Iterator[T]: tiles worth measuring, the best by the model first; pure as well. None: there
        are none but `tiles_for`'s.
    cost(P, target, T) -> Cost.
    scratch(P, target, T) -> int: bytes of stack a thread needs.
    workspaces(P, T) -> tuple of shapes: float32 arrays that the definition keeps in memory, in its order; the memory
        plan places them.
    define(P, T, x, w, finish) -> te.Tensor: the result in its physical layout. `x` and `w` are called with physical
        indices (they are te tensors, or a fused prologue of that form); a symbolic batch is in `x.shape[0]`;
        `finish(value, logical_index)` must be applied exactly once per element of the result, in its last stage.
    schedule(sch, P, T, target) -> None: a recipe, one primitive a line. The last stage's block is named "out".
        Left out where the definition states its loops (targets/cpu/loops.py).
    error_bound(P, target) -> float: relative to the largest result or, where results cancel, to the largest root of a
        sum of squared products (0 where it sums the same products as the definition).
    """

    name: str
    op: str
    applies: Callable[[Any, Target], str | None]
    layouts: Callable[[Any, Target], Layouts]
    tiles_for: Callable[[Any, Target], Any]
    cost: Callable[[Any, Target, Any], Cost]
    define: Callable[[Any, Any, Any, Any, Callable[[Any, tuple[Any, ...]], Any]], te.Tensor]
    schedule: Callable[[Schedule, Any, Any, Target], None] = lambda sch, problem, tile, target: None
    scratch: Callable[[Any, Target, Any], int] = lambda problem, target, tile: 0
    workspaces: Callable[[Any, Any], tuple[tuple[int, ...], ...]] = lambda problem, tile: ()
    error_bound: Callable[[Any, Target], float] = lambda problem, target: 0.0
    pooled: Callable[[Any, Target], str | None] = lambda problem, target: "it makes no pool of its results"
    prologue: bool = False  # `x` may be what stands before the anchor, computed wherever it is read
    exact: bool = True  # sums the same products as the definition (allowed under accuracy="strict")
    weight_op: str | None = None  # IR operation that prepares the weights at compile time, e.g. "winograd_weights"
    anchor_op: str | None = None  # the operation that takes prepared weights in place of `op`, e.g. "winograd_conv"
    constant_weights: bool = False  # only for weights that are known at compile time
    attrs_for: Callable[[Any, Any], Any] | None = None  # (P, T) -> attributes of those two
    candidates: Callable[[Any, Target], Iterator[Any]] | None = None
