"""Checkpoints: arrays by name and one JSON document, in an .npz file. No pickle, so opening a file runs nothing.

A checkpoint holds everything that the rest of a run depends on: see `cnncc.train.fit`.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np

from cnncc.errors import ModelFileError
from cnncc.train.files import replace_file

VERSION = 1
META = "checkpoint.json"
KIND = "cnncc training checkpoint"


@dataclass(frozen=True)
class Checkpoint:
    """Arrays under ``<group>/<name>`` (groups "state" and "best"), and plain data."""

    meta: Mapping[str, Any]
    state: Mapping[str, np.ndarray]
    best: Mapping[str, np.ndarray] = field(default_factory=dict)


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint; the file appears as a whole or not at all. Raises ModelFileError where it cannot be."""
    text = json.dumps({"kind": KIND, "version": VERSION, **checkpoint.meta})
    arrays = {META: np.frombuffer(text.encode(), np.uint8)}
    for group, members in (("state", checkpoint.state), ("best", checkpoint.best)):
        arrays |= {f"{group}/{name}": np.asarray(array) for name, array in members.items()}

    def write(file: IO[bytes]) -> None:
        with zipfile.ZipFile(file, "w") as archive:
            for name, array in arrays.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, array, allow_pickle=False)

    replace_file(path, write)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint. Raises ModelFileError naming the file, and the entry where one is damaged."""
    if not path.is_file():
        raise ModelFileError(f"{path}: there is no such checkpoint")
    if not zipfile.is_zipfile(path):
        raise ModelFileError(f"{path}: must be a checkpoint (an .npz file), which this is not, or not all of one")
    try:
        archive = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ModelFileError(f"{path}: must be a checkpoint (an .npz file), {error}") from None
    if not isinstance(archive, np.lib.npyio.NpzFile) or META not in archive.files:
        raise ModelFileError(f"{path}: must be a checkpoint of cnncc, but has no {META}")
    with archive:
        meta = _meta(path, _entry(path, archive, META))
        groups: dict[str, dict[str, np.ndarray]] = {"state": {}, "best": {}}
        for key in archive.files:
            group, slash, name = key.partition("/")
            if slash and group in groups:
                groups[group][name] = _entry(path, archive, key)
            elif key != META:
                raise ModelFileError(f"{path}: entries must be {META}, state/... or best/..., got {key!r}")
    return Checkpoint(meta, groups["state"], groups["best"])


def check_arrays(path: Path, found: Mapping[str, np.ndarray], wanted: Mapping[str, np.ndarray]) -> None:
    """Raises ModelFileError listing every name, shape and dtype of a checkpoint that is not as the model has it."""
    problems = [f"{name} is missing" for name in wanted if name not in found]
    problems += [f"{name} is not in the model" for name in found if name not in wanted]
    for name in wanted:
        if name in found:
            have, want = found[name], wanted[name]
            if (have.shape, have.dtype) != (want.shape, want.dtype):
                problems.append(f"{name} must be {want.dtype}{want.shape}, got {have.dtype}{have.shape}")
    if problems:
        raise ModelFileError(f"{path}: the checkpoint is of another model or optimizer:\n  " + "\n  ".join(problems))


def check_equal(path: Path, found: Mapping[str, Any], wanted: Mapping[str, Any], what: str) -> None:
    """Raises ModelFileError naming every setting that differs from the one that a checkpoint was made with."""
    problems = [
        f"{key} was {found.get(key)!r}, now {wanted.get(key)!r}"
        for key in dict.fromkeys((*found, *wanted))
        if found.get(key) != wanted.get(key)
    ]
    if problems:
        raise ModelFileError(f"{path}: the run was begun with another {what}: " + "; ".join(problems))


def _entry(path: Path, archive: Any, key: str) -> np.ndarray:
    try:
        array: np.ndarray = archive[key]
    except (OSError, ValueError, EOFError, KeyError, zlib.error, zipfile.BadZipFile, NotImplementedError) as error:
        raise ModelFileError(f"{path}: entry '{key}' is damaged, {error}") from None
    return array


def _meta(path: Path, data: np.ndarray) -> dict[str, Any]:
    try:
        meta = json.loads(data.tobytes().decode())
    except ValueError as error:
        raise ModelFileError(f"{path}: entry '{META}' is damaged, {error}") from None
    if not isinstance(meta, dict) or meta.get("kind") != KIND:
        raise ModelFileError(f"{path}: must be a training checkpoint of cnncc")
    if meta.get("version") != VERSION:
        raise ModelFileError(f"{path}: its version must be {VERSION}, got {meta.get('version')}")
    return meta
