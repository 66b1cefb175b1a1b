"""The kernel cache: object files on disk, found again by everything they depend on.

An entry is one file: a line with the length of the key and the digest of the rest, the key, the object. Its name is a
digest of the key, but the key itself is stored and compared. A cache that cannot be used costs time, never a result.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import logging
import os
import tempfile
import threading
import time
from pathlib import Path

from cnncc.runtime.version import VERSION

_log = logging.getLogger("cnncc")
_MAGIC = b"cnncc-kernel 1 "
_DEFAULT_LIMIT = 1 << 30
_PACKAGE = Path(__file__).resolve().parent.parent
_GENERATORS = ("ir", "kernels", "ops", "targets")  # folders whose code decides what a kernel becomes


class Cache:
    """A folder of object files. Safe for several processes at once: entries appear whole or not at all."""

    def __init__(self, folder: Path | None, limit: int = _DEFAULT_LIMIT) -> None:
        """`folder` None: nothing is kept. `limit`: bytes, above which entries not used for longest are removed."""
        self.folder = folder
        self.limit = limit
        self._lock = threading.Lock()
        self._size: int | None = None
        self._warned = False

    @staticmethod
    def default() -> Cache:
        """In CNNCC_CACHE_DIR, else XDG_CACHE_HOME/cnncc, else ~/.cache/cnncc. CNNCC_CACHE_LIMIT is in bytes."""
        return _default(
            os.environ.get("CNNCC_CACHE_DIR", ""),
            os.environ.get("XDG_CACHE_HOME", ""),
            os.environ.get("CNNCC_CACHE_LIMIT", ""),
            os.path.expanduser("~"),
        )

    def get(self, key: str) -> bytes | None:
        """The object stored under a key; None where there is none, or it is damaged."""
        if self.folder is None:
            return None
        path = self._path(key)
        try:
            data = path.read_bytes()
        except OSError:
            return None
        stored = _decode(data)
        if stored is None:
            _log.warning("kernel cache: %s is damaged and will be built again", path)
            with contextlib.suppress(OSError):
                path.unlink()
            return None
        if stored[0] != _full(key):
            return None
        with contextlib.suppress(OSError):
            os.utime(path)  # its last use, for eviction
        return stored[1]

    def put(self, key: str, data: bytes) -> None:
        """Stores an object. Where that is impossible, warns once."""
        if self.folder is None:
            return
        entry = _encode(_full(key), data)
        try:
            _write(self._path(key), entry)
            with self._lock:
                if self._size is None:
                    self._size = sum(size for _, size, _ in self._entries())
                else:
                    self._size += len(entry)
                if self._size > self.limit:
                    self._evict()
        except OSError as error:
            if not self._warned:
                self._warned = True
                _log.warning("kernel cache: %s cannot be written (%s); compiling works, without it", self.folder, error)

    def _path(self, key: str) -> Path:
        assert self.folder is not None
        return self.folder / (hashlib.sha256(_full(key).encode()).hexdigest()[:40] + ".kernel")

    def _entries(self) -> list[tuple[float, int, Path]]:
        assert self.folder is not None
        found = []
        for path in self.folder.glob("*.kernel"):
            with contextlib.suppress(OSError):  # another process removed it
                status = path.stat()
                found.append((status.st_mtime, status.st_size, path))
        return found

    def _evict(self) -> None:
        """Removes entries not used for longest, down to three quarters of the limit, and what killed processes left."""
        assert self.folder is not None
        for path in self.folder.glob(".tmp-*"):
            with contextlib.suppress(OSError):
                if path.stat().st_mtime < time.time() - 3600:
                    path.unlink()
        entries = sorted(self._entries())
        size = sum(s for _, s, _ in entries)
        for _, nbytes, path in entries:
            if size <= self.limit * 3 // 4:
                break
            with contextlib.suppress(OSError):
                path.unlink()
            size -= nbytes
        self._size = size


@functools.cache
def _default(chosen: str, xdg: str, limit: str, home: str) -> Cache:
    if not (chosen or xdg or os.path.isabs(home)):  # nobody's home
        return Cache(None)
    folder = Path(chosen) if chosen else Path(xdg or os.path.join(home, ".cache")) / "cnncc"
    return Cache(folder, int(limit) if limit.isdigit() else _DEFAULT_LIMIT)


@functools.cache
def versions() -> str:
    """What generated code depends on besides its key: cnncc (version and sources) and TVM, as one line."""
    digest = hashlib.sha256()
    for folder in _GENERATORS:
        for path in sorted((_PACKAGE / folder).glob("**/*.py")):
            digest.update(path.read_bytes())
    tvm = importlib.metadata.version("apache-tvm")
    return f"cnncc {VERSION} sources {digest.hexdigest()[:16]}, apache-tvm {tvm}"


def _full(key: str) -> str:
    return f"{versions()}\n{key}"


def _encode(key: str, data: bytes) -> bytes:
    text = key.encode()
    body = text + data
    return _MAGIC + f"{len(text)} {hashlib.sha256(body).hexdigest()}\n".encode() + body


def _decode(entry: bytes) -> tuple[str, bytes] | None:
    header, newline, body = entry.partition(b"\n")
    words = header.removeprefix(_MAGIC).split()
    if not newline or not header.startswith(_MAGIC) or len(words) != 2 or not words[0].isdigit():
        return None
    if hashlib.sha256(body).hexdigest().encode() != words[1]:
        return None
    return body[: int(words[0])].decode(), body[int(words[0]) :]


def _write(path: Path, data: bytes) -> None:
    """Writes a file that appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".tmp-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
