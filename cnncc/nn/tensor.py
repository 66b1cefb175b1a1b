"""What `forward` works on: a value of the graph being traced, with operators and torch's common methods."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cnncc.builder import Builder
from cnncc.ir.dims import Dim, product
from cnncc.ir.graph import Value

if TYPE_CHECKING:
    from cnncc.nn.module import Module, Parameter


class Trace:
    """One tracing of a module: the builder, and the graph values of parameters and buffers.

    as_inputs: parameters and buffers become graph inputs under their dotted names (training); otherwise constants.
    updates: buffers with a new value after the run (running statistics), by dotted name.
    random: the state of the random numbers (seed, seed, step), None before one was drawn.
    """

    def __init__(self, root: Module, name: str, as_inputs: bool):
        self.builder = Builder(name)
        self.as_inputs = as_inputs
        self.values: dict[int, Value] = {}
        self.updates: dict[str, Value] = {}
        self.random: Value | None = None
        self._streams = 0
        self.path: list[str] = []
        self._names: dict[int, str] = {}
        self._modules: dict[int, str] = {}
        for path, module in root.named_modules():
            self._modules.setdefault(id(module), path)
            for kind in (module._parameters, module._buffers):
                for leaf, item in kind.items():
                    if item is not None:
                        self._names.setdefault(id(item), f"{path}.{leaf}" if path else leaf)

    @contextlib.contextmanager
    def inside(self, module: Module) -> Iterator[None]:
        """Operations made inside carry the module's dotted name as their source."""
        self.path.append(self._modules.get(id(module), type(module).__name__))
        try:
            yield
        finally:
            self.path.pop()

    def name_of(self, item: Parameter | np.ndarray) -> str:
        """The dotted name of a parameter or buffer of the traced module."""
        return self._names[id(item)]

    def value(self, item: Parameter | np.ndarray) -> Tensor:
        """A parameter or buffer as a tensor."""
        if id(item) not in self.values:
            data = item if isinstance(item, np.ndarray) else item.data
            name = self._names.get(id(item), "")
            if self.as_inputs:
                made = self.builder.input(name, data.shape, _short(data))
            else:
                made = self.builder.constant(data, name)
            self.values[id(item)] = made
        return Tensor(self.values[id(item)], self)

    def constant(self, data: np.ndarray, name: str = "") -> Tensor:
        """A constant as a tensor."""
        return Tensor(self.builder.constant(data, name), self)

    def buffer(self, item: np.ndarray) -> Tensor:
        """The present value of a buffer: what was last given to `update`, else what it was before the run."""
        name = self.name_of(item)
        return Tensor(self.updates[name], self) if name in self.updates else self.value(item)

    def update(self, item: np.ndarray, new: Tensor) -> None:
        """Give a buffer a new value, which it has after the run."""
        self.updates[self.name_of(item)] = new.value

    def dropout(self, x: Tensor, p: float, axes: int = 0) -> Tensor:
        """x with elements made zero with probability p, the others divided by 1 - p; a mask of its own at every call,
        over `axes` leading axes (0: all)."""
        if self.random is None:
            if self.as_inputs:
                self.random = self.builder.input(RANDOM, (3,), "u32")
            else:
                from cnncc.nn.init import new_random

                self.random = self.builder.constant(new_random())
            self.updates[RANDOM] = self.builder.add(self.random, np.array([0, 0, 1], np.uint32))
        self._streams += 1
        y: Tensor = self.op("dropout_train", x, self.random, p=float(p), stream=self._streams, axes=axes)
        return y

    def op(self, name: str, *operands: Any, **attributes: Any) -> Any:
        """Append an operation; tensors, numbers and arrays may be operands."""
        plain = [o.value if isinstance(o, Tensor) else o for o in operands]
        made = self.builder.results(name, *plain, source=self.path[-1] if self.path else "", **attributes)
        results = tuple(Tensor(v, self) for v in made)
        return results[0] if len(results) == 1 else results


RANDOM = "random_state"  # the graph input that seeds dropout: seed, seed, step


def _short(data: np.ndarray) -> str:
    from cnncc.ir.dtype import short_name

    return short_name(data.dtype)


class Tensor:
    """A symbolic tensor. Shapes may hold symbols ("N")."""

    def __init__(self, value: Value, trace: Trace):
        self.value = value
        self.trace = trace

    @property
    def shape(self) -> tuple[Dim, ...]:
        """The logical shape."""
        return self.value.type.shape

    @property
    def dtype(self) -> str:
        """Short name of the element type (f32)."""
        return self.value.type.dtype

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return self.value.type.rank

    def size(self, axis: int | None = None) -> Any:
        """The shape, or one of its dimensions."""
        return self.shape if axis is None else self.shape[axis]

    def dim(self) -> int:
        """Number of axes."""
        return self.ndim

    def __repr__(self) -> str:
        return f"Tensor({self.value!r})"

    # -- operators --------------------------------------------------------------------------------------------------

    def __add__(self, other: Any) -> Tensor:
        return self._op("add", self, other)

    def __radd__(self, other: Any) -> Tensor:
        return self._op("add", other, self)

    def __sub__(self, other: Any) -> Tensor:
        return self._op("sub", self, other)

    def __rsub__(self, other: Any) -> Tensor:
        return self._op("sub", other, self)

    def __mul__(self, other: Any) -> Tensor:
        return self._op("mul", self, other)

    def __rmul__(self, other: Any) -> Tensor:
        return self._op("mul", other, self)

    def __truediv__(self, other: Any) -> Tensor:
        return self._op("div", self, other)

    def __rtruediv__(self, other: Any) -> Tensor:
        return self._op("div", other, self)

    def __pow__(self, other: Any) -> Tensor:
        return self._op("pow", self, other)

    def __matmul__(self, other: Any) -> Tensor:
        return self._op("matmul", self, other)

    def __neg__(self) -> Tensor:
        return self._op("neg", self)

    def __getitem__(self, key: Any) -> Tensor:
        return index(self, key)

    # -- methods ----------------------------------------------------------------------------------------------------

    def reshape(self, *shape: Any) -> Tensor:
        """Another shape with as many elements; one -1 is worked out."""
        wanted = shape[0] if len(shape) == 1 and isinstance(shape[0], (tuple, list)) else shape
        return self._op("reshape", self, shape=tuple(wanted))

    view = reshape

    def flatten(self, start_dim: int = 0, end_dim: int = -1) -> Tensor:
        """Merge the axes from start_dim to end_dim."""
        start, end = start_dim % self.ndim, end_dim % self.ndim
        merged = product(self.shape[start : end + 1])
        return self.reshape((*self.shape[:start], merged, *self.shape[end + 1 :]))

    def permute(self, *axes: int) -> Tensor:
        """Reorder the axes."""
        order = axes[0] if len(axes) == 1 and isinstance(axes[0], (tuple, list)) else axes
        return self._op("transpose", self, perm=tuple(a % self.ndim for a in order))

    def transpose(self, a: int, b: int) -> Tensor:
        """Swap two axes."""
        order = list(range(self.ndim))
        order[a], order[b] = order[b], order[a]
        return self.permute(*order)

    def unsqueeze(self, axis: int) -> Tensor:
        """A new axis of extent 1."""
        at = axis % (self.ndim + 1)
        return self.reshape((*self.shape[:at], 1, *self.shape[at:]))

    def squeeze(self, axis: int) -> Tensor:
        """Without an axis of extent 1."""
        at = axis % self.ndim
        return self.reshape((*self.shape[:at], *self.shape[at + 1 :]))

    def chunk(self, chunks: int, dim: int = 0) -> tuple[Tensor, ...]:
        """Split into equal parts along an axis."""
        extent = self.shape[dim]
        step = -(-int(extent) // chunks)
        axis = dim % self.ndim
        return tuple(self[(slice(None),) * axis + (slice(at, at + step),)] for at in range(0, int(extent), step))

    def sum(self, axes: int | Sequence[int] = (), keepdim: bool = False) -> Tensor:
        """Sum over axes (all by default)."""
        return self._reduce("reduce_sum", axes, keepdim)

    def mean(self, axes: int | Sequence[int] = (), keepdim: bool = False) -> Tensor:
        """Mean over axes (all by default)."""
        return self._reduce("reduce_mean", axes, keepdim)

    def relu(self) -> Tensor:
        """max(x, 0)."""
        return self._op("relu", self)

    def sigmoid(self) -> Tensor:
        """1 / (1 + exp(-x))."""
        return self._op("sigmoid", self)

    def tanh(self) -> Tensor:
        """Hyperbolic tangent."""
        return self._op("tanh", self)

    def exp(self) -> Tensor:
        """e ** x."""
        return self._op("exp", self)

    def log(self) -> Tensor:
        """Natural logarithm."""
        return self._op("log", self)

    def sqrt(self) -> Tensor:
        """Square root."""
        return self._op("sqrt", self)

    def detach(self) -> Tensor:
        """The same values, through which no gradient flows back."""
        return self._op("stop_gradient", self)

    def _reduce(self, op: str, axes: int | Sequence[int], keepdim: bool) -> Tensor:
        which = (axes,) if isinstance(axes, int) else tuple(axes)
        return self._op(op, self, axes=tuple(a % self.ndim for a in which), keepdims=keepdim)

    def _op(self, name: str, *operands: Any, **attributes: Any) -> Tensor:
        result: Tensor = self.trace.op(name, *operands, **attributes)
        return result


def index(x: Tensor, key: Any) -> Tensor:
    """x[key] for integers, slices with known bounds, None and Ellipsis."""
    from cnncc.errors import GraphError

    keys = list(key) if isinstance(key, tuple) else [key]
    if Ellipsis in keys:
        at = keys.index(Ellipsis)
        keys[at : at + 1] = [slice(None)] * (x.ndim - (len([k for k in keys if k is not None]) - 1))
    starts, ends, steps, axes, shape, drop = [], [], [], [], [], []
    axis = 0
    for k in keys:
        if k is None:
            continue
        extent = x.shape[axis]
        if isinstance(k, int) or (isinstance(k, slice) and k != slice(None)):
            if not isinstance(extent, int):
                raise GraphError(f"indexing axis {axis} needs a known size, got {extent}")
            low, high, step = (k % extent, k % extent + 1, 1) if isinstance(k, int) else k.indices(extent)
            starts.append(low)
            ends.append(high)
            steps.append(step)
            axes.append(axis)
            if isinstance(k, int):
                drop.append(axis)
        elif not isinstance(k, slice):
            raise GraphError(f"indices are integers, slices, None and ..., got {k!r}")
        axis += 1
    result = (
        x._op("slice", x, starts=tuple(starts), ends=tuple(ends), steps=tuple(steps), axes=tuple(axes)) if axes else x
    )
    if not drop and None not in keys:
        return result
    axis = 0
    for k in keys:
        if k is None:
            shape.append(1)
            continue
        if axis not in drop:
            shape.append(result.shape[axis])
        axis += 1
    return result.reshape((*shape, *result.shape[axis:]))
