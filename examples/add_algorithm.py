"""Add an algorithm from outside the package: matrix products in double precision on CPUs.

    python examples/add_algorithm.py

cnncc has none, so they run on the fallback. This one puts the weights in panels of one vector and keeps the sums of a
row and panel in a register.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

import cnncc
from cnncc.ir.layout import PLAIN, Layout
from cnncc.targets.algorithm import Algorithm, Cost, Layouts
from cnncc.targets.problem import MatmulProblem
from cnncc.targets.table import register_algorithm
from cnncc.targets.target import Target


@dataclass(frozen=True)
class Tile:
    """lanes: outputs in a vector."""

    lanes: int


def define(p: MatmulProblem, tile: Tile, x: Any, w: Any, finish: Any) -> Any:
    """acc[i, j] = sum_k x[i, k] w[panel of j, k, lane of j]; `finish` adds what was fused: bias, activation."""
    from tvm import te, tirx

    n, lanes = -(-p.n // tile.lanes) * tile.lanes, tirx.const(tile.lanes, "int64")
    k = te.reduce_axis((tirx.const(0, "int64"), tirx.const(p.k, "int64")), "k")

    def term(i: Any, j: Any) -> Any:
        at = (j // lanes, k, j % lanes) if p.transposed else (k, j // lanes, j % lanes)
        return te.sum(x(i, k) * w(*at), axis=k)

    acc = te.compute((x.shape[0], tirx.const(n, "int64")), term, name="acc")
    return te.compute((x.shape[0], tirx.const(p.n, "int64")), lambda i, j: finish(acc(i, j), (i, j)), name="out")


def schedule(sch: Any, p: MatmulProblem, tile: Tile, target: Target) -> None:
    """A recipe, one primitive a line."""
    acc, out = sch.get_sblock("acc"), sch.get_sblock("out")
    row, column, k = sch.get_loops(acc)
    panel, lane = sch.split(column, [None, tile.lanes])
    sch.reorder(row, panel, k, lane)
    sch.reverse_compute_at(out, panel, preserve_unit_loops=True)
    sch.set_scope(acc, 0, "local")
    sch.vectorize(lane)
    sch.vectorize(sch.get_loops(sch.decompose_reduction(acc, k))[-1])


register_algorithm("cpu", Algorithm(
    name="dense_f64", op="matmul", define=define, schedule=schedule,
    applies=lambda p, target: None if p.dtype == "f64" and p.batch == 1 else f"it is for one product in f64, got {p}",
    tiles_for=lambda p, target: Tile(target.lanes(8)),
    cost=lambda p, target, tile: Cost(2 * p.macs / (target.gflops_per_core * 1e9 / 8)),  # a quarter of the peak in f64
    layouts=lambda p, target: Layouts(PLAIN, Layout(((0 if p.transposed else 1, target.lanes(8)),)), PLAIN),
))  # fmt: skip


def main() -> None:
    """Compile a layer in double precision and compare with numpy."""
    rng = np.random.default_rng(0)
    w, bias, x = rng.standard_normal((300, 100)), rng.standard_normal(300), rng.standard_normal((8, 100))
    b = cnncc.Builder()
    b.output(b.relu(b.add(b.matmul(b.input("x", ("N", 100), "f64"), w, transpose_w=True), bias)), "y")
    exe = cnncc.compile(b.finish())
    print(exe.report())
    print("largest difference from numpy:", np.abs(exe(x) - np.maximum(x @ w.T + bias, 0)).max())


if __name__ == "__main__":
    main()
