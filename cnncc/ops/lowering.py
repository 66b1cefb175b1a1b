"""What an op's te definition sees: operands called with logical indices, whatever their layout, and stages.

TVM is imported inside the methods: op declarations stay free of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cnncc.ir.dims import Dim
from cnncc.ir.types import Type
from cnncc.ops.half import HALF, WIDE, wide_operand

if TYPE_CHECKING:
    from cnncc.ops.math import Math

TVM_DTYPE = {
    "f16": "float16", "bf16": "bfloat16", "f32": "float32", "f64": "float64", "bool": "bool",
    "i8": "int8", "i16": "int16", "i32": "int32", "i64": "int64",
    "u8": "uint8", "u16": "uint16", "u32": "uint32", "u64": "uint64",
}  # fmt: skip


class Operand:
    """A value as a kernel reads it: `operand(*logical_index)` is its element there.

    type: dtype, logical shape, layout. tensor: the te tensor in physical shape, None where it is computed in place.
    """

    def __init__(self, type: Type, read: Callable[..., Any], tensor: Any = None):
        self.type = type
        self.read = read
        self.tensor = tensor

    def __call__(self, *index: Any) -> Any:
        return self.read(*index)

    def physical(self, *index: Any) -> Any:
        """The element at an index into the physical shape."""
        if self.tensor is not None:
            return self.tensor(*index)
        return self.read(*self.type.layout.logical(index, self.type.rank))

    def broadcast(self, index: Sequence[Any]) -> Any:
        """The element for an index into a result this operand broadcasts to."""
        shape = self.type.shape
        own = index[len(index) - len(shape) :]
        return self.read(*(_zero() if d == 1 else i for i, d in zip(own, shape, strict=True)))


def _zero() -> Any:
    from tvm import tirx

    return tirx.const(0, "int64")


class Lowering:
    """The context of one kernel's definition: its math functions, symbolic dimensions and stages.

    symbols: a variable for each symbol met so far; it stands for `units` times the symbol (once, where not stated). A
    kernel knows its variables from dimensions of its arguments, and some are known by multiples only (heads * N).
    padded: the type of the results, where every operand has the padding of blocks that they have and may be read there.
    """

    def __init__(self, math: Math, units: Mapping[str, int] | None = None):
        self.math = math
        self.symbols: dict[str, Any] = {}
        self.units = dict(units or {})
        self.stages: list[Any] = []
        self.padded: Type | None = None

    def dim(self, dim: Dim) -> Any:
        """A dimension as an int64 expression; each symbol is one variable throughout the kernel."""
        from tvm import tirx

        if isinstance(dim, int):
            return tirx.const(dim, "int64")
        if dim.is_Symbol:
            return self._multiple(dim.name, 1)
        from cnncc.ir.dims import affine

        constant, terms = affine(dim)
        parts = [self._multiple(name, coefficient) for name, coefficient in terms.items()]
        return sum(parts[1:], parts[0]) + constant if constant else sum(parts[1:], parts[0])

    def _multiple(self, name: str, times: int) -> Any:
        """So many times a symbol."""
        from tvm import te

        if name not in self.symbols:
            self.symbols[name] = te.var(name, "int64")
        variable, unit = self.symbols[name], self.units.get(name, 1)
        whole = variable if times % unit == 0 else variable // unit
        factor = times // unit if times % unit == 0 else times
        return whole if factor == 1 else whole * factor

    def const(self, value: float, dtype: str) -> Any:
        """A typed constant; dtype is a short name."""
        from tvm import tirx

        return tirx.const(value, TVM_DTYPE[dtype])

    def placeholder(self, type: Type, name: str) -> Operand:
        """An argument of the kernel."""
        from tvm import te

        shape = tuple(self.dim(d) for d in type.physical)
        return self.tensor(type, te.placeholder(shape, TVM_DTYPE[type.dtype], name=name))

    def tensor(self, type: Type, tensor: Any) -> Operand:
        """A te tensor of the type's physical shape as an operand."""
        if not type.shape:  # te has no rank 0: scalars are tensors of one element
            return Operand(type, lambda: tensor(_zero()) if len(tensor.shape) else tensor(), tensor)
        return Operand(type, lambda *index: tensor(*type.layout.index(index)), tensor)

    def stage(self, type: Type, body: Callable[..., Any], name: str) -> Operand:
        """A te stage that computes `body(*logical_index)` for every element, stored in the type's layout.

        Where a blocked axis is no whole number of blocks, the padding is zero and `body` is not evaluated there, but
        for kernels that may evaluate the padding of their operands (`padded`).
        """
        from tvm import te, tirx

        rank = type.rank
        ragged = [a for a, f in type.layout.blocks if not _divides(f, type.shape[a]) and self.padded is None]
        if ragged and isinstance(body(*(te.var(f"i{a}", "int64") for a in range(rank))), tirx.Reduce):
            body = self.stage(type.plain, body, name + "_plain")  # a reduction must stand alone in its stage

        def element(*physical: Any) -> Any:
            index = type.layout.logical(physical, rank)
            if not ragged:
                return body(*index)
            inside = tirx.all(*(index[a] < self.dim(type.shape[a]) for a in ragged))
            return self.guard(inside, body(*index), self.const(0, type.dtype))

        tensor = te.compute(tuple(self.dim(d) for d in self._extents(type)), element, name=name)
        self.stages.append(tensor)
        return self.tensor(type, tensor)

    def _extents(self, type: Type) -> tuple[Dim, ...]:
        """The physical extents of a stage; those of an intermediate stage with the results' padding."""
        like = self.padded
        if like is None or type.layout or type.rank != like.rank:
            return type.physical
        return tuple(
            extent if extent != like.shape[a] else like.layout.physical(like.shape)[a] * like.layout.factor(a)
            for a, extent in enumerate(type.shape)
        )

    def axis(self, extent: Dim, name: str) -> Any:
        """A reduction axis from 0."""
        from tvm import te, tirx

        return te.reduce_axis((tirx.const(0, "int64"), self.dim(extent)), name=name)

    def guard(self, condition: Any, value: Any, otherwise: Any) -> Any:
        """`value` where the condition holds; it is not evaluated elsewhere (so it may read out of bounds there)."""
        from tvm import tirx

        return tirx.if_then_else(condition, value, otherwise)


def _divides(factor: int, extent: Dim) -> bool:
    return isinstance(extent, int) and extent % factor == 0


def element_at(op: Any, c: Lowering, attrs: Any, out: Type, xs: Sequence[Operand], index: tuple[Any, ...]) -> Any:
    """One element of a fusible op's result at a logical index; half precision is computed in float32."""
    if op.element is not None and (op.moves or out.dtype not in HALF):
        return op.element(c, attrs, out, xs, index)
    wide = [wide_operand(c, x) for x in xs]
    if op.element is not None:
        value = op.element(c, attrs, out.with_(dtype=WIDE), wide, index)
    else:
        value = op.formula(c.math, attrs, *(x.broadcast(index) for x in wide))
    return c.math.cast(value, out.dtype) if out.dtype in HALF else value
