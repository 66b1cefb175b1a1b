"""cnncc train CONFIG."""

from __future__ import annotations

from pathlib import Path

import click

from cnncc.cli.common import console, json_option, need_file, print_json


@click.command("train")
@click.argument("config", type=click.Path(path_type=Path))
@click.option("--epochs", type=click.IntRange(1), help="In place of the file's.")
@click.option("--resume", is_flag=True, help="Go on from the checkpoint, where there is one.")
@click.option("--quiet", is_flag=True, help="No progress, only the result.")
@json_option
def command(config: Path, epochs: int | None, resume: bool, quiet: bool, as_json: bool) -> None:
    """Train as CONFIG (a .toml file) says; its keys are in docs/training.md, examples in examples/*.toml.

    Model, data and loss may be Python functions: run only files that you trust.
    """
    from cnncc.train.config import read_config
    from cnncc.train.configured import run_config

    out = console()
    checked = read_config(need_file(config))
    style = "none" if as_json or quiet else "bar" if out.is_terminal else "lines"
    try:
        outcome = run_config(checked, epochs, resume, style)
    except KeyboardInterrupt:
        saved = checked.file("checkpoint")
        if saved is not None and saved.exists():
            click.echo(f"--resume goes on from {saved}", err=True)
        raise
    if as_json:
        print_json(
            outcome.history.to_dict()
            | {"best_row": outcome.history.best_row, "test": dict(outcome.test), "output": outcome.output}
        )
        return
    history = outcome.history
    words = f"{len(history.epochs)} epochs"
    if history.best is not None:
        words += f", best epoch {history.best}" + (" (its parameters are kept)" if history.restored else "")
    out.print(words, markup=False)
    if outcome.test:
        out.print("test: " + "  ".join(f"{k} {v:.4f}" for k, v in outcome.test.items()), markup=False)
    if outcome.output is not None:
        out.print(f"wrote {outcome.output}", markup=False)
