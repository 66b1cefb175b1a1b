"""cnncc check MODEL, cnncc check --ops."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from cnncc.cli.common import ShapeType, console, json_option, need_file, print_json


@click.command("check")
@click.argument("model", type=click.Path(path_type=Path), required=False)
@click.option("--shape", "shapes", multiple=True, type=ShapeType(), help="Fix an input's shape; repeatable.")
@click.option("--ops", is_flag=True, help="Print the table of operations instead.")
@json_option
def command(model: Path | None, shapes: Any, ops: bool, as_json: bool) -> None:
    """Say whether MODEL (.onnx) can be compiled, without compiling it; exit code 1 if not."""
    from cnncc.check import check

    if ops:
        _operations(as_json)
        return
    if model is None:
        raise click.UsageError("give MODEL, or --ops")
    report = check(need_file(model), dict(shapes) or None)
    if as_json:
        print_json(report.to_dict())
        sys.exit(0 if report.ok else 1)
    out = console()
    opsets = ", ".join(f"{domain or 'ai.onnx'} {version}" for domain, version in report.opsets.items())
    out.print(f"{model}: opset {opsets}; " + ", ".join(f"{n} {op}" for op, n in report.operators.items()), markup=False)
    for kind, ports in (("input", report.inputs), ("output", report.outputs)):
        for port in ports:
            out.print(f"{kind:6} {port.name}: {port.dtype}[{', '.join(map(str, port.shape))}]", markup=False)
    if report.parameters:
        out.print(f"{report.parameters:,} parameters, {report.macs} multiply-adds a run")
    for finding in report.findings:
        out.print(f"{finding.severity}: {finding.node}: {finding.message} ({finding.rule})", markup=False)
    if report.unsupported:
        table = Table("operator", "node", "reason", title="not supported")
        for item in report.unsupported:
            table.add_row(*(str(v) for v in vars(item).values()))
        out.print(table)
    if report.error:
        out.print(f"error: {report.error}", markup=False)
    out.print("can be compiled" if report.ok else "cannot be compiled", style="green" if report.ok else "red")
    sys.exit(0 if report.ok else 1)


def _operations(as_json: bool) -> None:
    from cnncc.check import op_rows

    rows = op_rows()
    if as_json:
        print_json([vars(r) for r in rows])
        return
    table = Table("operation", "operands", "attributes", "gradient", "evaluated by", "ONNX")
    for r in rows:
        attributes = ", ".join(f"{k}={v}" for k, v in r.attributes.items())
        table.add_row(r.name, ", ".join(r.operands), attributes, r.gradient, r.lowering, r.onnx)
    console().print(table)
