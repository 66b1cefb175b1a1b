"""cnncc opt FILE -p a,b,c: for those who work on the compiler."""

from __future__ import annotations

from pathlib import Path

import click

from cnncc.cli.common import json_option, need_file, print_json


@click.command("opt")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("-p", "--passes", "names", required=True, help="Names of passes, separated by commas; 'list' lists them.")
@click.option("--target", default="native", show_default=True)
@json_option
def command(file: Path, names: str, target: str, as_json: bool) -> None:
    """Run passes on FILE (textual IR, .cnn, or an .onnx model) and print the graph after them."""
    import cnncc
    from cnncc.errors import UnsupportedError
    from cnncc.passes import PASSES, Context, run_passes
    from cnncc.targets.machine import find_target

    if names == "list":
        click.echo("\n".join(PASSES))
        return
    need_file(file)
    chosen = [n.strip() for n in names.split(",") if n.strip()]
    unknown = [n for n in chosen if n not in PASSES]
    if unknown:
        raise UnsupportedError(f"there is no pass {', '.join(unknown)}; there are {', '.join(PASSES)}")
    graph = cnncc.load_onnx(file) if file.suffix == ".onnx" else cnncc.parse(file.read_text().partition("\n---\n")[0])
    context = Context(find_target(target))
    result = run_passes(graph, [PASSES[n] for n in chosen], context)
    if as_json:
        declined = [vars(d) for d in context.declined]
        print_json({"graph": str(result), "declined": declined, "seconds": context.seconds})
        return
    click.echo(str(result))
    for d in context.declined:
        click.echo(f"# declined: {d.rule} at {d.where}: {d.reason}", err=True)
