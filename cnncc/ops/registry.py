"""How an operation is declared, and the table of all operations.

One declaration holds everything known about an op, in this order: attributes, `infer`, `reference`, `grad`,
`formula` / `element` / `compute`, `samples`. Tests, the interpreter, autodiff and the targets read the table.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from cnncc.errors import GraphError
from cnncc.ir.types import Type
from cnncc.ops.half import wide_array, widened

if TYPE_CHECKING:
    from cnncc.ir.graph import Value
    from cnncc.ops.lowering import Lowering, Operand


@dataclass(frozen=True)
class NoAttrs:
    """An op without attributes."""


@dataclass(frozen=True)
class Arg:
    """A random operand of a sample: shape, dtype, range of values (integers: both ends included)."""

    shape: tuple[int, ...]
    dtype: str = "f32"
    low: float = -1.0
    high: float = 1.0
    value: Any = None  # exact data instead of random


@dataclass(frozen=True)
class Sample:
    """A small case of an op. Tests are generated from it: infer, reference, compiled, gradient, round trip."""

    args: tuple[Arg | None, ...]
    attrs: Any = NoAttrs()
    smooth: bool = True  # finite differences make sense at random points

    def arrays(self, seed: int = 0) -> list[np.ndarray | None]:
        """Seeded operands."""
        return [None if a is None else make_array(a, seed + 17 * k) for k, a in enumerate(self.args)]


def make_array(arg: Arg, seed: int) -> np.ndarray:
    """A seeded random array of an `Arg`."""
    from cnncc.ir.dtype import NUMPY, is_float

    rng = np.random.default_rng(seed)
    if arg.value is not None:
        return np.asarray(arg.value, NUMPY[arg.dtype]).reshape(arg.shape)
    if is_float(arg.dtype):
        return rng.uniform(arg.low, arg.high, arg.shape).astype(NUMPY[arg.dtype])
    if arg.dtype == "bool":
        return rng.integers(0, 2, arg.shape).astype(np.bool_)
    return rng.integers(int(arg.low), int(arg.high) + 1, arg.shape).astype(NUMPY[arg.dtype])


@dataclass(frozen=True)
class Op:
    """One operation of the IR.

    inputs: operand names; a trailing ``?`` marks an optional operand, a trailing ``*`` (last only) any number.
    attrs: a frozen dataclass whose defaults are the op's defaults.
    infer(attrs, *types) -> Type or a tuple of Types (operands that are absent are None). Raises GraphError.
    reference(attrs, *arrays) -> array or tuple: plain numpy, the oracle.
    grad(g: cnncc.autodiff.GradRule) -> gradients, one per input, None where not needed.
    formula(m, attrs, *x): elementwise ops only: one element from one element of each operand; `m` is a namespace of
        functions (numpy in the interpreter, TVM expressions in kernels; see cnncc/ops/math.py).
    element(c, attrs, out, xs, index) -> expression: ops whose every result element needs few operand elements
        (pad, slice, concat, ...): the value at a logical index. Such ops fuse into any kernel, in any layout.
        `moves`: they compute nothing, so that half precision needs no detour through float32.
    compute(c, attrs, outs, xs) -> Operand or tuple: the plain te definition of the others, what the fallback schedules.
    rowwise: a part of the operand along its first axis gives that part of the result.
    normalise(attrs, *types) -> attrs in their one canonical form.
    numpy(s: cnncc.edges.numpy_source.line.Line) -> the op as a numpy expression, for `cnncc.to_numpy`; of a formula it
        is derived. Ops that are a function of cnncc/ops/plain have it from `written`, together with the reference.
    """

    name: str
    inputs: tuple[str, ...]
    attrs: type = NoAttrs
    infer: Callable[..., Any] = None  # type: ignore[assignment]  # define() always sets it
    reference: Callable[..., Any] | None = None
    grad: Callable[[Any], Sequence[Value | None]] | None = None
    no_grad: str = ""
    formula: Callable[..., Any] | None = None
    element: Callable[[Lowering, Any, Type, Sequence[Operand], tuple[Any, ...]], Any] | None = None
    moves: bool = True
    compute: Callable[[Lowering, Any, Sequence[Type], Sequence[Operand]], Any] | None = None
    normalise: Callable[..., Any] | None = None
    numpy: Callable[[Any], str] | None = None
    samples: tuple[Sample, ...] = ()
    commutative: bool = False
    rowwise: bool = False
    doc: str = ""

    @property
    def elementwise(self) -> bool:
        """Whether each result element is a formula of the operands' elements at the same (broadcast) place."""
        return self.formula is not None

    @property
    def fusible(self) -> bool:
        """Whether the op can be evaluated at a single index inside any kernel."""
        return self.formula is not None or self.element is not None

    @property
    def variadic(self) -> bool:
        """Whether the last operand may repeat."""
        return bool(self.inputs) and self.inputs[-1].endswith("*")

    @property
    def required(self) -> int:
        """Number of operands that must be present."""
        return sum(not i.endswith(("?", "*")) for i in self.inputs)

    def infer_types(self, attrs: Any, types: Sequence[Type | None]) -> tuple[Type, ...]:
        """Types of the results. Raises GraphError with the rule and the numbers (the caller adds the node)."""
        if len(types) < self.required or (len(types) > len(self.inputs) and not self.variadic):
            wanted = ", ".join(self.inputs)
            raise GraphError(f"{self.name} takes operands ({wanted}), got {len(types)}")
        for name, type_ in zip(self.inputs, types, strict=False):
            if type_ is None and not name.endswith(("?", "*")):
                raise GraphError(f"{self.name} needs operand {name}, got none")
        padded = list(types) + [None] * (0 if self.variadic else len(self.inputs) - len(types))
        result = self.infer(attrs, *(None if t is None else t.plain for t in padded))
        return result if isinstance(result, tuple) else (result,)

    def run(self, attrs: Any, arrays: Sequence[np.ndarray | None]) -> tuple[np.ndarray, ...]:
        """The reference on numpy arrays, results in the inferred dtypes; half precision is computed in float32."""
        types = self.infer_types(attrs, [None if a is None else Type.of(a) for a in arrays])
        padded = [wide_array(a) for a in arrays]
        padded += [None] * (0 if self.variadic else len(self.inputs) - len(arrays))
        if self.reference is not None:
            with np.errstate(all="ignore"):
                result = self.reference(attrs, *padded)
        else:
            from cnncc.ops.math import NumpyMath

            assert self.formula is not None, self.name
            with np.errstate(all="ignore"):
                result = self.formula(NumpyMath(), attrs, *padded)
        results = result if isinstance(result, tuple) else (result,)
        return tuple(np.asarray(r, dtype=t.numpy) for r, t in zip(results, types, strict=True))


TABLE: dict[str, Op] = {}


def define(name: str, inputs: tuple[str, ...], *, infer: Callable[..., Any], **fields: Any) -> Op:
    """Declare an op and enter it into the table. See `Op` for the fields; `doc` defaults to infer's docstring."""
    assert name not in TABLE, f"{name} is defined twice"
    if fields.get("compute") is not None:
        fields["compute"] = widened(fields["compute"])
    op = Op(name, inputs, infer=infer, **fields)
    assert op.grad is not None or op.no_grad, f"{name}: give grad or no_grad='reason'"
    assert op.fusible or op.compute is not None, f"{name}: give formula, element or compute"
    assert op.reference is not None or op.formula is not None, f"{name}: give reference or formula"
    assert dataclasses.is_dataclass(op.attrs), name
    TABLE[name] = op
    return op


def lookup(name: str) -> Op:
    """The op called `name`. Raises GraphError listing close names where there is none."""
    from cnncc import ops  # every family registers on import

    assert ops
    try:
        return TABLE[name]
    except KeyError:
        import difflib

        close = difflib.get_close_matches(name, TABLE)
        hint = f"; did you mean {' or '.join(close)}?" if close else ""
        raise GraphError(f"there is no operation called {name!r}{hint}") from None
