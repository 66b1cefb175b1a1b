"""A progress bar for compilations, on standard error and only for people."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from cnncc.driver import Progress


@contextlib.contextmanager
def shown_progress(quiet: bool = False) -> Iterator[Progress]:
    """A Progress that draws stages and kernels built while the block runs."""
    if quiet:
        yield Progress()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Bar(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("compiling", total=None)

        def kernel(done: int, total: int, symbol: str) -> None:
            bar.update(task, description="building kernels", completed=done, total=total)

        yield Progress(lambda name, seconds: bar.update(task, description=name), kernel)
