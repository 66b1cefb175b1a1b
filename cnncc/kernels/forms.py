"""A kernel in the forms it takes on its way: problem, te definition, plain and scheduled loops, LLVM, assembly."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from cnncc.errors import GraphError, UnsupportedError
from cnncc.ir.graph import Node
from cnncc.ir.printer import attributes, print_graph
from cnncc.report import KernelRow
from cnncc.targets.target import Target


def find_kernel(rows: Sequence[KernelRow], which: str) -> int:
    """The position of a kernel call by its index in the report (any number is one), its layer, symbol, or a part.

    Raises GraphError where there is none, or several with different code.
    """
    if which.lstrip("-").isdigit():
        if 0 <= int(which) < len(rows):
            return int(which)
        raise GraphError(f"kernel {which}: indices go from 0 to {len(rows) - 1}")
    for matches in (
        [i for i, row in enumerate(rows) if which in (row.layer, row.kernel)],
        [i for i, row in enumerate(rows) if which in row.layer or which in row.kernel],
    ):
        if len({rows[i].kernel for i in matches}) == 1:
            return matches[0]
        if matches:
            shown = ", ".join(f"{i} ({rows[i].layer})" for i in matches[:8])
            raise GraphError(f"kernel '{which}': it must mean one kernel, got {len(matches)}: {shown}")
    listed = ", ".join(dict.fromkeys(row.layer for row in rows[:8]))
    raise GraphError(f"kernel '{which}': no index, layer or symbol of the report; layers are {listed}, ...")


def show_kernel(node: Node, row: KernelRow, target: Target, form: str) -> str:
    """The text of a kernel in one of FORMS. Raises UnsupportedError for a form that a target's kernels do not have."""
    if target.kind == "cuda" and form in ("llvm", "asm"):
        raise UnsupportedError(f"--as {form} shows the code of CPU kernels, got target {target.name}")
    return FORMS[form](node, row, target)


def _problem(node: Node, row: KernelRow, target: Target) -> str:
    assert node.body is not None
    lines = [
        f"layer      {row.layer}",
        f"kernel     {row.kernel}",
        f"problem    {row.problem or 'none: an operation without algorithms of its own'}",
        f"algorithm  {row.algorithm}",
        f"layouts    {row.layouts}",
        f"tile       {row.tile or 'none'}",
        f"work       {row.gflop:.6f} GFLOP, {row.mbytes:.6f} MB",
        f"target     {target.name}, {target.vector_bits} bits, {target.threads} threads",
        f"attributes {attributes(node.attrs)}",
        "",
        print_graph(node.body),
    ]
    return "\n".join(lines)


def _te(node: Node, row: KernelRow, target: Target) -> str:
    """The stages of the definition: result, axes, the element at them, and what a reduction starts from."""
    from cnncc.targets.lower import define_kernel, unscheduled

    defined = define_kernel(node, target)
    lines = [f"{tensor.op.name}: {tensor.dtype}{_extents(tensor.shape)}" for tensor in defined.arguments]
    for block in _blocks(unscheduled(node, defined)):
        lines += ["", *_stage(block)]
    text = re.sub(r"T\.(?:int|float)(?:32|64)\((-?[\w.+-]+)\)", r"\1", "\n".join(lines))
    return re.sub(r"\bv_(?=\w)", "", text)


def _blocks(func: Any) -> list[Any]:
    """The blocks of a PrimFunc in order, without the one around all others."""
    from tvm import IRModule, s_tir

    schedule = s_tir.Schedule(IRModule({"main": func}))
    return [schedule.get(block) for block in schedule.get_child_blocks(schedule.get_sblock("root"))]


def _stage(block: Any) -> Iterator[str]:
    axes = ", ".join(f"{axis.var.name} < {axis.dom.extent}" for axis in block.iter_vars)
    yield f"{block.name_hint} for {axes}:"
    if block.init is not None:
        yield from (f"    first {line}" for line in _statements(block.init))
    yield from (f"    {line}" for line in _statements(block.body))


def _statements(body: Any) -> list[str]:
    """A block's text without the declarations that TVM's printer puts before a fragment."""
    declared = re.compile(r"\w+ = T\.(Buffer\(.*|int(32|64)\(\))$|# ")
    return [line for line in str(body).splitlines() if not declared.match(line)]


def _extents(shape: Sequence[Any]) -> str:
    return "[" + ", ".join(map(str, shape)) + "]"


def _tir(node: Node, row: KernelRow, target: Target) -> str:
    from cnncc.targets.lower import define_kernel, unscheduled

    return str(unscheduled(node, define_kernel(node, target)).script())


def _scheduled(node: Node, row: KernelRow, target: Target) -> str:
    from cnncc.targets.lower import lower_kernel

    return str(lower_kernel(node, target).func.script())


def _llvm(node: Node, row: KernelRow, target: Target, form: str = "ll") -> str:
    from cnncc.kernels.build import kernel_llvm
    from cnncc.targets.lower import lower_kernel

    return kernel_llvm(lower_kernel(node, target).func, target, row.kernel, form, team=target.threads > 1)


def _assembly(node: Node, row: KernelRow, target: Target) -> str:
    return _llvm(node, row, target, "asm")


FORMS: dict[str, Callable[[Node, KernelRow, Target], str]] = {
    "problem": _problem,
    "te": _te,
    "tir": _tir,
    "scheduled": _scheduled,
    "llvm": _llvm,
    "asm": _assembly,
}
