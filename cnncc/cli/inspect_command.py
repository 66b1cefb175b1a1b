"""cnncc inspect MODEL: the graph, its parameters, its kernels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from rich.table import Table

from cnncc.cli.common import compile_options, console, json_option, model_argument, need_file, print_json
from cnncc.errors import GraphError, UnsupportedError

_FORMS = ("problem", "te", "tir", "scheduled", "llvm", "asm", "numpy")


@click.command("inspect")
@model_argument
@compile_options
@click.option("--ir", is_flag=True, help="Print the graph in textual form.")
@click.option("--kernels", is_flag=True, help="Plan the kernels, and print every one with its algorithm.")
@click.option("--kernel", help="Print one kernel: its index in the list of kernels, its layer, or its symbol.")
@click.option(
    "--as",
    "form",
    type=click.Choice(_FORMS),
    default="problem",
    show_default=True,
    help="How --kernel is shown: its descriptor, definition, plain loops, scheduled loops, LLVM, assembly. "
    "numpy: the whole model as a Python module that needs numpy alone.",
)
@json_option
def command(
    model: Path,
    shapes: Any,
    target: str,
    threads: int | None,
    accuracy: Any,
    ir: bool,
    kernels: bool,
    kernel: str | None,
    form: str,
    as_json: bool,
) -> None:
    """Show inputs, outputs, operations and parameters: as they are, if every layer were dense, if none were shared.

    With --kernel N: one kernel, in the form that --as names. With --as numpy: the model as flat, executable numpy.
    """
    import cnncc
    from cnncc.parameters import count_parameters

    with need_file(model).open("rb") as file:
        if file.read(4) == b"PK\x03\x04":
            raise UnsupportedError(f"{model}: inspect shows models, and this is a compiled file; give the .onnx file")
    graph = cnncc.load_onnx(model, dict(shapes) or None)
    if ir:
        click.echo(str(graph))
        return
    if form == "numpy":
        if kernel is not None:
            raise GraphError("--as numpy prints the whole model, before there are kernels; leave out --kernel")
        text = cnncc.to_numpy(graph)
        if as_json:
            print_json({"form": form, "text": text})
        else:
            click.echo(text)
        return
    if kernel is not None:
        _show_kernel(graph, kernel, form, target, threads, accuracy, as_json)
        return
    rows = count_parameters(graph)
    ops: dict[str, int] = {}
    for node in graph.nodes:
        ops[node.op] = ops.get(node.op, 0) + 1
    report = _planned(graph, target, threads, accuracy)[1] if kernels else None
    if as_json:
        print_json(
            {
                "inputs": {v.name: str(v.type) for v in graph.inputs},
                "outputs": {n: str(v.type) for v, n in zip(graph.outputs, graph.output_names, strict=True)},
                "operations": ops,
                "layers": [vars(r) for r in rows],
                "parameters": sum(r.shared for r in rows),
                "kernels": [vars(r) for r in report.rows] if report else None,
            }
        )
        return
    out = console()
    for value in graph.inputs:
        out.print(f"input  {value.name}: {value.type}", markup=False)
    for value, name in zip(graph.outputs, graph.output_names, strict=True):
        out.print(f"output {name}: {value.type}", markup=False)
    out.print(", ".join(f"{count} {op}" for op, count in sorted(ops.items(), key=lambda kv: -kv[1])))
    table = Table("layer", "op", "result", "parameters", "locally connected", "dense")
    for r in rows:
        table.add_row(r.layer, r.op, r.result, f"{r.shared:,}", f"{r.local:,}", f"{r.dense:,}")
    table.add_row("total", "", "", *(f"{sum(getattr(r, k) for r in rows):,}" for k in ("shared", "local", "dense")))
    out.print(table)
    if report is not None:
        head, *lines = str(report).splitlines()
        out.print(f"  #  {head}", soft_wrap=True, markup=False)
        for i, line in enumerate(lines):
            out.print(f"{i:3d}  {line}", soft_wrap=True, markup=False)


def _planned(graph: Any, target: str, threads: int | None, accuracy: Any) -> tuple[Any, Any, Any]:
    """What a compilation would build, its report, and the target."""
    from cnncc.driver import plan_graph
    from cnncc.report import Report
    from cnncc.runtime.specialize import open_symbols
    from cnncc.targets.machine import find_target
    from cnncc.tune.lookup import find_tuning

    if open_symbols(graph):
        sizes = ", ".join(sorted(open_symbols(graph)))
        raise GraphError(f"{sizes}: kernels are made for each size on first use; fix the sizes with --shape")
    machine = find_target(target, threads)
    planned = plan_graph(graph, machine, accuracy, tuning=find_tuning(None, machine, accuracy))
    return planned, Report.of({"calls": planned.calls}), machine


def _show_kernel(
    graph: Any, which: str, form: str, target: str, threads: int | None, accuracy: Any, as_json: bool
) -> None:
    from cnncc.kernels.forms import find_kernel, show_kernel

    planned, report, machine = _planned(graph, target, threads, accuracy)
    index = find_kernel(report.rows, which)
    row = report.rows[index]
    text = show_kernel(planned.callers[index], row, machine, form)
    if as_json:
        print_json({"index": index, **vars(row), "form": form, "text": text})
    else:
        click.echo(text)
