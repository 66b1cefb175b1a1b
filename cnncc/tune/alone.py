"""One kernel as a program of its own, which runs it on several copies of its operands, one after the other.

Together the copies are larger than the second-level cache, so that the kernel finds its operands as it does in a
network. It is built, loaded and run as a network's kernels are.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

from cnncc.assemble import required_features
from cnncc.ir.dims import Dim
from cnncc.ir.graph import Graph, Node, Value
from cnncc.ir.parser import parse
from cnncc.ir.types import Type
from cnncc.kernels.build import KernelSource, build_all
from cnncc.kernels.cache import Cache
from cnncc.kernels.workspaces import find_workspaces
from cnncc.passes import PASSES, Context, run_passes
from cnncc.runtime.arena import ALIGNMENT, aligned, empty
from cnncc.runtime.executable import Executable
from cnncc.runtime.program import Buffer, Call, Port, Program
from cnncc.targets.lower import kernel_key, kernel_symbol, lower_kernel
from cnncc.targets.target import Target
from cnncc.tune.records import Pairs

COPIES = 32


class Memory(Cache):
    """Objects of this process: what is built for a measurement should not push kernels of models out of the cache."""

    def __init__(self) -> None:
        super().__init__(None)
        self._objects: dict[str, bytes] = {}

    def get(self, key: str) -> bytes | None:
        """The object stored under a key, if there is one."""
        return self._objects.get(key)

    def put(self, key: str, data: bytes) -> None:
        """Stores an object."""
        self._objects[key] = data


@dataclass(frozen=True)
class Kernel:
    """A laid-out kernel with the arrays of its operands, several copies of each. The tiles of an algorithm share it."""

    node: Node
    copies: tuple[tuple[np.ndarray, ...], ...]
    batch: int

    def extents(self, shape: Sequence[object]) -> tuple[int, ...]:
        """A shape with the batch as a number."""
        return _extents(shape, self.batch)


def make_arrays(text: str, batch: int) -> dict[str, np.ndarray]:
    """Seeded arrays for the inputs of a graph: normal floats, small integers."""
    graph = parse(text)
    return {v.name: _array(v.type, _extents(v.type.shape, batch), k) for k, v in enumerate(graph.inputs)}


def lay_out(
    text: str,
    arrays: dict[str, np.ndarray],
    constants: Sequence[str],
    algorithm: str,
    layouts: tuple[str, ...],
    batch: int,
    target: Target,
    others: Iterable[Kernel] = (),
) -> Kernel:
    """A kernel for an algorithm: layouts in its types, weights prepared, operands in those layouts; the very arrays of
    another kernel, where that has the same."""
    graph = parse(text)
    (node,) = graph.nodes
    _make_constant(graph, {name: arrays[name] for name in constants})
    node.attrs = replace(node.attrs, algorithm=algorithm, layouts=layouts)
    laid = run_passes(graph, [PASSES["lay-out"]], Context(target))
    node = next(n for n in laid.nodes if n.body is not None and n.attrs.algorithm == algorithm)
    for other in others:
        if [v.type for v in other.node.operands()] == [v.type for v in node.operands()]:
            return Kernel(node, other.copies, batch)
    operands = tuple(aligned(v.type.layout.pack(_logical(v, arrays))) for v in node.operands())
    results = sum(int(np.prod(_extents(v.type.physical, batch))) * v.type.numpy.itemsize for v in node.outputs)
    size = max(1, results + sum(a.nbytes for a in operands))
    count = max(1, min(COPIES, 4 * target.l2 // size))
    copies = (operands, *(tuple(aligned(a.copy()) for a in operands) for _ in range(count - 1)))
    return Kernel(node, copies, batch)


def build(kernel: Kernel, tile: Pairs, target: Target, cache: Cache, rounds: int = 1) -> Executable:
    """An executable that runs the kernel with a tile on every copy, so many times; its outputs are those of the first
    copy."""
    node = kernel.node
    node.attrs = replace(node.attrs, tile=tile)
    key = kernel_key(node)
    symbol = kernel_symbol(node, key)
    source = KernelSource(key, lambda: lower_kernel(node, target).func)
    objects = build_all({symbol: source}, target, jobs=1, cache=cache)
    buffers: list[Buffer] = []
    constants: dict[str, np.ndarray] = {}
    calls, ports, end = [], [], 0
    for i, type_ in enumerate(find_workspaces(node, source, symbol, target)):
        shape = kernel.extents(type_.shape)
        buffers.append(Buffer(f"workspace{i}", type_.numpy.name, shape, "arena", end))
        end += _room(shape, type_.numpy.itemsize)
    workspaces = range(len(buffers))
    for k, arrays in enumerate(kernel.copies):
        first = len(buffers)
        for i, array in enumerate(arrays):
            constants[f"x{k}.{i}"] = array
            buffers.append(Buffer(f"x{k}.{i}", array.dtype.name, array.shape, "constant"))
        for i, value in enumerate(node.outputs):
            shape, dtype = kernel.extents(value.type.physical), value.type.numpy
            if k == 0:
                ports.append(Port(f"y{i}", dtype.name, shape, len(buffers)))
                buffers.append(Buffer(f"y{i}", dtype.name, shape, "output"))
            else:
                buffers.append(Buffer(f"y{k}.{i}", dtype.name, shape, "arena", end))
                end += _room(shape, dtype.itemsize)
        calls.append(Call(symbol, (*range(first, len(buffers)), *workspaces)))
    program = Program(
        buffers=tuple(buffers), calls=tuple(calls * rounds), inputs=(), outputs=tuple(ports), kernels=objects,
        constants=constants, arena=end, threads=target.threads, target=asdict(target),
        features=required_features(target),
    )  # fmt: skip
    return Executable(program)


def places(kernel: Kernel) -> list[np.ndarray]:
    """Arrays that the results fit into."""
    return [empty(kernel.extents(v.type.physical), v.type.numpy) for v in kernel.node.outputs]


def logical_results(kernel: Kernel, out: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Results in their layouts --> as the graph knows them."""
    pairs = zip(kernel.node.outputs, out, strict=True)
    return [v.type.layout.unpack(array, kernel.extents(v.type.shape)).copy() for v, array in pairs]


def _logical(value: Value, arrays: dict[str, np.ndarray]) -> np.ndarray:
    """The array of an operand, which may stand behind a change of layout."""
    if value.data is not None:
        return value.data
    return arrays[value.name] if value.node is None else _logical(next(value.node.operands()), arrays)


def _room(shape: tuple[int, ...], itemsize: int) -> int:
    """Bytes of an array, up to where the next may begin."""
    return -(-int(np.prod(shape)) * itemsize // ALIGNMENT) * ALIGNMENT


def _extents(shape: Sequence[Dim], batch: int) -> tuple[int, ...]:
    numbers = (d if isinstance(d, int) else d.subs(dict.fromkeys(d.free_symbols, batch)) for d in shape)
    return tuple(map(int, numbers))


def _array(type_: Type, shape: tuple[int, ...], seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if type_.numpy.kind == "f":
        return rng.standard_normal(shape, dtype=np.float32).astype(type_.numpy)
    return rng.integers(0, 2, shape).astype(type_.numpy)


def _make_constant(graph: Graph, arrays: dict[str, np.ndarray]) -> None:
    """Inputs --> constants."""
    for value in [v for v in graph.inputs if v.name in arrays]:
        graph.inputs.remove(value)
        graph.replace(value, graph.add_constant(arrays[value.name], value.name))
