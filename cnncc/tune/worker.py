"""The process that kernels are built and run in: `python -m cnncc.tune.worker`, one JSON object a line each way.

    {"do": "start", "target": {...}}                                   -> {"ok": true}
    {"do": "kernel", "text": ..., "constants": [...], "batch": n}      -> {"ok": true}
    {"do": "time", "way": ..., "base": ..., "seconds": s, "stop": s}   -> {"ok": true, "seconds": ..., "error": ...}
    {"do": "compare", "first": ..., "second": ..., "rounds": n}        -> {"ok": true, "pairs": [[..., ...], ...]}
    a failure                                                          -> {"ok": false, "reason": ...}

A way is {"algorithm": ..., "layouts": [...], "tile": [[name, value], ...]}. Operands are rotated among several copies,
together larger than the second-level cache, so that a kernel finds them as it does in a network. On one thread the
processor's time counts, on several the wall's.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import IO, Any

import numpy as np

from cnncc.errors import CnnccError
from cnncc.ir.graph import Graph, Node, Value
from cnncc.ir.parser import parse
from cnncc.ir.types import Type
from cnncc.kernels.build import build_kernel
from cnncc.passes import PASSES, Context, run_passes
from cnncc.runtime import native
from cnncc.runtime.arena import aligned, empty
from cnncc.targets.lower import lower_kernel
from cnncc.targets.target import Target

SAMPLE = 2e-3  # seconds that a sample takes at least, in as many runs as needed
COPIES = 32
SHORTEST = 1e-8  # where a virtual machine's processor clock stands still


@dataclass
class Built:
    """A loaded kernel with its operands."""

    function: Callable[..., Any]
    sets: list[list[Any]]
    results: list[np.ndarray]
    turn: int = 0

    def run(self) -> None:
        """One run, on the next copy of the operands."""
        self.turn = (self.turn + 1) % len(self.sets)
        self.function(*self.sets[self.turn])


class Worker:
    """Answers requests about one kernel at a time."""

    def __init__(self) -> None:
        self.target: Target | None = None
        self.text = ""
        self.constants: tuple[str, ...] = ()
        self.batch = 1
        self.arrays: dict[str, np.ndarray] = {}
        self.laid: dict[str, Node] = {}  # by algorithm, with the two below
        self.operands: dict[str, list[list[np.ndarray]]] = {}
        self.built: dict[str, Built] = {}
        self.count = 0

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """The reply to one request; kernels that cannot be built are replies too."""
        try:
            return {"ok": True, **getattr(self, f"do_{request.pop('do')}")(**request)}
        except (CnnccError, ValueError, TypeError, RuntimeError, MemoryError) as error:  # TVM raises these
            text = str(error).strip().partition("\n")[0][:300]
            return {"ok": False, "reason": f"{type(error).__name__}: {text}"}

    def do_start(self, target: dict[str, Any]) -> dict[str, Any]:
        """Imports the compiler and starts the threads."""
        self.target = Target(**{**target, "features": tuple(target["features"])})
        native.import_tvm()
        native.start_pool(self.target.threads)
        return {}

    def do_kernel(self, text: str, constants: list[str], batch: int) -> dict[str, Any]:
        """The kernel that further requests are about; the last one is forgotten."""
        self.text, self.constants, self.batch = text, tuple(constants), batch
        self.built.clear()
        self.laid.clear()
        self.operands.clear()
        graph = parse(text)
        self.arrays = {v.name: _array(v.type, self._extents(v.type.shape), k) for k, v in enumerate(graph.inputs)}
        return {}

    def do_time(self, way: dict[str, Any], base: dict[str, Any], seconds: float, stop: float) -> dict[str, Any]:
        """Time of a run, and the largest difference of its results from those of `base`, relative to the largest.

        A kernel whose first sample takes longer than `stop` seconds a run is not measured further."""
        kernel, reference = self._built(way), self._built(base)
        difference = max(map(_difference, kernel.results, reference.results), default=0.0)
        count = self._calibrate(kernel)
        samples: list[float] = []
        end = time.perf_counter() + seconds
        while len(samples) < 3 or time.perf_counter() < end:
            samples.append(self._sample(kernel, count))
            if samples[0] > stop:
                break
        return {"seconds": float(np.quantile(samples, 0.25)), "error": difference}

    def do_compare(self, first: dict[str, Any], second: dict[str, Any], rounds: int) -> dict[str, Any]:
        """Times of two kernels in turn, the order changing from round to round."""
        kernels = [self._built(first), self._built(second)]
        counts = [self._calibrate(kernel) for kernel in kernels]
        pairs = []
        for k in range(rounds):
            pair = [0.0, 0.0]
            for i in (0, 1) if k % 2 else (1, 0):
                pair[i] = self._sample(kernels[i], counts[i])
            pairs.append(pair)
        return {"pairs": pairs}

    def _calibrate(self, kernel: Built) -> int:
        kernel.run()
        return max(1, min(1000, int(SAMPLE / self._sample(kernel, 1))))

    def _sample(self, kernel: Built, count: int) -> float:
        """Seconds of a run, the mean of so many."""
        assert self.target is not None
        now = time.thread_time if self.target.threads == 1 else time.perf_counter
        start = now()
        for _ in range(count):
            kernel.run()
        return max((now() - start) / count, SHORTEST)

    def _built(self, way: dict[str, Any]) -> Built:
        key = json.dumps(way)
        if key not in self.built:
            self.built[key] = self._build(way)
        return self.built[key]

    def _build(self, way: dict[str, Any]) -> Built:
        assert self.target is not None
        algorithm = way["algorithm"]
        if algorithm not in self.laid:  # the tiles of an algorithm read and write the same layouts
            self.laid[algorithm] = self._lay_out(algorithm, tuple(way["layouts"]))
            self.operands[algorithm] = self._make_operands(self.laid[algorithm])
        node, sets = self.laid[algorithm], self.operands[algorithm]
        pairs = tuple((name, tuple(v) if isinstance(v, list) else v) for name, v in way["tile"])
        node.attrs = replace(node.attrs, tile=pairs)
        self.count += 1
        symbol = f"tuned_{self.count}"
        made = native.link([build_kernel(lower_kernel(node, self.target).func, self.target, symbol)])
        from_dlpack = native.import_ffi().from_dlpack
        built = Built(made.get_function(symbol), [[from_dlpack(a) for a in arrays] for arrays in sets], [])
        built.run()
        for value, out in zip(node.outputs, sets[built.turn][len(node.inputs) :], strict=True):
            built.results.append(value.type.layout.unpack(out, self._extents(value.type.shape)).copy())
        return built

    def _lay_out(self, algorithm: str, layouts: tuple[str, ...]) -> Node:
        """The kernel for an algorithm: layouts in its types, weights prepared."""
        graph = parse(self.text)
        (node,) = graph.nodes
        _make_constant(graph, {name: self.arrays[name] for name in self.constants})
        node.attrs = replace(node.attrs, algorithm=algorithm, layouts=layouts)
        laid = run_passes(graph, [PASSES["lay-out"]], Context(self.target))
        return next(n for n in laid.nodes if n.body is not None and n.attrs.algorithm == algorithm)

    def _make_operands(self, node: Node) -> list[list[np.ndarray]]:
        """Copies of the operands and places for the results, in their layouts."""
        assert self.target is not None
        operands = [aligned(v.type.layout.pack(self._logical(v))) for v in node.operands()]
        results = [empty(self._extents(v.type.physical), v.type.numpy) for v in node.outputs]
        sets = [[*operands, *results]]
        size = sum(a.nbytes for a in sets[0])
        for _ in range(min(COPIES, 4 * self.target.l2 // max(1, size)) - 1):
            sets.append([aligned(a.copy()) for a in operands] + [empty(a.shape, a.dtype) for a in results])
        return sets

    def _logical(self, value: Value) -> np.ndarray:
        """The array of an operand, which may stand behind a change of layout."""
        if value.data is not None:
            return value.data
        node: Node | None = value.node
        return self.arrays[value.name] if node is None else self._logical(next(node.operands()))

    def _extents(self, shape: Any) -> tuple[int, ...]:
        return tuple(d if isinstance(d, int) else int(d.subs(dict.fromkeys(d.free_symbols, self.batch))) for d in shape)


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


def _difference(found: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference relative to the largest value; infinite where they are not finite in the same places."""
    if found.dtype.kind != "f":
        return 0.0 if np.array_equal(found, expected) else float("inf")
    finite = np.isfinite(expected)
    if not np.array_equal(finite, np.isfinite(found)):
        return float("inf")
    if not finite.any():
        return 0.0
    largest = float(np.abs(expected[finite]).max())
    return float(np.abs(found[finite] - expected[finite]).max()) / max(largest, 1e-30)


def serve(requests: IO[str], replies: IO[str]) -> None:
    """Answers until the requests end."""
    worker = Worker()
    for line in requests:
        replies.write(json.dumps(worker.answer(json.loads(line))) + "\n")
        replies.flush()


if __name__ == "__main__":
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    try:
        serve(sys.stdin, replies)
    except KeyboardInterrupt:
        sys.exit(130)
