"""The command line. Commands are imported when they run, so that `cnncc --help` is fast."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import click

COMMANDS = {
    "demo": "Compile and run two real networks, and show how fast they are.",
    "check": "Say whether a model can be compiled, and what looks wrong in it.",
    "compile": "Compile a model to one file that runs without a compiler.",
    "run": "Run a model or a compiled file on arrays.",
    "verify": "Compare the compiled model with a reference.",
    "bench": "Time the model, alone or side by side with other systems.",
    "tune": "Measure the kernels of a model on this machine, and keep what beats the defaults.",
    "train": "Train a model as a configuration file says.",
    "profile": "Time every kernel, next to what the machine could do at best.",
    "inspect": "Show what a model is made of and what its kernels are.",
    "opt": "Run passes on a graph in textual form.",
}


class _Lazy(click.Group):
    """A group whose commands are loaded from cnncc.cli.<name> when they are used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"cnncc.cli.{name}_command").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError:
            import difflib

            close = difflib.get_close_matches(args[0], COMMANDS)
            hint = f" Did you mean {' or '.join(close)}?" if close else ""
            raise click.UsageError(f"There is no command '{args[0]}'.{hint}", ctx) from None


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="cnncc")
@click.option("-v", "--verbose", is_flag=True, help="Say what the compiler decides, and why rules were declined.")
def group(verbose: bool) -> None:
    """cnncc compiles convolutional networks to fast kernels."""
    if verbose:
        import logging

        logging.basicConfig(level=logging.DEBUG, format="%(name)s: %(message)s", stream=sys.stderr)
        for noisy in ("matplotlib", "PIL"):
            logging.getLogger(noisy).setLevel(logging.WARNING)


def main() -> None:
    """The entry point: errors of the caller are one clear message and exit code 1, Ctrl-C is 130."""
    from cnncc.errors import CnnccError

    try:
        group(standalone_mode=False)
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)
    except CnnccError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(1)
