"""What people see while a network trains: a bar with the time left on a terminal, or a line per epoch, or nothing."""

from __future__ import annotations

import sys
import time
from typing import Literal, Protocol

from cnncc.errors import GraphError
from cnncc.train.history import Epoch

INTERVAL = 0.1  # seconds between two changes of a bar
Style = Literal["auto", "bar", "lines", "none"]


class Reporter(Protocol):
    """Told what happens."""

    def start(self, epochs: int, epoch: int, length: int | None) -> None:
        """Training begins (or goes on) with `epoch` (from 0) of `epochs`, of `length` batches where that is known."""
        ...

    def batch(self, epoch: int, position: int, means: dict[str, float], speed: float) -> None:
        """A batch is done: batches done in this epoch, means so far, samples per second."""
        ...

    def epoch(self, record: Epoch, best: bool) -> None:
        """An epoch is done."""
        ...

    def close(self) -> None:
        """Training ended."""
        ...


def find_reporter(style: Style | Reporter) -> Reporter:
    """ "auto": a bar where standard output is a terminal, else nothing. Raises GraphError for unknown names."""
    if not isinstance(style, str):
        return style
    if style == "auto":
        style = "bar" if sys.stdout.isatty() else "none"
    kinds: dict[str, type] = {"bar": Bar, "lines": Lines, "none": Silent}
    if style not in kinds:
        raise GraphError(f"progress must be 'auto', 'bar', 'lines' or 'none', got {style!r}")
    reporter: Reporter = kinds[style]()
    return reporter


class Silent:
    """Says nothing."""

    def start(self, epochs: int, epoch: int, length: int | None) -> None:
        """See Reporter."""

    def batch(self, epoch: int, position: int, means: dict[str, float], speed: float) -> None:
        """See Reporter."""

    def epoch(self, record: Epoch, best: bool) -> None:
        """See Reporter."""

    def close(self) -> None:
        """See Reporter."""


class Lines(Silent):
    """A line per epoch on standard output."""

    def start(self, epochs: int, epoch: int, length: int | None) -> None:
        """See Reporter."""
        self.epochs = epochs

    def epoch(self, record: Epoch, best: bool) -> None:
        """See Reporter."""
        print(line(record, self.epochs, best), flush=True)


class Bar(Silent):
    """A bar over the batches of all epochs with loss, accuracy, images per second and time left; a line per epoch."""

    def start(self, epochs: int, epoch: int, length: int | None) -> None:
        """See Reporter."""
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[means]}"))
        self.epochs, self.length, self._shown = epochs, length, 0.0
        self._bar = Progress(*columns, TimeRemainingColumn(), console=Console(highlight=False), transient=True)
        total = None if length is None else epochs * length
        self._task = self._bar.add_task(
            "compiling", total=total, completed=epoch * (length or 0), means="", start=length is not None
        )
        self._bar.start()

    def batch(self, epoch: int, position: int, means: dict[str, float], speed: float) -> None:
        """See Reporter."""
        now = time.monotonic()
        if now - self._shown < INTERVAL and position != self.length:
            return
        self._shown = now
        done = None if self.length is None else epoch * self.length + position
        text = "  ".join([*(f"{k} {v:.4f}" for k, v in means.items()), f"{speed:,.0f} images/s"])
        self._bar.update(self._task, completed=done, means=text, description=f"epoch {epoch + 1}/{self.epochs}")

    def epoch(self, record: Epoch, best: bool) -> None:
        """See Reporter."""
        self._bar.console.print(line(record, self.epochs, best), markup=False)

    def close(self) -> None:
        """See Reporter."""
        self._bar.stop()


def line(record: Epoch, epochs: int, best: bool) -> str:
    """An epoch in words."""
    width = len(str(epochs))
    parts = [f"epoch {record.epoch:{width}}/{epochs}", *(f"{k} {v:.4f}" for k, v in record.train.items())]
    parts += [f"val_{k} {v:.4f}" for k, v in record.validation.items()]
    parts += [f"lr {record.lr:.3g}", f"{record.images_per_second:,.0f} images/s"]
    return "  ".join(parts) + ("  (best)" if best else "")
