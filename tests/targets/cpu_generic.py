"""Builds and runs te functions that `schedule_generic` scheduled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from cnncc.kernels.build import kernel_llvm
from cnncc.targets.cpu.generic import schedule_generic
from cnncc.targets.cpu.llvm import to_tvm
from cnncc.targets.cpu.stack import pipeline
from cnncc.targets.target import Target
from tests.ops.harness import aligned


def extents(*shape: Any) -> tuple[Any, ...]:
    """A te shape of int64."""
    from tvm import tirx

    return tuple(tirx.const(d, "int64") if isinstance(d, int) else d for d in shape)


def tensor(name: str, *shape: Any, dtype: str = "float32") -> Any:
    """A te placeholder."""
    from tvm import te

    return te.placeholder(extents(*shape), dtype, name=name)


def compute(shape: Sequence[Any], body: Any, name: str = "out") -> Any:
    """A te stage."""
    from tvm import te

    return te.compute(extents(*shape), body, name=name)


def axis(extent: Any) -> Any:
    """A te reduction axis."""
    from tvm import te, tirx

    return te.reduce_axis((tirx.const(0, "int64"), *extents(extent)))


class Kernel:
    """A scheduled te function: `recipe`, `llvm` text; called with arrays it gives its results."""

    def __init__(self, operands: Sequence[Any], results: Sequence[Any], target: Target, symbols: Any = None):
        from tvm import te

        self._symbols = dict(symbols or {})
        self._results = results
        self._target = target
        func = te.create_prim_func([*operands, *results])
        self.func, self.workspaces, self.recipe = schedule_generic(func, target)

    @property
    def llvm(self) -> str:
        return kernel_llvm(self.func, self._target, "kernel")

    def __call__(self, *arrays: np.ndarray) -> list[np.ndarray]:
        import tvm

        module = tvm.IRModule({"main": self.func.with_attr("global_symbol", "main")})
        built = tvm.compile(module, target=to_tvm(self._target), tir_pipeline=pipeline())
        # results and workspaces start with rubbish
        results = [aligned(np.full(self._shape(t.shape), 7, str(t.dtype))) for t in self._results]
        workspaces = [aligned(np.full(self._shape(s), 7, d)) for s, d in self.workspaces]
        operands = [aligned(a) for a in arrays]
        built["main"](*(tvm.runtime.from_dlpack(a) for a in (*operands, *results, *workspaces)))
        return results

    def _shape(self, shape: Sequence[Any]) -> list[int]:
        """Numbers for a shape in which symbols may occur."""
        import tvm_ffi
        from tvm import ir, sym, tirx

        values = {name: tirx.const(v, "int64") for name, v in self._symbols.items()}
        bound = [tvm_ffi.structural_map(d, (ir.Var, lambda v: values[str(v.name)])) for d in extents(*shape)]
        return [int(sym.Analyzer().simplify(d)) for d in bound]
