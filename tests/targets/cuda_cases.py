"""Kernels of LeNet-5 and ResNet-18 and awkward geometries, for every CUDA algorithm, with expected results."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from cnncc.targets.algorithm import Algorithm
from cnncc.targets.cuda.conv import DIRECT, IMPLICIT_GEMM
from cnncc.targets.cuda.machine import cuda_target
from cnncc.targets.cuda.matmul import GEMM, GEMV
from cnncc.targets.cuda.pool import POOL
from cnncc.targets.problem import ConvProblem, MatmulProblem, PoolProblem

TARGET = cuda_target("cuda:sm_90")
BATCH = 3  # what a symbolic batch is at run time


@dataclass(frozen=True)
class Case:
    """A scheduled function, its input arrays, and what it must compute from them."""

    func: Any
    inputs: tuple[np.ndarray, ...]
    expected: tuple[np.ndarray, ...]
    workspaces: tuple[np.ndarray, ...] = ()
    kind: str = "conv"  # row of the tolerance table
    recipe: str = ""

    def results(self) -> tuple[np.ndarray, ...]:
        """Arrays to compute into, full of NaN (or a number that no result has)."""
        return tuple(np.full(e.shape, np.nan if e.dtype.kind == "f" else -77, e.dtype) for e in self.expected)


def placeholder(shape: tuple[Any, ...], name: str) -> Any:
    """A te tensor with int64 extents."""
    from tvm import te, tirx

    return te.placeholder([tirx.const(d, "int64") if isinstance(d, int) else d for d in shape], name=name)


def random(*shapes: tuple[Any, ...]) -> tuple[np.ndarray, ...]:
    """Seeded float32 arrays; anything but a number in a shape stands for BATCH."""
    rng = np.random.default_rng(0)
    sizes = [tuple(d if isinstance(d, int) else BATCH for d in shape) for shape in shapes]
    return tuple(rng.standard_normal(size, dtype=np.float32) for size in sizes)


def schedule(algorithm: Algorithm, problem: Any, tile: Any, tensors: list[Any], finish: Callable[..., Any]) -> Any:
    """The scheduled function of an algorithm."""
    from tvm import s_tir, te

    weights = tensors[1] if algorithm.op != "pool" else None
    result = algorithm.define(problem, tile, tensors[0], weights, finish)
    sch = s_tir.Schedule(te.create_prim_func([*tensors, result]))
    algorithm.schedule(sch, problem, tile, TARGET)
    return sch.mod["main"]


def _dim(extent: int | str) -> Any:
    from tvm import te

    return te.var(extent, "int64") if isinstance(extent, str) else extent


@functools.cache
def conv_case(text: str, algorithm: Algorithm = IMPLICIT_GEMM, tile: Any = None) -> Case:
    """A convolution with bias, residual and ReLU."""
    import torch
    from tvm import tirx

    p = ConvProblem.parse(text)
    assert algorithm.applies(p, TARGET) is None
    n = _dim(p.n)
    shapes = ((n, p.ic, *p.size), (p.oc, p.ic // p.groups, *p.kernel), (p.oc,), (n, p.oc, *p.out))
    tensors = [placeholder(shape, f"a{i}") for i, shape in enumerate(shapes)]
    bias, residual = tensors[2:]

    def finish(value: Any, index: tuple[Any, ...]) -> Any:
        return tirx.max(value + bias[index[1]] + residual(*index), tirx.const(0, "float32"))

    func = schedule(algorithm, p, tile or algorithm.tiles_for(p, TARGET), tensors, finish)
    arrays = random(*shapes)
    x, w, b, r = (torch.from_numpy(array) for array in arrays)
    pads = [pad for axis in reversed(range(p.rank)) for pad in (p.pads[axis], p.pads[p.rank + axis])]
    function = (torch.conv1d, torch.conv2d, torch.conv3d)[p.rank - 1]
    padded = torch.nn.functional.pad(x, pads)
    expected = function(padded, w, b, p.strides, 0, p.dilations, p.groups) + r
    return Case(func, arrays, (expected.relu().numpy(),))


@functools.cache
def matmul_case(p: MatmulProblem, algorithm: Algorithm = GEMM) -> Case:
    """A product with bias."""
    m, batch = _dim(p.m), () if p.batch == 1 else (p.batch,)
    weights = (*batch, p.n, p.k) if p.transposed else (*batch, p.k, p.n)
    shapes = ((*batch, m, p.k), weights, (p.n,))
    tensors = [placeholder(shape, f"a{i}") for i, shape in enumerate(shapes)]
    tile = algorithm.tiles_for(p, TARGET)
    func = schedule(algorithm, p, tile, tensors, lambda value, index: value + tensors[2][index[-1]])
    x, w, b = arrays = random(*shapes)
    return Case(func, arrays, (x @ (w.swapaxes(-1, -2) if p.transposed else w) + b,))


@functools.cache
def pool_case(p: PoolProblem, nan: bool = False) -> Case:
    """Pooling; with `nan`, one input is NaN, another -inf everywhere in a window."""
    shape = (_dim(p.n), p.c, *p.size)
    func = schedule(POOL, p, POOL.tiles_for(p, TARGET), [placeholder(shape, "x")], lambda value, index: value)
    (x,) = random(shape)
    if nan:
        x[0, 0].flat[1] = np.nan
        x[-1, -1] = -np.inf
    return Case(func, (x,), (_pool_reference(p, x),), kind="reduction")


def _pool_reference(p: PoolProblem, x: np.ndarray) -> np.ndarray:
    rank = len(p.size)
    result = np.empty((*x.shape[:2], *p.out), np.float32)
    for place in np.ndindex(*p.out):
        values, count = [], 0
        for tap in np.ndindex(*p.kernel):
            at = [place[a] * p.strides[a] + tap[a] * p.dilations[a] - p.pads[a] for a in range(rank)]
            if all(0 <= i < size for i, size in zip(at, p.size, strict=True)):
                values.append(x[(slice(None), slice(None), *at)])
                count += 1
            elif p.include_pad and all(i < p.size[a] + p.pads[rank + a] for a, i in enumerate(at)):
                count += 1
        stack = np.stack(values)
        result[(slice(None), slice(None), *place)] = (
            stack.max(0) if p.op == "max" else stack.sum(0, dtype=np.float64) / count
        )
    return result


def generic_case(
    shapes: list[tuple[Any, ...]], define: Callable[..., Any], expect: Callable[..., Any], kind: str
) -> Case:
    """A te function scheduled by `schedule_generic`. "n" in a shape is a symbolic batch."""
    from tvm import te, tirx

    from cnncc.targets.cuda.generic import schedule_generic

    n = te.var("n", "int64")
    tensors = [placeholder(tuple(n if d == "n" else d for d in shape), f"a{i}") for i, shape in enumerate(shapes)]
    made = define(*tensors)
    results = list(made) if isinstance(made, (list, tuple)) else [made]
    func, workspaces, recipe = schedule_generic(te.create_prim_func([*tensors, *results]), TARGET)
    arrays = random(*shapes)
    expected = expect(*arrays)
    assert all(isinstance(d, (int, tirx.Var)) for shape, _ in workspaces for d in shape)
    scratch = [np.full([d if isinstance(d, int) else BATCH for d in shape], np.nan, t) for shape, t in workspaces]
    return Case(
        func,
        arrays,
        tuple(expected) if isinstance(expected, (list, tuple)) else (np.asarray(expected),),
        tuple(scratch),
        kind,
        recipe,
    )


CONVOLUTIONS = {
    "lenet conv1": ("conv nN ic1 h28 w28 oc6 k5x5 s1x1 p2x2", IMPLICIT_GEMM),
    "lenet conv2": ("conv nN ic6 h14 w14 oc16 k5x5 s1x1 p0x0", IMPLICIT_GEMM),
    "resnet stem": ("conv n1 ic3 h112 w112 oc64 k7x7 s2x2 p3x3", IMPLICIT_GEMM),
    "resnet 3x3": ("conv n1 ic64 h28 w28 oc64 k3x3 s1x1 p1x1", IMPLICIT_GEMM),
    "resnet 1x1 s2": ("conv nN ic64 h14 w14 oc128 k1x1 s2x2 p0x0", IMPLICIT_GEMM),
    "resnet last": ("conv n2 ic128 h7 w7 oc96 k3x3 s1x1 p1x1", IMPLICIT_GEMM),
    "one pixel": ("conv nN ic32 h1 w1 oc20 k1x1 s1x1 p0x0", IMPLICIT_GEMM),
    "grouped": ("conv n2 ic16 h9 w7 oc24 k3x3 s2x2 p1x0:0x2 d1x2 g2", IMPLICIT_GEMM),
    "rank 1": ("conv n2 ic16 w33 oc12 k5 s2 p3", IMPLICIT_GEMM),
    "rank 3": ("conv nN ic8 d5 h6 w7 oc8 k3x2x3 s1x2x1 p1x0x1", IMPLICIT_GEMM),
    "depthwise": ("conv nN ic8 h14 w14 oc8 k3x3 s2x2 p1x1 g8", DIRECT),
    "thin groups": ("conv n2 ic4 w9 oc6 k3 s1 p1 d2 g2", DIRECT),
}
MATMULS = {
    "lenet fc1": (MatmulProblem("N", 400, 120, True), GEMM),
    "lenet fc2 batch": (MatmulProblem(64, 120, 84, True), GEMM),
    "lenet fc1 one": (MatmulProblem(1, 400, 120, True), GEMV),
    "gemv kn": (MatmulProblem("N", 300, 50, False), GEMV),
    "odd kn": (MatmulProblem(33, 50, 70, False), GEMM),
    "batched": (MatmulProblem("N", 20, 30, False, batch=3), GEMM),
    "batched gemv": (MatmulProblem(2, 20, 30, True, batch=3), GEMV),
}
_NO_PADS = (0, 0, 0, 0)
POOLS = {
    "lenet max": PoolProblem("max", "N", 6, (28, 28), (14, 14), (2, 2), (2, 2), _NO_PADS, (1, 1)),
    "resnet max": PoolProblem("max", 2, 6, (15, 14), (8, 7), (3, 3), (2, 2), (1, 1, 1, 1), (1, 1)),
    "average": PoolProblem("average", 2, 6, (15, 14), (8, 8), (3, 3), (2, 2), (1, 1, 1, 1), (1, 1)),
    "average with pad": PoolProblem("average", 2, 6, (15, 14), (8, 8), (3, 3), (2, 2), (1,) * 4, (1, 1), True),
    "dilated": PoolProblem("average", 2, 3, (15,), (6,), (3,), (2,), (1, 1), (2,)),
    "global average": PoolProblem("average", "N", 20, (7, 7), (1, 1), (7, 7), (1, 1), _NO_PADS, (1, 1)),
    "large max": PoolProblem("max", 1, 20, (13, 13), (2, 2), (6, 6), (7, 7), _NO_PADS, (1, 1)),
}
