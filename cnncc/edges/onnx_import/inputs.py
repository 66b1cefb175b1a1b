"""The inputs of a model: their types, symbolic dimensions by name, and shapes that the user fixes."""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from cnncc.edges.names import unused_name
from cnncc.edges.onnx_reader import ModelFile
from cnncc.edges.onnx_tensors import element_type
from cnncc.errors import GraphError, UnsupportedError
from cnncc.ir.dims import Dim, normal, symbol, symbols_of
from cnncc.ir.dtype import short_name
from cnncc.ir.types import Type

Shapes: TypeAlias = "Mapping[str, Sequence[int | str | None]]"


@dataclass
class Symbols:
    """The symbols of one import.

    bound: what a symbol stands for, found out by an earlier attempt. unnamed: those that the importer invented.
    """

    bound: dict[str, Dim] = field(default_factory=dict)
    unnamed: set[str] = field(default_factory=set)
    names: dict[str, str] = field(default_factory=dict)  # dim_param --> symbol
    fixed: dict[str, tuple[int, str]] = field(default_factory=dict)  # symbol --> number, and the input that said so

    def start(self) -> None:
        """Begin an attempt: names are given anew, in the same order."""
        self.names, self.fixed, self.unnamed = {}, {}, set()

    def named(self, param: str) -> str:
        """The symbol for a dim_param; different parameters never share one."""
        if param not in self.names:
            self.names[param] = self._free(param)
        return self.names[param]

    def invent(self, hint: str) -> str:
        """A symbol for a dimension without a name."""
        name = self._free(hint)
        self.names["\0" + name] = name
        self.unnamed.add(name)
        return name

    def _free(self, text: str) -> str:
        base = str(symbol(text))
        base += "_" * (keyword.iskeyword(base) or base in ("floor", "ceiling", "Max", "Min"))  # words of the text form
        return unused_name(base, set(self.names.values()))

    def dim(self, name: str) -> Dim:
        """The dimension of a symbol."""
        d: Dim = symbol(name)
        while not isinstance(d, int) and any(s.name in self.bound for s in d.free_symbols):
            d = normal(d.subs({s: self.bound[s.name] for s in d.free_symbols if s.name in self.bound}))
        return d


def input_types(file: ModelFile, shapes: Shapes | None, symbols: Symbols) -> dict[str, Type]:
    """Types of the real inputs (initializers listed as inputs are none), by name in order.

    Raises GraphError where `shapes` contradicts the model or itself.
    """
    graph = file.proto.graph
    constants = {t.name for t in graph.initializer} | {t.values.name for t in graph.sparse_initializer}
    real = [i for i in graph.input if i.name not in constants]
    shapes = dict(shapes or {})
    unknown = sorted(set(shapes) - {i.name for i in real})
    if unknown:
        names = ", ".join(i.name for i in real)
        raise GraphError(f"{file.label}: shapes= names {', '.join(unknown)}; the inputs are {names}")
    symbols.start()
    types: dict[str, Type] = {}
    raw = {i.name: _raw_shape(i, shapes.get(i.name), symbols) for i in real}
    for i in real:
        _fix(i.name, raw[i.name], shapes.get(i.name), symbols)
    symbols.bound.update({name: number for name, (number, _) in symbols.fixed.items()})
    for i in real:
        dims = tuple(symbols.dim(d) if isinstance(d, str) else d for d in raw[i.name])
        types[i.name] = Type(_dtype(i), dims)
    return types


def fixed_later(types: Iterable[Type]) -> set[str]:
    """Symbols that are fixed before compilation: all but one that is only ever the leading size of inputs."""
    leading, inner = set(), set()
    for t in types:
        leading |= set(symbols_of(t.shape[:1]))
        inner |= set(symbols_of(t.shape[1:]))
    return (leading | inner) - set(sorted(leading - inner)[:1])


def _raw_shape(info: Any, given: Sequence[Any] | None, symbols: Symbols) -> list[int | str]:
    """Numbers and names of symbols."""
    kind = info.type.WhichOneof("value")
    if kind != "tensor_type":
        raise UnsupportedError(f"input '{info.name}': inputs must be tensors, got {kind or 'no type'}")
    if not info.type.tensor_type.HasField("shape"):
        if given is None:
            raise GraphError(
                f"input '{info.name}': the model does not say its shape; give it (shapes={{{info.name!r}: (...)}})"
            )
        return [symbols.named(d) if isinstance(d, str) else _number(info.name, d) for d in given]
    result: list[int | str] = []
    for axis, d in enumerate(info.type.tensor_type.shape.dim):
        if d.HasField("dim_value") and d.dim_value >= 0:
            result.append(int(d.dim_value))
        elif re.search(r"\w", d.dim_param):
            result.append(symbols.named(d.dim_param))
        else:
            result.append(symbols.invent(f"{info.name}_{axis}"))
    return result


def _number(name: str, d: Any) -> int:
    if not isinstance(d, int) or d < 0:
        raise GraphError(f"input '{name}': a shape must have numbers of at least 0 or names, got {d!r}")
    return d


def _fix(name: str, raw: list[int | str], given: Sequence[Any] | None, symbols: Symbols) -> None:
    """Enter what the user says about the shape of one input."""
    if given is None:
        return
    if len(given) != len(raw):
        raise GraphError(
            f"input '{name}': the model has rank {len(raw)}, got shape {tuple(given)} of rank {len(given)}"
        )
    for axis, (own, wanted) in enumerate(zip(raw, given, strict=True)):
        if wanted is None or own == wanted:
            continue
        if isinstance(wanted, str):
            if isinstance(own, int):
                raise GraphError(f"input '{name}': axis {axis} is {own} in the model, got the name {wanted!r}")
            if symbols.named(wanted) != own:
                symbols.bound[own] = symbol(symbols.named(wanted))
            continue
        number = _number(name, wanted)
        if isinstance(own, int):
            raise GraphError(f"input '{name}': axis {axis} is {own} in the model, got {number}")
        before, where = symbols.fixed.setdefault(own, (number, name))
        if before != number:
            raise GraphError(
                f"shapes: the symbol {own} must be one number, got {before} from input '{where}' "
                f"and {number} from input '{name}'"
            )


def _dtype(info: Any) -> str:
    try:
        return short_name(element_type(info.type.tensor_type.elem_type))
    except UnsupportedError as error:
        raise UnsupportedError(f"input '{info.name}': {error}") from None
