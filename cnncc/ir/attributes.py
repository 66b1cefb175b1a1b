"""Attributes from keywords, as people write them: names and kinds checked, numbers of numpy and lists made Python's."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cnncc.errors import GraphError
from cnncc.ir.types import Type

if TYPE_CHECKING:
    from cnncc.ops.registry import Op

_KINDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "bool": ("True or False", lambda v: isinstance(v, bool)),
    "int": ("a whole number", lambda v: isinstance(v, int) and not isinstance(v, bool)),
    "float": ("a number", lambda v: isinstance(v, (int, float)) and not isinstance(v, bool)),
    "str": ("text", lambda v: isinstance(v, str)),
    "Dim": ("a size", lambda v: (isinstance(v, int) and not isinstance(v, bool)) or hasattr(v, "free_symbols")),
}


def make_attributes(op: Op, keywords: Mapping[str, Any], types: Sequence[Type | None]) -> Any:
    """The attributes of an op in canonical form. Raises GraphError for unknown names, wrong kinds and bad values."""
    attrs = make_record(op.attrs, keywords)
    wanted = [t for t, name in zip(types, op.inputs, strict=False) if not name.endswith(("?", "*"))]
    if op.normalise is None or len(wanted) < op.required or any(t is None for t in wanted):
        return attrs  # wrong operands are infer_types' to report
    return op.normalise(attrs, *types)


def make_record(kind: type, keywords: Mapping[str, Any]) -> Any:
    """A dataclass from keywords. Raises GraphError for unknown names and wrong kinds."""
    known = {f.name: f for f in dataclasses.fields(kind)}
    unknown = sorted(set(keywords) - set(known))
    if unknown:
        raise GraphError(f"unknown attribute {', '.join(unknown)}; there are {', '.join(sorted(known)) or 'none'}")
    missing = [
        name for name, f in known.items()
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING and name not in keywords
    ]  # fmt: skip
    if missing:
        raise GraphError(f"attribute {', '.join(missing)} is missing")
    return kind(**{name: _checked(name, str(known[name].type), _plain(value)) for name, value in keywords.items()})


def _checked(name: str, kind: str, value: Any) -> Any:
    if kind in _KINDS:
        what, fits = _KINDS[kind]
        if not fits(value):
            raise GraphError(f"attribute {name} must be {what}, got {value!r}")
        return float(value) if kind == "float" else value
    element = kind.removeprefix("tuple[").removesuffix(", ...]")
    if element in _KINDS and isinstance(value, tuple):
        what, fits = _KINDS[element]
        if not all(map(fits, value)):
            raise GraphError(f"attribute {name} must hold {what} for each axis, got {value!r}")
    elif element in _KINDS and not (_KINDS[element][1](value) or isinstance(value, str)):  # one for all, or a mode
        raise GraphError(f"attribute {name} must be numbers, got {value!r}")
    return value


def _plain(value: Any) -> Any:
    """So that attributes hash, compare and print."""
    if isinstance(value, (np.ndarray, np.generic)):
        value = value.tolist()
    return tuple(map(_plain, value)) if isinstance(value, (list, tuple, range)) else value
