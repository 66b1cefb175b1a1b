"""What a compiled model runs, kernel by kernel."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from cnncc.ir.dims import substitute
from cnncc.ir.graph import Graph, Node, Value
from cnncc.ir.kernel import anchor
from cnncc.passes.memory import Plan
from cnncc.targets.describe import describe_kernel
from cnncc.targets.problem import ConvProblem, FusedProblem, MatmulDwProblem, MatmulProblem
from cnncc.targets.table import FALLBACK
from cnncc.targets.target import Target


@dataclass(frozen=True)
class KernelRow:
    """One kernel call. gflop and mbytes are per run at batch 1 where the batch is symbolic. tuned: it runs a measured
    record of the tuning database."""

    layer: str
    kernel: str
    ops: str
    algorithm: str
    problem: str
    layouts: str
    tile: str
    gflop: float
    mbytes: float
    tuned: bool = False

    @property
    def fallback(self) -> bool:
        """Whether the kernel has no algorithm of its own although it deserves one."""
        return self.algorithm == FALLBACK


@dataclass(frozen=True)
class Report:
    """All kernel calls of a model, in order."""

    rows: tuple[KernelRow, ...]

    @staticmethod
    def of(notes: Mapping[str, Any]) -> Report:
        """From the notes of a program."""
        return Report(tuple(KernelRow(**row) for row in notes.get("calls", ())))

    def __str__(self) -> str:
        head = ("layer", "ops", "algorithm", "layouts", "GFLOP", "MB", "problem", "tile")
        lines = [
            (
                r.layer[-32:],
                r.ops[:40],
                r.algorithm + " (tuned)" * r.tuned,
                r.layouts,
                f"{r.gflop:.3f}",
                f"{r.mbytes:.2f}",
                r.problem,
                r.tile,
            )
            for r in self.rows
        ]
        widths = [max(len(row[k]) for row in (head, *lines)) for k in range(len(head))]
        return "\n".join(
            "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in (head, *lines)
        )


def describe_calls(
    graph: Graph, plan: Plan, symbols: Mapping[Node, str], target: Target, tuned: Collection[Node] = ()
) -> Sequence[dict[str, Any]]:
    """The rows of a report as plain data, for the program's notes."""
    rows = []
    for node in graph.nodes:
        if node in plan.skipped or node.body is None:
            continue
        problem = describe_kernel(node)
        values = [*node.operands(), *node.outputs]
        moved = sum(_number(v.type.nbytes) for v in values)
        if isinstance(problem, (ConvProblem, FusedProblem, MatmulDwProblem, MatmulProblem)):
            flops = 2.0 * replace(problem, hint=1).macs
        else:
            flops = _anchor_flops(node)
        layouts = [_lies(v, plan) for v in (values[0], values[-1])]
        rows.append(
            asdict(
                KernelRow(
                    layer=node.source or node.outputs[0].name,
                    kernel=symbols[node],
                    ops="+".join(n.op for n in node.body.nodes),
                    algorithm=node.attrs.algorithm,
                    problem=str(problem or ""),
                    layouts=layouts[0] if layouts[0] == layouts[1] else "->".join(layouts),
                    tile=" ".join(f"{k}={v}" for k, v in node.attrs.tile),
                    gflop=flops / 1e9,
                    mbytes=moved / 1e6,
                    tuned=node in tuned,
                )
            )
        )
    return rows


def _lies(value: Value, plan: Plan) -> str:
    """How a value lies in memory: ``aBcd16b``; ``aBcd16b/802816`` where images are so many elements apart, being parts
    of a concat's."""
    tag = value.type.layout.tag(value.type.rank) if value.type.layout else "plain"
    return f"{tag}/{plan.pitches[value]}" if value in plan.pitches else tag


def _anchor_flops(node: Node) -> float:
    """2 x (result elements) x (elements summed for each) for products without a problem record; otherwise 0."""
    assert node.body is not None
    root = anchor(node.body)
    if root is None or root.op not in ("conv", "conv_transpose", "conv_dw", "matmul"):
        return 0.0
    x, w = (v.type for v in list(root.operands())[:2])
    out = root.outputs[0].type
    if root.op == "conv":
        return 2.0 * _number(out.elements) * _number(w.elements) / _number(w.shape[0])
    if root.op == "conv_transpose":
        return 2.0 * _number(x.elements) * _number(w.elements) / _number(w.shape[0])
    if root.op == "conv_dw":
        return 2.0 * _number(w.elements) * _number(out.elements) / _number(out.shape[0])
    return 2.0 * _number(out.elements) * _number(x.shape[-2 if root.attrs.transpose_x and x.rank > 1 else -1])


def _number(dim: Any) -> int:
    return dim if isinstance(dim, int) else int(substitute(dim, {s.name: 1 for s in dim.free_symbols}))
