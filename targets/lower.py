"""From a kernel of the graph to a scheduled PrimFunc.

The body is evaluated at logical indices: every elementwise op becomes part of the expression where it is read, in
whatever layout. The anchor is defined by the chosen algorithm, or by its own `compute` where none was.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from cnncc.ir.dims import Dim, affine, normal, symbol
from cnncc.ir.graph import Graph, Node, Value
from cnncc.ir.kernel import anchor, feeding
from cnncc.ir.layout import Layout
from cnncc.ir.printer import attributes, print_graph
from cnncc.ir.types import Type
from cnncc.ops.lowering import TVM_DTYPE, Lowering, Operand, element_at
from cnncc.ops.registry import lookup
from cnncc.passes.tiles import tile_record
from cnncc.runtime.native import import_tvm
from cnncc.targets.describe import describe_convolution, describe_kernel, padded_alike, pool_behind
from cnncc.targets.outside import outside_code
from cnncc.targets.pitches import apart
from cnncc.targets.table import find_algorithm
from cnncc.targets.target import Target


@dataclass(frozen=True)
class Lowered:
    """A scheduled kernel: its PrimFunc (operands, results, workspaces), type of each workspace, the recipe used."""

    func: Any
    workspaces: tuple[Type, ...]
    recipe: str


@dataclass(frozen=True)
class Defined:
    """A kernel before it is scheduled: te tensors of its operands and results, the algorithm's tiles (None without an
    algorithm), and what lowered the operations."""

    arguments: Sequence[Any]
    results: Sequence[Any]
    tile: Any
    c: Lowering


@dataclass(frozen=True)
class Prologue:
    """What an algorithm reads in place of a tensor: called with physical indices, of the physical shape."""

    read: Callable[..., Any]
    shape: tuple[Any, ...]

    def __call__(self, *index: Any) -> Any:
        return self.read(*index)


def kernel_key(node: Node) -> str:
    """All that a kernel's code depends on, besides the target: the body with numbered names, algorithm and tiles."""
    assert node.body is not None
    return f"{attributes(node.attrs)}\n{print_graph(_renamed(node.body))}\n{outside_code(node)}"


def kernel_symbol(node: Node, key: str) -> str:
    """A name for a kernel: what it does, and a digest of its key."""
    assert node.body is not None
    root = anchor(node.body)
    ops = [root.op] if root is not None else [n.op for n in node.body.nodes[:3]]
    return f"{'_'.join(ops)}_{hashlib.sha256(key.encode()).hexdigest()[:12]}"


def define_kernel(node: Node, target: Target) -> Defined:
    """The te definition of a kernel: its anchor by the chosen algorithm, everything else where it is read."""
    import_tvm()
    assert node.body is not None
    evaluator = _Evaluator(node.body, target)
    results = evaluator.results(node)
    return Defined(evaluator.arguments, results, evaluator.tile, evaluator.c)


def unscheduled(node: Node, defined: Defined) -> Any:
    """The definition as a PrimFunc of plain loops."""
    from tvm import IRModule, s_tir, te

    func = te.create_prim_func([*defined.arguments, *defined.results])
    # A reducer names its operand several times; where that is an expression with variables, each needs its own.
    func = s_tir.transform.ConvertSSA()(IRModule({"main": func}))["main"]
    if node.attrs.pitches:
        func = apart(func, node.attrs.pitches)
    return func.with_attr("tirx.noalias", False) if node.attrs.in_place else func


def lower_kernel(node: Node, target: Target) -> Lowered:
    """Define and schedule a kernel."""
    defined = define_kernel(node, target)
    from tvm import IRModule, s_tir

    assert node.body is not None
    func = unscheduled(node, defined)
    algorithm = find_algorithm(target, node.attrs.algorithm)
    if algorithm is None:
        if target.kind == "cpu" and not node.attrs.pitches and not node.attrs.in_place:
            from cnncc.targets.cpu.pack import pack_weights, packs_weights
            from cnncc.targets.cpu.transposed import changes_blocks, transpose_blocks

            if changes_blocks(node.body, target):
                x, y = func.params
                return Lowered(transpose_blocks(x, y, node.body, target), (), "elementwise")
            if packs_weights(node.body, target):
                x, y = func.params
                return Lowered(pack_weights(x, y, node.body, target), (), "elementwise")
        return _schedule_generic(func, target, defined.c)
    schedule = s_tir.Schedule(IRModule({"main": func}))
    algorithm.schedule(schedule, describe_kernel(node), defined.tile, target)
    scheduled = schedule.mod["main"]
    if target.kind != "cpu":
        return Lowered(scheduled, (), algorithm.name)
    from cnncc.targets.cpu.workspace import hoist_workspaces

    scheduled, workspaces = hoist_workspaces(scheduled)
    return Lowered(scheduled, _types(workspaces, defined.c), algorithm.name)


def math_for(target: Target) -> Any:
    """The namespace of formulas on a target."""
    if target.kind == "cpu":
        from cnncc.targets.cpu.formulas import CpuMath

        return CpuMath()
    from cnncc.targets.tir_math import TirMath

    return TirMath()


def _schedule_generic(func: Any, target: Target, c: Lowering) -> Lowered:
    scheduled: Any
    workspaces: Any
    if target.kind == "cuda":
        from cnncc.targets.cuda import generic as cuda

        scheduled, workspaces, recipe = cuda.schedule_generic(func, target)
    else:
        from cnncc.targets.cpu import generic as cpu

        scheduled, workspaces, recipe = cpu.schedule_generic(func, target)
    return Lowered(scheduled, _types(workspaces, c), recipe)


def _types(workspaces: Any, c: Lowering) -> tuple[Type, ...]:
    """Shapes and dtypes, or buffers, as types."""
    types = []
    for workspace in workspaces:
        shape, dtype = workspace if isinstance(workspace, tuple) else (workspace.shape, workspace.dtype)
        types.append(Type(_SHORT[dtype], tuple(_dim(d, c) for d in shape)))
    return tuple(types)


_SHORT = {long: short for short, long in TVM_DTYPE.items()}


def _dim(extent: Any, c: Lowering) -> Dim:
    """A TVM extent, a number or linear in the kernel's symbols, as a dimension of the IR."""
    from tvm import sym

    if isinstance(extent, int):
        return extent
    names = list(c.symbols)
    *coefficients, constant = (int(e) for e in sym.detect_linear_equation(extent, [c.symbols[n] for n in names]))
    total: Dim = constant
    for name, coefficient in zip(names, coefficients, strict=True):
        total = total + symbol(name) * coefficient * c.units.get(name, 1) if coefficient else total
    return normal(total)


def _units(body: Graph) -> dict[str, int]:
    """For the symbols that no dimension of an argument is, the least multiple that one is."""
    known: dict[str, int] = {}
    for value in (*body.inputs, *body.outputs):
        for dim in value.type.physical:
            if isinstance(dim, int) or len(dim.free_symbols) != 1:
                continue
            constant, terms = affine(dim)
            ((name, times),) = terms.items()
            if constant == 0:
                known[name] = min(times, known.get(name, times))
    return {name: times for name, times in known.items() if times > 1}


def _renamed(body: Graph) -> Graph:
    copy = body.copy()
    copy.name = "body"
    for k, value in enumerate(copy.values()):
        value.name = str(k)
    for node in copy.nodes:
        node.source = ""
    copy.output_names = [v.name for v in copy.outputs]
    return copy


class _Evaluator:
    """Builds the expressions of one kernel's body."""

    def __init__(self, body: Graph, target: Target):
        self.body = body
        self.target = target
        self.c = Lowering(math_for(target), _units(body))
        self.known: dict[Value, Operand] = {}
        self.arguments = []
        for k, value in enumerate(body.inputs):
            operand = self.c.placeholder(value.type, f"a{k}")
            self.arguments.append(operand.tensor)
            self.known[value] = operand
        self.anchor = anchor(body)
        self.c.padded = body.outputs[0].type if padded_alike(body) else None
        self.tile: Any = None

    def results(self, node: Node) -> list[Any]:
        """te tensors of the results."""
        algorithm = find_algorithm(self.target, node.attrs.algorithm)
        if algorithm is not None:
            return [self._by_algorithm(node, algorithm)]
        if self.anchor is not None:
            self._by_definition(self.anchor)
        return [self._stored(v, f"out{k}") for k, v in enumerate(self.body.outputs)]

    def _by_algorithm(self, node: Node, algorithm: Any) -> Any:
        from tvm import tirx

        root = self.anchor
        assert root is not None
        problem = describe_kernel(node)
        kind = type(algorithm.tiles_for(problem, self.target))
        self.tile = tile_record(kind, node.attrs.tile) if node.attrs.tile else algorithm.tiles_for(problem, self.target)
        (result,) = self.body.outputs
        first, *others = root.operands()
        weights = self.known[others[0]].tensor if others else None
        if first in self.known:
            x = self.known[first].tensor
        else:
            x = self._before(first, algorithm.layouts(problem, self.target).x)

        pool = pool_behind(root) if root.op in ("conv", "winograd_conv") else None
        made = root.output if pool is None else pool.output

        def finish(value: Any, index: tuple[Any, ...]) -> Any:
            at = {v: self._beside(self.known[v], result.type) for v in self.body.inputs}
            element, steps = tirx.convert(value), self._steps(result, [made])
            if sum(made.users.values()) > 1:
                return self._shared(made, element, result, steps, index, at)
            return self._next(result, steps, index, {**at, made: Operand(made.type, lambda *_: element)})

        return algorithm.define(problem, self.tile, x, weights, finish)

    def _before(self, value: Value, layout: Layout) -> Prologue:
        """The operands of the anchor's first operand, which is computed where it is read, as if stored in a layout."""
        type_ = value.type.with_(layout=layout)
        at = {v: self._beside(known, type_) for v, known in self.known.items()}
        depthwise = next((v for v in feeding(value) if v.node is not None and not lookup(v.node.op).fusible), None)
        read = self._inner(value, at) if depthwise is None else self._behind(depthwise, value, at)
        operand = Operand(type_, read)
        return Prologue(operand.physical, tuple(self.c.dim(d) for d in type_.physical))

    def _inner(self, value: Value, at: dict[Value, Operand]) -> Callable[..., Any]:
        steps = self._steps(value, at)
        return lambda *index: self._next(value, steps, index, at)

    def _behind(self, result: Value, value: Value, at: dict[Value, Operand]) -> Callable[..., Any]:
        """The elements of a value, computed from the depthwise convolution that has this result."""
        from cnncc.targets.cpu.fused import window_sum

        assert result.node is not None
        problem = describe_convolution(result.node)
        x, w = (self.known[v] for v in result.node.operands())
        steps = self._steps(value, {**at, result: x})

        def read(*index: Any) -> Any:
            element = window_sum(problem, x, w, index)
            if sum(result.users.values()) > 1:
                return self._shared(result, element, value, steps, index, at)
            return self._next(value, steps, index, {**at, result: Operand(result.type, lambda *_: element)})

        return read

    def _beside(self, operand: Operand, result: Type) -> Operand:
        """An operand read at the indices of a result, some of which may fall into the padding of its blocks."""
        type_ = operand.type
        ragged = [
            (axis, type_.shape[axis])
            for axis, factor in result.layout.blocks
            if type_.rank == result.rank and not type_.layout.factor(axis) > 1 and type_.shape[axis] not in (1,)
            and not (isinstance(result.shape[axis], int) and result.shape[axis] % factor == 0)
        ]  # fmt: skip
        if not ragged:
            return operand

        def read(*index: Any) -> Any:
            value = operand(*index)
            for axis, extent in ragged:
                value = self.c.guard(index[axis] < self.c.dim(extent), value, self.c.const(0, type_.dtype))
            return value

        return Operand(type_, read)

    def _by_definition(self, root: Node) -> None:
        op = lookup(root.op)
        assert op.compute is not None
        types = []
        for value in root.outputs:
            stored = next((o.type for o in self.body.outputs if o.type.shape == value.type.shape), value.type)
            types.append(value.type.with_(layout=stored.layout))
        operands = [None if v is None else self._whole(v) for v in root.inputs]
        made = op.compute(self.c, root.attrs, types, operands)  # type: ignore[arg-type]  # None: left out, where an op allows it
        made = made if isinstance(made, (tuple, list)) else (made,)
        self.known.update(zip(root.outputs, made, strict=True))

    def _stored(self, value: Value, name: str) -> Any:
        operand = self._whole(value)
        arguments = set(self.body.inputs)
        if operand.tensor is not None and operand.type.layout == value.type.layout and value not in arguments:
            return operand.tensor
        return self.c.stage(value.type, operand, name).tensor

    def _whole(self, value: Value) -> Operand:
        """A value as an operand from what is known, each of its elements with common parts computed once."""
        steps = [] if value in self.known else self._steps(value, self.known)
        if not steps:
            return self._operand(value, self.known)
        return Operand(value.type, lambda *index: self._next(value, steps, index, self.known))

    def _steps(self, result: Value, known: Collection[Value]) -> list[Node]:
        """Nodes behind what is known, in order, that a result reads at its own index alone, and more than once."""
        needed: list[Node] = []
        stack = [result]
        while stack:
            value = stack.pop()
            if value.node is not None and value not in known and value.node not in needed:
                needed.append(value.node)
                stack += value.node.operands()
        direct = {result}
        for node in reversed(self.body.nodes):
            if node not in needed or len(node.outputs) != 1:
                continue
            users = [u for u in node.output.users if u in needed]
            if (
                users
                and node.output.type.shape == result.type.shape
                and all(lookup(u.op).elementwise and u.output in direct for u in users)
            ):
                direct.add(node.output)

        def reads(value: Value) -> int:
            return sum(count for node, count in value.users.items() if node in needed)

        return [n for n in self.body.nodes if n in needed and n.output in direct and reads(n.output) > 1]

    def _next(self, result: Value, steps: Sequence[Node], index: tuple[Any, ...], at: dict[Value, Operand]) -> Any:
        """The element of a result, with those of `steps` computed once each."""
        if not steps:
            return self._operand(result, at)(*index)
        value = steps[0].output
        return self._shared(value, self._operand(value, at)(*index), result, steps[1:], index, at)

    def _shared(
        self,
        value: Value,
        element: Any,
        result: Value,
        steps: Sequence[Node],
        index: tuple[Any, ...],
        at: dict[Value, Operand],
    ) -> Any:
        """The element of a result, where that of `value` is known; it gets a name, unless it is short."""

        def body(name: Any) -> Any:
            return self._next(result, steps, index, {**at, value: Operand(value.type, lambda *_: name)})

        return self.c.math.let(element, body)

    def _operand(self, value: Value, at: dict[Value, Operand]) -> Operand:
        """The value as an operand: known, or an expression of the operands of the node that makes it."""
        if value in at:
            return at[value]
        node = value.node
        assert node is not None
        op = lookup(node.op)
        xs = [self._operand(v, at) for v in node.operands()]
        return Operand(value.type, lambda *index: element_at(op, self.c, node.attrs, value.type, xs, index))
