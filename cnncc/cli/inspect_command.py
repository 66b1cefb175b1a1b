"""cnncc inspect MODEL: the graph, its parameters, its kernels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from rich.table import Table

from cnncc.cli.common import compile_options, console, json_option, model_argument, need_file, print_json


@click.command("inspect")
@model_argument
@compile_options
@click.option("--ir", is_flag=True, help="Print the graph in textual form.")
@click.option("--kernels", is_flag=True, help="Compile, and print every kernel with its algorithm.")
@json_option
def command(
    model: Path, shapes: Any, target: str, threads: int | None, accuracy: Any, ir: bool, kernels: bool, as_json: bool
) -> None:
    """Show inputs, outputs, operations and parameters: as they are, if every layer were dense, if none were shared."""
    import cnncc
    from cnncc.parameters import count_parameters

    graph = cnncc.load_onnx(need_file(model), dict(shapes) or None)
    if ir:
        click.echo(str(graph))
        return
    rows = count_parameters(graph)
    ops: dict[str, int] = {}
    for node in graph.nodes:
        ops[node.op] = ops.get(node.op, 0) + 1
    report = cnncc.compile(model, target, threads, dict(shapes) or None, accuracy).report() if kernels else None
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
        out.print(str(report), soft_wrap=True, markup=False)
