"""Runs one operation alone, as its te definition without a schedule, and names the samples that tests run through."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cnncc.ir.dims import symbol
from cnncc.ir.dtype import is_float
from cnncc.ir.layout import channels
from cnncc.ir.reshape import bind_attrs
from cnncc.ir.types import Type
from cnncc.ops.lowering import Lowering, element_at
from cnncc.ops.registry import TABLE, Op, Sample, lookup, make_array
from cnncc.targets.tir_math import TirMath

_EXACT = ("shape", "cut", "layout", "index")


@dataclass(frozen=True)
class Case:
    """A sample of an op, with its operands and canonical attributes."""

    op: Op
    number: int

    @property
    def sample(self) -> Sample:
        return self.op.samples[self.number]

    def arrays(self, batch: int | None = None, operands: Sequence[int] = ()) -> list[np.ndarray | None]:
        """The sample's data; with another first extent for some operands, where a batch is given."""
        if batch is None:
            return self.sample.arrays()
        args = [
            replace(a, shape=(batch, *a.shape[1:])) if k in operands and a is not None else a
            for k, a in enumerate(self.sample.args)
        ]
        return [None if a is None else make_array(a, 17 * k) for k, a in enumerate(args)]

    @property
    def types(self) -> list[Type | None]:
        return [None if a is None else Type.of(a) for a in self.arrays()]

    @property
    def attrs(self) -> Any:
        return canonical(self.op, self.sample.attrs, self.types)

    @property
    def dtype(self) -> str:
        """Of the first result."""
        return self.op.infer_types(self.attrs, self.types)[0].dtype

    @property
    def kind(self) -> str:
        """The row of the tolerance table."""
        family = self.op.infer.__module__.rpartition(".")[2]
        if family in _EXACT or not is_float(self.dtype):
            return "exact"
        if family.startswith(("conv", "winograd", "local", "fft")):
            return "winograd" if family.startswith("winograd") else "conv"
        return "elementwise" if self.op.elementwise else "reduction"

    def __str__(self) -> str:
        return f"{self.op.name}-{self.number}"


def all_cases() -> list[Case]:
    """Every sample of the table."""
    lookup("add")
    return [Case(op, k) for op in TABLE.values() for k in range(len(op.samples))]


def canonical(op: Op, attrs: Any, types: Sequence[Type | None]) -> Any:
    """Attributes as the builder stores them."""
    return attrs if op.normalise is None else op.normalise(attrs, *types)


# -- a symbolic batch ------------------------------------------------------------------------------------------------

_BOTH = ("conv_dw", "max_pool_dx", "locally_connected_dw", "adaptive_max_pool_dx", "gather_dx", "gather_elements",
         "gather_elements_dx")  # fmt: skip
_NO_BATCH = ("winograd_weights", "fft_weights", "locally_connected_dx", "max_unpool")


def batch_operands(case: Case) -> tuple[int, ...]:
    """Operands whose first axis may become a symbol; none where the first axis is no batch."""
    op, args = case.op, case.sample.args
    first = args[0]
    if op.name in _NO_BATCH or first is None or (not first.shape and op.name != "gather_dx") or first.value is not None:
        return ()
    if op.name == "to_layout" and case.attrs.layout.factor(0) > 1:
        return ()
    if op.name == "slice_dx" and case.attrs.size[0] != first.shape[0]:
        return ()
    if op.name == "matmul":
        second = args[1]
        assert second is not None
        if len(first.shape) == 1 or (len(first.shape) == 2 and case.sample.attrs.transpose_x):
            return ()
        both = len(second.shape) == len(first.shape) > 2 and second.shape[0] == first.shape[0]
        return (0, 1) if both else (0,)
    if op.name == "gather_dx" and case.attrs.axis > 0:
        return (1,)
    if op.name == "gather_elements" and case.attrs.axis == 0:
        return (1,)
    if op.name in _BOTH:
        return (0, 1)
    if op.name == "concat":
        return () if case.attrs.axis == 0 else tuple(range(len(args)))
    if op.elementwise:
        rank = max(len(a.shape) for a in args if a is not None)
        extent = max(a.shape[0] for a in args if a is not None and len(a.shape) == rank)
        same = tuple(k for k, a in enumerate(args) if a is not None and len(a.shape) == rank and a.shape[0] == extent)
        return same if extent > 1 else ()
    return (0,)


def symbolic(case: Case) -> tuple[Any, list[Type | None]] | None:
    """Attributes and operand types with the batch as the symbol N; None where the sample has no batch."""
    operands = batch_operands(case)
    if not operands:
        return None
    n = symbol("N")
    types = [
        t if t is None or k not in operands else t.with_(shape=(n, *t.shape[1:])) for k, t in enumerate(case.types)
    ]
    attrs, extent = case.sample.attrs, case.types[operands[0]].shape[0]
    for field in ("shape", "ends", "size"):
        value = getattr(attrs, field, ())
        batched = field != "size" or case.op.name == "slice_dx"
        if isinstance(value, tuple) and value and value[0] == extent and batched:
            attrs = replace(attrs, **{field: (n, *value[1:])})
    if getattr(case.attrs, "steps", ()) and case.attrs.steps[0] < 0:
        return None
    if case.op.name in ("reshape", "expand") and attrs == case.sample.attrs:
        return None
    return canonical(case.op, attrs, types), types


# -- compiled --------------------------------------------------------------------------------------------------------


def prim_func(op: Op, attrs: Any, types: Sequence[Type | None], outs: Sequence[Type]) -> Any:
    """The op's te definition as a PrimFunc of operands and results."""
    from tvm import te

    c = Lowering(TirMath())
    xs = [None if t is None else c.placeholder(t, f"a{k}") for k, t in enumerate(types)]
    present = [x for x in xs if x is not None]
    if op.fusible:
        made: Any = c.stage(outs[0], lambda *i: element_at(op, c, attrs, outs[0], present, i), "out")
    else:
        assert op.compute is not None
        made = op.compute(c, attrs, outs, xs)
    results = made if isinstance(made, tuple) else (made,)
    return te.create_prim_func([x.tensor for x in (*present, *results)])


def blocked(case: Case) -> tuple[list[Type | None], list[Type]] | None:
    """Operand and result types with axis 1 in blocks of 4; None where there are none of rank 3 or more."""
    outs = case.op.infer_types(case.attrs, case.types)
    if case.op.name == "to_layout" or not any(t is not None and t.rank >= 3 for t in (*case.types, *outs)):
        return None

    def block(t: Type | None) -> Type | None:
        return t if t is None or t.rank < 3 else t.with_(layout=channels(4))

    return [block(t) for t in case.types], [t.with_(layout=channels(4)) if t.rank >= 3 else t for t in outs]


def half(case: Case) -> list[Type | None] | None:
    """Operand types with float16 for float32; None where there are none."""
    types = [t if t is None or t.dtype != "f32" else t.with_(dtype="f16") for t in case.types]
    return types if types != case.types and case.op.name != "to_layout" else None


@functools.cache
def library(name: str) -> Any:
    """All samples of an op, compiled: functions f0, f1, ..., with a symbolic batch s0, s1, ..., in blocks b0."""
    import tvm

    functions = {}
    for k in range(len(lookup(name).samples)):
        case = Case(lookup(name), k)
        outs = case.op.infer_types(case.attrs, case.types)
        functions[f"f{k}"] = prim_func(case.op, case.attrs, case.types, outs)
        free = symbolic(case)
        if free is not None:
            functions[f"s{k}"] = prim_func(case.op, *free, case.op.infer_types(*free))
    first = Case(lookup(name), 0)
    in_half = half(first)
    if in_half is not None:
        functions["h0"] = prim_func(first.op, first.attrs, in_half, first.op.infer_types(first.attrs, in_half))
    in_blocks = blocked(first)
    if in_blocks is not None:
        functions["b0"] = prim_func(first.op, first.attrs, *in_blocks)
    module = tvm.IRModule({n: f.with_attr("global_symbol", n) for n, f in functions.items()})
    return tvm.compile(module, target=tvm.target.Target({"kind": "llvm", "opt-level": 0}))


def run_compiled(case: Case, arrays: Sequence[np.ndarray | None], free: bool = False) -> list[np.ndarray]:
    """The compiled op on arrays."""
    import tvm

    attrs = case.attrs
    if free:
        chosen = symbolic(case)
        assert chosen is not None
        attrs = bind_attrs(chosen[0], {"N": _batch(case, arrays)})
    outs = case.op.infer_types(attrs, [None if a is None else Type.of(a) for a in arrays])
    operands = [aligned(a) for a in arrays if a is not None]
    results = [aligned(np.zeros([int(d) for d in t.physical], t.numpy)) for t in outs]
    function = library(case.op.name)[f"{'s' if free else 'f'}{case.number}"]
    function(*(tvm.runtime.from_dlpack(a) for a in (*operands, *results)))
    return [t.layout.unpack(r, t.shape) for r, t in zip(results, outs, strict=True)]


def run_blocked(case: Case, arrays: Sequence[np.ndarray | None]) -> list[np.ndarray]:
    """The compiled op on arrays in blocks of channels; results as they lie in memory."""
    import tvm

    types = blocked(case)
    assert types is not None
    operands = [aligned(t.layout.pack(a)) for t, a in zip(types[0], arrays, strict=True) if t is not None]
    results = [aligned(np.ones([int(d) for d in t.physical], t.numpy)) for t in types[1]]
    library(case.op.name)["b0"](*(tvm.runtime.from_dlpack(a) for a in (*operands, *results)))
    return results


def run_half(case: Case, arrays: Sequence[np.ndarray | None]) -> list[np.ndarray]:
    """The compiled op on arrays of float16."""
    import tvm

    outs = case.op.infer_types(case.attrs, [None if a is None else Type.of(a) for a in arrays])
    operands = [aligned(a) for a in arrays if a is not None]
    results = [aligned(np.zeros([int(d) for d in t.shape], t.numpy)) for t in outs]
    library(case.op.name)["h0"](*(tvm.runtime.from_dlpack(a) for a in (*operands, *results)))
    return results


def run_reference(case: Case, arrays: Sequence[np.ndarray | None], free: bool = False) -> tuple[np.ndarray, ...]:
    """The numpy reference on arrays."""
    attrs = case.attrs
    if free:
        chosen = symbolic(case)
        assert chosen is not None
        attrs = bind_attrs(chosen[0], {"N": _batch(case, arrays)})
    return case.op.run(attrs, arrays)


def _batch(case: Case, arrays: Sequence[np.ndarray | None]) -> int:
    array = arrays[batch_operands(case)[0]]
    assert array is not None
    return int(array.shape[0])


def aligned(array: np.ndarray) -> np.ndarray:
    """A copy that starts at a multiple of 64 bytes, as compiled kernels require."""
    memory = np.empty(array.nbytes + 64, np.uint8)
    start = -memory.ctypes.data % 64
    result = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    result[...] = array
    return result
