"""What an import function sees: one node with its attributes and operands, and how to append operations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

import numpy as np

from cnncc.edges.onnx_import.tensor import NeedsInputError, Tensor, known
from cnncc.errors import GraphError, ModelFileError, UnsupportedError
from cnncc.ir.dims import Dim, Shape
from cnncc.ir.dtype import is_float
from cnncc.ir.graph import Value
from cnncc.ir.types import Type

if TYPE_CHECKING:
    from cnncc.edges.onnx_import.frame import Frame
    from cnncc.edges.onnx_import.importer import Importer


Result: TypeAlias = "Value | Tensor | None"
Results: TypeAlias = "Result | tuple[Result, ...]"  # one for each output that is asked for


class Call:
    """One ONNX node while it is imported. `n.op(...)` appends operations of the IR that carry the node's name."""

    def __init__(
        self,
        importer: Importer,
        proto: Any,
        version: int,
        inputs: Sequence[Tensor | None],
        frame: Frame,
    ):
        self.importer = importer
        self.proto = proto
        self.op_type: str = proto.op_type
        self.version = version
        self.inputs = list(inputs)
        while self.inputs and self.inputs[-1] is None:
            self.inputs.pop()
        self.frame = frame
        self.attributes: Mapping[str, Any] = frame.attributes_of(proto)
        self.source: str = frame.prefix + proto.name if proto.name else ""

    @staticmethod
    def helper(importer: Importer, name: str) -> Call:
        """No node of the model: builds a value that the model implies (a size as a number)."""
        from cnncc.edges.onnx_import.frame import Frame

        proto = SimpleNamespace(op_type="Shape", name="", output=[name], attribute=[])
        return Call(importer, proto, 0, [], Frame({}, {}))

    @property
    def where(self) -> str:
        """How messages name the node."""
        return f"{self.op_type} '{self.source}'" if self.source else f"{self.op_type} of '{self.first_output}'"

    @property
    def first_output(self) -> str:
        """The name of the first result that is used."""
        return next((o for o in self.proto.output if o), "")

    def wants(self, index: int) -> bool:
        """Whether the node's result is asked for."""
        return index < len(self.proto.output) and bool(self.proto.output[index])

    def fail(self, message: str) -> NoReturn:
        """Raise GraphError about this node."""
        raise GraphError(f"{self.where}: {message}")

    def unsupported(self, message: str) -> NoReturn:
        """Raise UnsupportedError about this node; the importer collects them."""
        raise UnsupportedError(message)

    # -- attributes -----------------------------------------------------------------------------------------------

    def _attribute(self, name: str, field: str, kind: int) -> Any:
        attribute = self.attributes.get(name)
        if attribute is None:
            return None
        if attribute.type not in (kind, 0):  # 0: written before the type field existed
            raise ModelFileError(f"{self.where}: attribute {name} has the wrong kind ({attribute.type}, not {kind})")
        return getattr(attribute, field)

    def attr_int(self, name: str, default: int = 0) -> int:
        """An integer attribute."""
        value = self._attribute(name, "i", 2)
        return default if value is None else int(value)

    def attr_float(self, name: str, default: float = 0.0) -> float:
        """A float attribute: the shortest decimal that is the same f32 (0.1, not 0.10000000149)."""
        value = self._attribute(name, "f", 1)
        return default if value is None else float(str(np.float32(value)))

    def attr_str(self, name: str, default: str = "") -> str:
        """A string attribute."""
        value = self._attribute(name, "s", 3)
        return default if value is None else value.decode("utf-8", "replace")

    def attr_ints(self, name: str) -> tuple[int, ...] | None:
        """A list of integers; None where the attribute is absent."""
        value = self._attribute(name, "ints", 7)
        return None if value is None else tuple(int(v) for v in value)

    def attr_floats(self, name: str) -> tuple[float, ...] | None:
        """A list of floats; None where the attribute is absent."""
        value = self._attribute(name, "floats", 6)
        return None if value is None else tuple(float(str(np.float32(v))) for v in value)

    def attr_graph(self, name: str) -> Any:
        """A subgraph."""
        value = self._attribute(name, "g", 5)
        if value is None:
            self.fail(f"attribute {name} is missing")
        return value

    def attr_tensor(self, name: str) -> Any:
        """A TensorProto; None where the attribute is absent."""
        return self._attribute(name, "t", 4)

    # -- operands -------------------------------------------------------------------------------------------------

    def has(self, index: int) -> bool:
        """Whether an optional input is present."""
        return index < len(self.inputs) and self.inputs[index] is not None

    def tensor(self, index: int) -> Tensor:
        """An input that must be present."""
        tensor = self.inputs[index] if index < len(self.inputs) else None
        if tensor is None:
            self.fail(f"input {index} is missing")
        return tensor

    def type(self, index: int) -> Type:
        """The type of an input."""
        return self.tensor(index).type

    def shape(self, index: int) -> Shape:
        """The shape of an input."""
        return self.tensor(index).type.shape

    def rank(self, index: int) -> int:
        """The rank of an input."""
        return len(self.tensor(index).type.shape)

    def value(self, index: int) -> Value:
        """An input as a value of the graph."""
        return self.importer.as_value(self.tensor(index))

    def values(self) -> list[Value]:
        """All inputs, which must be present."""
        return [self.value(i) for i in range(len(self.inputs))]

    def known(self, index: int) -> np.ndarray | None:
        """The elements of an input where they are numbers known at import, computed from constants if need be."""
        return self.importer.numbers(self.tensor(index))

    def numbers(self, index: int, name: str) -> np.ndarray:
        """The elements of an input that must be numbers known at import. `name` is its name in the ONNX standard."""
        data = self.known(index)
        if data is None:
            self._not_known(index, name)
        return data

    def _not_known(self, index: int, name: str) -> NoReturn:
        others = [t for t in self.inputs[1:] if t is not None and not t.is_known and t.type.dtype[0] in "iu"]
        inputs = self.importer.inputs_behind(self.tensor(index), *others)
        source = f" from input {' and '.join(map(repr, inputs))}" if inputs else ""
        raise NeedsInputError(f"{name} is computed at run time{source}; it must be known at import", inputs)

    def elements(self, index: int, name: str) -> list[Any]:
        """The elements of an input that follows from constants and shapes: numbers and symbolic expressions."""
        tensor = self.tensor(index)
        data = tensor.data if tensor.symbolic else self.known(index)
        if data is None:
            self._not_known(index, name)
        return list(data.reshape(-1).tolist())

    def dims(self, index: int, name: str) -> tuple[Dim, ...]:
        """The elements of a shape-like input: integers and symbolic sizes."""
        return tuple(int(d) if isinstance(d, (int, float)) else d for d in self.elements(index, name))

    def ints(self, index: int, name: str) -> tuple[int, ...]:
        """The elements of an integer input that must be known at import."""
        return tuple(int(v) for v in self.numbers(index, name).reshape(-1).tolist())

    def scalar(self, index: int, name: str) -> Any:
        """The one element of an input that must be known at import."""
        data = self.numbers(index, name)
        if data.size != 1:
            self.fail(f"its {name} must have one element, got {data.size}")
        return data.reshape(-1)[0].item()

    def axis(self, axis: int, rank: int) -> int:
        """A checked axis counted from the front."""
        if not -rank <= axis < max(rank, 1):
            self.fail(f"axis must be from {-rank} to {rank - 1}, got {axis}")
        return axis % rank if rank else 0

    def axes(self, axes: Sequence[int], rank: int) -> tuple[int, ...]:
        """Checked axes counted from the front, all different."""
        result = tuple(self.axis(a, rank) for a in axes)
        if len(set(result)) != len(result):
            self.fail(f"axes must differ, got {tuple(axes)}")
        return result

    # -- building -------------------------------------------------------------------------------------------------

    def op(self, name: str, *operands: Any, **attributes: Any) -> Value:
        """Append an operation of the IR. Operands: values, tensors, numbers (of the others' dtype), arrays, None."""
        (result,) = self.importer.append(self, name, operands, attributes)
        return result

    def constant(self, data: Any, dtype: str | None = None) -> Value:
        """A constant value."""
        return self.importer.constant(self, data, dtype)

    def known_tensor(self, data: np.ndarray, dtype: str) -> Tensor:
        """A result that is known at import (small, shape-like)."""
        return known(self.first_output, data, dtype)

    def equate(self, a: Dim, b: Dim, what: str, fact: bool = False) -> None:
        """Two sizes must be equal. Raises GraphError naming both where they cannot be.

        A symbol without a name becomes the other size; one with a name does where the other is a fact (the channels
        of weights). Formulas of symbols that are fixed before compilation may turn out equal then: see `agree`.
        """
        if a != b:
            self.importer.equate(a, b, f"{self.where}: {what}", fact)

    def agree(self, x: Value, shape: Sequence[Dim]) -> Value:
        """x under a shape that `equate` took to be equal: a reshape, checked again when the symbols are fixed."""
        return self.reshape(x, shape)

    def reshape(self, x: Value, shape: Sequence[Dim]) -> Value:
        """x with a new shape; x itself where it has it already."""
        return x if x.type.shape == tuple(shape) else self.op("reshape", x, shape=tuple(shape))

    def transpose(self, x: Value, perm: Sequence[int]) -> Value:
        """x with its axes permuted; x itself where they stay."""
        return x if list(perm) == list(range(x.type.rank)) else self.op("transpose", x, perm=tuple(perm))

    def cast(self, x: Value, dtype: str) -> Value:
        """x in another element type; x itself where it has it already."""
        return x if x.type.dtype == dtype else self.op("cast", x, dtype=dtype)

    def need_float(self, index: int, rank: int | None = None) -> Value:
        """An input that must be floating point, and perhaps of a certain rank."""
        value = self.value(index)
        if rank is not None and value.type.rank != rank:
            self.fail(f"input {index} must have rank {rank}, got {value.type.rank}")
        if not is_float(value.type.dtype):
            self.fail(f"input {index} must be floating point, got {value.type.dtype}")
        return value
