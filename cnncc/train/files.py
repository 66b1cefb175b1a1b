"""Files that are replaced as a whole: after a crash there is the old one or the new one."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from cnncc.errors import ModelFileError


def replace_file(path: Path, write: Callable[[IO[bytes]], Any]) -> None:
    """Write a file beside `path`, flush it to the disk, and give it the name.

    Raises ModelFileError naming the path where that is impossible; the old file is then as it was.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        with open(beside, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
        _sync_folder(path.parent)
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be written, {error}") from None
    finally:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)


def check_folder(path: Path) -> None:
    """Raises ModelFileError where a file could not be written for want of its folder: to be asked before training."""
    if not path.parent.is_dir():
        raise ModelFileError(f"{path}: cannot be written, there is no folder {path.parent}")


def _sync_folder(folder: Path) -> None:
    """The new name itself must reach the disk too."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
