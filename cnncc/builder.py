"""Build graphs in Python, one call per operation: ``y = b.relu(b.conv(x, w, pads=1))``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from cnncc.errors import GraphError
from cnncc.ir.attributes import make_attributes
from cnncc.ir.dims import Dim, symbol
from cnncc.ir.dtype import NUMPY, is_float
from cnncc.ir.graph import Graph, Node, Value
from cnncc.ir.types import Type
from cnncc.ir.verify import verify
from cnncc.ops.registry import lookup


class Builder:
    """Appends operations to a graph. Every op of the table is a method: operands first, attributes by keyword.

    Numbers and numpy arrays may stand for operands; a Python number takes the dtype of the other operands.
    Methods return the result (a tuple for ops with several) and raise GraphError where types do not fit.
    """

    def __init__(self, name: str | Graph = "graph"):
        self.graph = name if isinstance(name, Graph) else Graph(name)

    def input(self, name: str, shape: Sequence[Dim | str], dtype: str = "f32") -> Value:
        """A graph input; a string in the shape is a symbolic dimension ("N")."""
        if dtype not in NUMPY:
            raise GraphError(f"input '{name}': dtype must be one of {', '.join(NUMPY)}, got {dtype!r}")
        dims = tuple(symbol(d) if isinstance(d, str) else d for d in shape)
        for d in dims:
            if isinstance(d, int) and d < 0:
                raise GraphError(f"input '{name}': dimensions must not be negative, got {d}")
        return self.graph.add_input(name, Type(dtype, dims))

    def constant(self, data: Any, name: str = "", dtype: str | None = None) -> Value:
        """A constant from an array, a number or nested lists; Python floats become f32, integers i64."""
        if not isinstance(data, (np.ndarray, np.generic)):
            array = np.asarray(data)
            data = array.astype(np.float32) if array.dtype == np.float64 else array
        return self.graph.add_constant(np.asarray(data, dtype=None if dtype is None else NUMPY[dtype]), name)

    def output(self, value: Value, name: str | None = None) -> None:
        """Make a value a graph output."""
        self.graph.add_output(value, name)

    def op(self, name: str, *operands: Any, source: str = "", hint: str = "", **attributes: Any) -> Value:
        """Append an operation by name; its result. `source` is its name in the user's model, `hint` one for its result.

        An op with several results gives the tuple that `results` does.
        """
        made = self.results(name, *operands, source=source, hint=hint, **attributes)
        return made[0] if len(made) == 1 else made  # type: ignore[return-value]  # one result is what almost all have

    def results(
        self, name: str, *operands: Any, source: str = "", hint: str = "", **attributes: Any
    ) -> tuple[Value, ...]:
        """As `op`, and always a tuple: for operations that may have several results."""
        op = lookup(name)
        values = self._operands(operands)
        where = f"{name} '{source}'" if source else name
        types = [None if v is None else v.type for v in values]
        try:
            attrs = make_attributes(op, attributes, types)
            results = op.infer_types(attrs, types)
        except (GraphError, TypeError) as error:
            raise GraphError(f"{where}: {error}") from None
        names = [self.graph.fresh_name(hint) for _ in results]
        return self.graph.add_node(Node(name, values, attrs, results, names, source)).outputs

    def __getattr__(self, name: str) -> Callable[..., Value]:
        if name.startswith("_"):
            raise AttributeError(name)
        try:
            lookup(name)
        except GraphError as error:
            raise AttributeError(str(error)) from None
        return lambda *operands, **attributes: self.op(name, *operands, **attributes)

    def zeros_like(self, x: Value) -> Value:
        """A zero of x's dtype that broadcasts to its shape (a scalar constant)."""
        return self.constant(np.zeros((), x.type.numpy))

    def finish(self) -> Graph:
        """The finished graph, verified."""
        verify(self.graph)
        return self.graph

    def _operands(self, operands: Sequence[Any]) -> list[Value | None]:
        values = [x for x in operands if isinstance(x, Value)]
        dtype = next((v.type.dtype for v in values if is_float(v.type.dtype)), None)
        dtype = dtype or (values[0].type.dtype if values else None)
        result: list[Value | None] = []
        for x in operands:
            if x is None or isinstance(x, Value):
                result.append(x)
            elif isinstance(x, (bool, int, float)):
                result.append(self.constant(np.asarray(x, dtype=NUMPY[dtype] if dtype else None)))
            else:
                result.append(self.constant(x))
        return result
