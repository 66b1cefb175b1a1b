"""One kernel alone: build it for a problem, feed it seeded numbers, compare with the definition.

What benchmarks, tests and tuning share. The epilogue is bias and ReLU, as most kernels of a network have.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np

from cnncc.ir.layout import Layout, channels
from cnncc.ops.registry import lookup
from cnncc.runtime.arena import aligned, empty
from cnncc.targets.algorithm import Algorithm, Layouts
from cnncc.targets.problem import ConvProblem, MatmulProblem
from cnncc.targets.target import Target

Problem = ConvProblem | MatmulProblem


@dataclass(frozen=True)
class Shapes:
    """Logical shapes of a kernel's operands; a symbolic extent is a string. `channel`: the axis the bias runs along."""

    x: tuple[int | str, ...]
    w: tuple[int, ...]
    out: tuple[int | str, ...]
    channel: int = 1


@dataclass(frozen=True)
class Trial:
    """A built kernel, for this machine or another."""

    problem: Problem
    layouts: Layouts
    tile: Any
    executable: Any
    shapes: Shapes
    prepare: Callable[[np.ndarray], np.ndarray] = np.ascontiguousarray  # of the logical weights
    workspaces: tuple[tuple[int, ...], ...] = ()  # shapes of scratch that the kernel is given behind its operands

    @cached_property
    def function(self) -> Callable[..., Any]:
        """The kernel, where this machine runs it; takes tensors in the physical layouts: x, w, bias, out."""
        import tvm

        function: Callable[..., Any] = self.executable["main"]
        given = [tvm.runtime.from_dlpack(_unknown(shape)) for shape in self.workspaces]
        return (lambda *tensors: function(*tensors, *given)) if given else function

    @property
    def llvm(self) -> str:
        """The kernel as LLVM text."""
        return str(self.executable.mod.inspect_source("ll"))

    @property
    def assembly(self) -> str:
        """The kernel as assembly."""
        return str(self.executable.mod.inspect_source("asm"))

    def operands(self, batch: int | None = None, seed: int = 0) -> tuple[list[np.ndarray], list[Any]]:
        """Seeded logical arrays x, w, bias, and the tensors to call `function` with: those packed, and the result."""
        rng = np.random.default_rng(seed)
        number = 1 if batch is None else batch
        extents = [tuple(number if isinstance(d, str) else d for d in s) for s in (self.shapes.x, self.shapes.w)]
        x, w = (rng.standard_normal(e, dtype=np.float32) for e in extents)
        bias = rng.standard_normal(self.shapes.w[self._outputs()], dtype=np.float32)
        return [x, w, bias], self.packed(x, w, bias, batch)

    def packed(self, x: np.ndarray, w: np.ndarray, bias: np.ndarray, batch: int | None = None) -> list[Any]:
        """Logical arrays as the tensors to call `function` with, the result last.

        Padded lanes of x hold ones, as they may hold any finite value; the result starts as NaN.
        """
        import tvm

        padded = self.layouts.x.pack(np.ones_like(x))
        packed_x = np.where(padded == 0, np.float32(1), self.layouts.x.pack(x))
        packed_b = channel_vector(bias, self.layouts, self.shapes.channel)
        out = empty(self.layouts.out.physical(self._out(batch)), np.float32)
        out[...] = np.nan
        weights = (self.layouts.w or Layout()).pack(self.prepare(w))
        arrays = [aligned(a) for a in (packed_x, weights, packed_b)] + [out]
        return [tvm.runtime.from_dlpack(a) for a in arrays]

    def result(self, out: Any, batch: int | None = None) -> np.ndarray:
        """The result tensor as a logical array."""
        return self.layouts.out.unpack(out.numpy(), self._out(batch))

    def error(self, batch: int | None = None) -> float:
        """Largest difference from the definition in double precision, relative to the largest result."""
        logical, tensors = self.operands(batch)
        self.function(*tensors)
        expected = definition(self.problem, *(a.astype(np.float64) for a in logical))
        found = self.result(tensors[-1], batch)
        return float(np.abs(found - expected).max() / max(np.abs(expected).max(), 1e-30))

    def _outputs(self) -> int:
        transposed = isinstance(self.problem, ConvProblem) or self.problem.transposed
        return 0 if transposed else 1

    def _out(self, batch: int | None) -> tuple[int, ...]:
        return tuple(int(batch or 0) if isinstance(d, str) else d for d in self.shapes.out)


def channel_vector(bias: np.ndarray, layouts: Layouts, axis: int) -> np.ndarray:
    """A vector over the channels, filled with zeros up to whole blocks: `finish` is called for padded lanes too."""
    factor = layouts.out.factor(axis)
    return np.pad(bias, (0, -len(bias) % factor))


def definition(problem: Problem, x: np.ndarray, w: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """relu(op(x, w) + bias) in plain numpy."""
    if isinstance(problem, ConvProblem):
        from cnncc.ops.conv import ConvAttrs, conv

        attrs = ConvAttrs(problem.strides, problem.pads, problem.dilations, problem.groups)
        (y,) = conv.run(attrs, [x, w])
    else:
        y, bias = x @ (np.swapaxes(w, -1, -2) if problem.transposed else w), bias.reshape(1, -1)
    shaped = bias.reshape(-1, *[1] * (y.ndim - 2)) if isinstance(problem, ConvProblem) else bias
    return np.asarray(np.maximum(y + shaped, 0), x.dtype)


def shapes_of(problem: Problem) -> Shapes:
    """Logical shapes of a problem's operands."""
    if isinstance(problem, ConvProblem):
        return Shapes(
            (problem.n, problem.ic, *problem.size),
            (problem.oc, problem.ic // problem.groups, *problem.kernel),
            (problem.n, problem.oc, *problem.out),
        )
    w = (problem.n, problem.k) if problem.transposed else (problem.k, problem.n)
    return Shapes((problem.m, problem.k), w, (problem.m, problem.n))


def _unknown(shape: tuple[int, ...]) -> np.ndarray:
    """Scratch of which a kernel must not read what it has not written."""
    array = empty(shape, np.float32)
    array[...] = np.nan
    return array


def _prepared(op: str, attrs: Any, w: np.ndarray) -> np.ndarray:
    return lookup(op).run(attrs, [w])[0]


def build(algorithm: Algorithm, problem: Problem, target: Target, tile: Any = None, bare: bool = False) -> Trial:
    """Builds an algorithm for a problem, with the tile it chooses unless one is given. `bare`: no epilogue.

    Raises ScheduleError where the algorithm does not apply.
    """
    import tvm
    from tvm import te, tirx
    from tvm.s_tir import Schedule

    from cnncc.errors import ScheduleError
    from cnncc.targets.cpu.llvm import to_tvm
    from cnncc.targets.cpu.stack import pipeline
    from cnncc.targets.cpu.workspace import hoist_workspaces

    reason = algorithm.applies(problem, target)
    if reason is not None:
        raise ScheduleError(f"{problem}: {algorithm.name} does not apply: {reason}")
    tile = algorithm.tiles_for(problem, target) if tile is None else tile
    layouts, shapes = algorithm.layouts(problem, target), shapes_of(problem)
    prepare: Callable[[np.ndarray], np.ndarray] = np.ascontiguousarray
    if algorithm.weight_op is not None and algorithm.attrs_for is not None:
        prepare = partial(_prepared, algorithm.weight_op, algorithm.attrs_for(problem, tile))
    prepared = prepare(np.zeros(shapes.w, np.float32)).shape
    symbols = {d: te.var(d, "int64") for d in shapes.x if isinstance(d, str)}

    def placeholder(name: str, extents: tuple[Any, ...]) -> Any:
        return te.placeholder(
            tuple(symbols[d] if isinstance(d, str) else tirx.const(d, "int64") for d in extents), name=name
        )

    x = placeholder("x", layouts.x.physical(shapes.x))
    w = placeholder("w", (layouts.w or Layout()).physical(prepared))
    width = channels(layouts.out.factor(shapes.channel)).physical((1, shapes.out[shapes.channel]))
    bias = placeholder("bias", (width[1] * (width[2] if len(width) > 2 else 1),))

    def finish(value: Any, index: tuple[Any, ...]) -> Any:
        return value if bare else tirx.max(value + bias(index[shapes.channel]), tirx.const(0.0, "float32"))

    out = algorithm.define(problem, tile, x, w, finish)
    sch = Schedule(te.create_prim_func([x, w, bias, out]))
    algorithm.schedule(sch, problem, tile, target)
    func, workspaces = hoist_workspaces(sch.mod["main"])
    built = tvm.compile(tvm.IRModule({"main": func}), target=to_tvm(target), tir_pipeline=pipeline(ahead=target.fma))
    return Trial(problem, layouts, tile, built, shapes, prepare, tuple(shape for shape, _ in workspaces))
