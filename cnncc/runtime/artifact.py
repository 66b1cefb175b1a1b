"""Artifacts: a compiled model in one file.

The file is an uncompressed zip: ``manifest.json`` (format, versions, machine, program, and per entry its size and
sha256), ``kernels/<n>.o``, and ``constants/<n>``, whose bytes start at multiples of 64 in the file. Loading maps the
file into memory: processes that load the same file share its weights. All of it is checked against the sha256 in the
manifest, which takes about 0.6 milliseconds a megabyte (and reads the weights, which the first run would do anyway);
``verify=False`` leaves the weights out, and they are read when a run first touches them.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import mmap
import os
import struct
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cnncc.errors import GraphError, ModelFileError, RuntimeFault
from cnncc.runtime.arena import ALIGNMENT
from cnncc.runtime.machine import check_features
from cnncc.runtime.program import Program
from cnncc.runtime.threads import default_threads
from cnncc.runtime.version import VERSION

if TYPE_CHECKING:
    from cnncc.runtime.executable import Executable

FORMAT = 2
_MANIFEST = "manifest.json"
_HEADER = struct.Struct("<4s5H3I2H")  # a zip entry's local header: its size, name and padding precede the bytes
_EPOCH = (1980, 1, 1, 0, 0, 0)  # entries carry no time: the same model gives the same file


def save(executable: Executable, path: Path) -> None:
    """Writes an executable, with its present state, to a file that appears whole or not at all."""
    program = executable.program
    constants = {**program.constants, **{n: executable.state[n] for n in executable.state if n in program.constants}}
    write(replace(program, constants=constants), path)


def write(program: Program, path: Path) -> None:
    """Writes a program to a file that appears whole or not at all. Raises ModelFileError where that is impossible."""
    kernels = {f"kernels/{i}.o": (name, data) for i, (name, data) in enumerate(program.kernels.items())}
    arrays = {
        f"constants/{i}": (name, np.asarray(a, order="C")) for i, (name, a) in enumerate(program.constants.items())
    }
    manifest = {
        "format": FORMAT,
        "cnncc": VERSION,
        "apache-tvm": importlib.metadata.version("apache-tvm"),
        "program": program.to_json(),
        "kernels": {e: {"name": n, "size": len(d), "sha256": _digest(d)} for e, (n, d) in kernels.items()},
        "constants": {
            e: {"name": n, "dtype": a.dtype.name, "shape": a.shape, "size": a.nbytes, "sha256": _digest(_bytes(a))}
            for e, (n, a) in arrays.items()
        },
    }
    entries: dict[str, bytes | memoryview] = {
        _MANIFEST: json.dumps(manifest, indent=1).encode(),
        **{e: d for e, (_, d) in kernels.items()},
        **{e: _bytes(a) for e, (_, a) in arrays.items()},
    }
    try:
        with _replacing(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
            for name, data in entries.items():
                _append(archive, name, data)
    except OSError as error:
        raise ModelFileError(f"{path}: the model cannot be written: {error}") from None


def load(path: str | Path, verify: bool = True) -> Executable:
    """A compiled model from the file that `Executable.save` wrote; needs no compiler.

    **Loading runs the code in the file: load only files you trust.** The checksums find damage, not malice.

    `verify`: check the weights' checksums. Raises ModelFileError where the file is not a compiled model or damaged,
    RuntimeFault where this machine or these versions cannot run it.
    """
    from cnncc.runtime.executable import Executable

    program = read(Path(path), verify)
    try:
        return Executable(program)
    except GraphError as error:
        raise ModelFileError(f"{path}: its program is damaged: {error}") from error
    except RuntimeFault as error:
        raise RuntimeFault(f"{path}: {error}") from error


def read(path: Path, verify: bool = True) -> Program:
    """The program in a file, its constants mapped read-only. Errors as for `load`."""
    try:
        with path.open("rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        with zipfile.ZipFile(path) as archive:
            manifest = json.loads(archive.read(_MANIFEST))
            places = {i.filename: i for i in archive.infolist()}
    except OSError as error:
        raise ModelFileError(f"{path}: the file cannot be read: {error}") from None
    except (zipfile.BadZipFile, KeyError, ValueError, RuntimeError, NotImplementedError) as error:
        raise ModelFileError(f"{path}: not a compiled model, or truncated: {error}") from None
    try:
        _check_versions(path, manifest)
        kernels = {}
        for entry, record in manifest["kernels"].items():
            kernels[str(record["name"])] = bytes(_entry(path, data, places, entry, record))
        constants = {}
        for entry, record in manifest["constants"].items():
            body = _entry(path, data, places, entry, record)
            array = np.frombuffer(body, record["dtype"]) if body.nbytes else np.empty(0, record["dtype"])
            constants[str(record["name"])] = array.reshape(record["shape"])
        records = [*manifest["kernels"].values(), *(manifest["constants"].values() if verify else ())]
        _check_digests(path, records, [*kernels.values(), *map(_bytes, constants.values())])
        program = Program.from_json(manifest["program"], kernels, constants)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise ModelFileError(f"{path}: its manifest is damaged: {type(error).__name__}: {error}") from None
    check_features(str(path), program.features)
    return program


def _check_digests(path: Path, records: Sequence[Mapping[str, Any]], bodies: Sequence[bytes | memoryview]) -> None:
    with ThreadPoolExecutor(default_threads()) as pool:  # hashing releases the GIL
        for record, digest in zip(records, pool.map(_digest, bodies[: len(records)]), strict=True):
            if digest != record["sha256"]:
                raise ModelFileError(f"{path}: {record['name']} is damaged: its checksum does not match")


def _check_versions(path: Path, manifest: Mapping[str, Any]) -> None:
    if manifest["format"] != FORMAT:
        raise RuntimeFault(
            f"{path}: the file's format must be {FORMAT}, got {manifest['format']} (written by cnncc "
            f"{manifest.get('cnncc', 'unknown')}, this is {VERSION}); compile the model again"
        )
    here = importlib.metadata.version("apache-tvm")
    if manifest["apache-tvm"] != here:
        raise RuntimeFault(
            f"{path}: it needs apache-tvm {manifest['apache-tvm']}, got {here}; install that or compile the model again"
        )


def _entry(
    path: Path, data: mmap.mmap, places: Mapping[str, zipfile.ZipInfo], entry: str, record: Mapping[str, Any]
) -> memoryview:
    """The bytes of an entry, in place; its header, size and bounds checked."""
    place = places.get(entry)
    if place is None:
        raise ModelFileError(f"{path}: {entry} ({record['name']}) is missing")
    at = place.header_offset
    if place.compress_type != zipfile.ZIP_STORED or place.file_size != record["size"] or at + _HEADER.size > len(data):
        raise ModelFileError(f"{path}: {entry} ({record['name']}) is damaged: {record['size']} bytes expected")
    fields = _HEADER.unpack_from(data, at)
    begin = at + _HEADER.size + fields[9] + fields[10]
    if fields[0] != b"PK\x03\x04" or begin + place.file_size > len(data):
        raise ModelFileError(f"{path}: {entry} ({record['name']}) is damaged: it does not lie within the file")
    return memoryview(data)[begin : begin + place.file_size]


def _append(archive: zipfile.ZipFile, name: str, data: bytes | memoryview) -> None:
    """Adds an entry whose bytes start at a multiple of 64: the header's extra field takes the padding."""
    info = zipfile.ZipInfo(name, _EPOCH)
    assert archive.fp is not None  # open for writing
    at = archive.fp.tell() + _HEADER.size + len(name.encode()) + 4
    if len(data) * 1.05 > zipfile.ZIP64_LIMIT:
        at += 20  # zipfile puts the 64-bit sizes behind our extra field
    padding = -at % ALIGNMENT
    info.extra = struct.pack("<HH", 0x4343, padding) + bytes(padding)  # an id of our own, a length, zeros
    archive.writestr(info, data)


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside `path` that takes its place at the end, or vanishes on an error."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _bytes(array: np.ndarray) -> memoryview:
    view: Any = array.reshape(-1).view(np.uint8)
    return memoryview(view)


def _digest(data: bytes | memoryview) -> str:
    return hashlib.sha256(data).hexdigest()
