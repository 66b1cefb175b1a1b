"""Reads ONNX models from paths, bytes or protobuf messages, as hostile input: nothing is executed, nothing outside
the model's folder is opened, sizes are checked before memory is taken.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from cnncc.edges.onnx_limits import LIMITS, Limits
from cnncc.edges.onnx_wire import cut_weights
from cnncc.errors import ModelFileError

if TYPE_CHECKING:
    import onnx

ModelSource: TypeAlias = "str | os.PathLike[str] | bytes | onnx.ModelProto"

_KINDS = (  # (offset, first bytes, what such a file is)
    (0, b"PK\x03\x04", "a zip archive (perhaps a torch .pt file: export it with torch.onnx.export)"),
    (0, b"\x80\x02", "a Python pickle (perhaps a torch checkpoint: export the module with torch.onnx.export)"),
    (0, b"ORTM", "an ONNX Runtime .ort file: give the .onnx file that it was made from"),
    (4, b"ORTM", "an ONNX Runtime .ort file: give the .onnx file that it was made from"),
    (4, b"TFL3", "a TensorFlow Lite model"),
    (0, b"\x89HDF", "an HDF5 file (perhaps a Keras model)"),
    (0, b"<?xml", "an XML file (perhaps an OpenVINO model)"),
    (0, b"<net", "an XML file (perhaps an OpenVINO model)"),
    (0, b"version https://git-lfs", "a Git LFS pointer: fetch the file itself with git lfs pull"),
    (0, b"\x7fELF", "an executable or shared library"),
    (0, b"\x89PNG", "a PNG image"),
    (0, b"<!DOCTYPE", "an HTML page (perhaps a failed download)"),
    (0, b"<html", "an HTML page (perhaps a failed download)"),
)


@dataclass
class ModelFile:
    """A parsed model: the message, what to call it in errors, and the folder its external data may lie in.

    weights: the bytes of initializers of the graph that the message is without, by their numbers.
    """

    proto: Any
    label: str
    path: Path | None = None
    limits: Limits = LIMITS
    weights: Mapping[int, np.ndarray] = field(default_factory=dict)
    taken: int = field(default=0, init=False)  # bytes of constants so far

    def take(self, nbytes: int, what: str) -> None:
        """Count bytes of constants. Raises ModelFileError above the limit."""
        self.taken += nbytes
        if self.taken > self.limits.constant_bytes:
            raise ModelFileError(
                f"{self.label}: constants may take {self.limits.constant_bytes} bytes together, "
                f"got {self.taken} with {what}"
            )


def read_model(source: ModelSource, limits: Limits = LIMITS) -> ModelFile:
    """Parse a model and check that it is one. External data stays on disk until a tensor is asked for.

    Raises ModelFileError for files that are missing, truncated, of another kind, or above a limit.
    """
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _parsed(memoryview(bytes(source)), "model bytes", None, limits)
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        return _parsed(_read_file(path, limits), str(path), path, limits)
    import onnx

    if not isinstance(source, onnx.ModelProto):
        raise ModelFileError(
            f"a model must be a path, bytes or onnx.ModelProto, got {type(source).__module__}.{type(source).__name__}"
        )
    return _checked(ModelFile(source, f"model {source.graph.name!r}", None, limits))


def _read_file(path: Path, limits: Limits) -> memoryview:
    try:
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ModelFileError(f"{path}: a model must be a regular file")
            if status.st_size > limits.file_bytes:
                raise ModelFileError(
                    f"{path}: an ONNX file holds at most {limits.file_bytes} bytes (larger weights are external data), "
                    f"got {status.st_size}"
                )
            data = np.empty(status.st_size, np.uint8)  # numpy's memory, which is had in large pages
            data = data[: file.readinto(data.data)]
            data.flags.writeable = False  # the weights are parts of it
            return data.data
    except OSError as error:
        raise ModelFileError(f"{path}: cannot be read: {error.strerror}") from None


def _parsed(data: memoryview, label: str, path: Path | None, limits: Limits) -> ModelFile:
    import onnx
    from google.protobuf.message import DecodeError

    if not data:
        raise ModelFileError(f"{label}: not an ONNX model, the file is empty")
    for offset, magic, kind in _KINDS:
        if bytes(data[offset : offset + len(magic)]).lower() == magic.lower():
            raise ModelFileError(f"{label}: not an ONNX model but {kind}")
    model = onnx.ModelProto()
    message, weights = cut_weights(data)
    try:
        model.ParseFromString(message)
    except DecodeError:
        raise ModelFileError(
            f"{label}: not an ONNX model, or a truncated one: its {len(data)} bytes are no protobuf message"
        ) from None
    return _checked(ModelFile(model, label, path, limits, weights))


def _checked(file: ModelFile) -> ModelFile:
    model = file.proto
    if not model.HasField("graph") or (not model.graph.node and not model.graph.output):
        raise ModelFileError(f"{file.label}: not an ONNX model, or a truncated one: it has no graph")
    if not model.graph.output:
        raise ModelFileError(f"{file.label}: the graph has no outputs; the file is probably truncated")
    if not model.opset_import:
        raise ModelFileError(f"{file.label}: the model does not say its opset (opset_import); it is probably truncated")
    from cnncc.edges.onnx_limits import check_limits

    check_limits(model, file.label, file.limits)
    return file


def external_bytes(file: ModelFile, tensor: Any, nbytes: int) -> np.ndarray:
    """The raw bytes of a tensor whose data lies in another file, which must be in the model's folder."""
    where = f"{file.label}: external data of '{tensor.name}'"
    entries = {e.key: e.value for e in tensor.external_data}
    location = entries.get("location", "")
    if file.path is None:
        raise ModelFileError(f"{where}: give the model as a path, its weights are in another file ({location!r})")
    try:
        offset, length = int(entries.get("offset") or 0), int(entries.get("length") or nbytes)
    except ValueError:
        raise ModelFileError(f"{where}: offset and length must be integers") from None
    if length != nbytes or offset < 0:
        raise ModelFileError(f"{where}: the length must be {nbytes} bytes from an offset of at least 0, "
                             f"got {length} from {offset}")  # fmt: skip
    path = _contained(file.path, location, where)
    try:
        with open(os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | os.O_NONBLOCK), "rb") as data:
            status = os.fstat(data.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ModelFileError(f"{where}: {location!r} must be a regular file")
            if offset + length > status.st_size:
                raise ModelFileError(
                    f"{where}: needs bytes {offset} to {offset + length} of {location!r}, which has {status.st_size}"
                )
            data.seek(offset)
            return np.fromfile(data, np.uint8, length)
    except OSError as error:
        raise ModelFileError(f"{where}: {location!r} cannot be read: {error.strerror}") from None


def _contained(model: Path, location: str, where: str) -> Path:
    """The data file, if it lies below the model's folder once links are resolved.

    A model that is itself a link (the cache of Hugging Face: snapshots/x/model.onnx -> blobs/abc) may have its data
    beside what it points at.
    """
    parts = Path(location).parts
    if not location or "\0" in location or os.path.isabs(location) or ".." in parts:
        raise ModelFileError(
            f"{where}: the location must be a relative path inside the model's folder, got {location!r}"
        )
    folder = os.path.realpath(model.parent)
    allowed = {folder, os.path.dirname(os.path.realpath(model))}
    path = os.path.realpath(os.path.join(folder, location))
    if not any(os.path.commonpath([path, root]) == root for root in allowed):
        raise ModelFileError(f"{where}: {location!r} leads out of the model's folder")
    return Path(path)
