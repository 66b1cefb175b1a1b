"""A compiled model that runs."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cnncc.errors import GraphError, RuntimeFault
from cnncc.runtime.arena import aligned, empty, usable
from cnncc.runtime.arrays import is_torch, to_torch
from cnncc.runtime.calltable import CallTable
from cnncc.runtime.elsewhere import Elsewhere
from cnncc.runtime.engine import Engine, check_machine
from cnncc.runtime.program import Affine, Dim, Port, Program
from cnncc.runtime.signature import Signature, Sizes
from cnncc.runtime.state import State

if TYPE_CHECKING:
    from cnncc.report import Report
    from cnncc.targets.cuda.engine import CudaEngine


@dataclass(frozen=True)
class Argument:
    """An input or output as a caller sees it. An extent is an integer, or text: a symbol or a formula of symbols."""

    name: str
    shape: tuple[int | str, ...]
    dtype: str


@dataclass(frozen=True)
class CallTime:
    """One kernel call of a profile: where it came from, which kernel, its least and median time in seconds."""

    node: str
    kernel: str
    least: float
    median: float


class Executable:
    """A compiled model, ready to run; `cnncc.compile` and `cnncc.load` make it.

    One executable may be called from any number of Python threads: runs take turns, and all together use
    `program.threads` threads. The GIL is released during a run. Arrays given in are used in place where they are
    row-major and start at a multiple of 64 bytes, else copied; results are fresh arrays that belong to the caller.
    """

    def __init__(
        self,
        program: Program,
        state: State | None = None,
        code: Mapping[str, Any] | None = None,
        elsewhere: bool = False,
    ) -> None:
        """`state`: what another executable's runs update, to be shared with it; left out, a copy of the first values.

        `code`: the program's functions where they are loaded already (see `clone`). `elsewhere`: it may be for another
        machine; then it can be reported on and saved, and runs raise RuntimeFault.
        Raises GraphError where the program is inconsistent, RuntimeFault where its code does not load here.
        """
        names = {b.name for b in program.check().buffers if b.kind == "constant"}
        # Of weights that had to be copied to an aligned place, only the copy is kept.
        kept = {n: aligned(a) if n in names else a for n, a in program.constants.items()}
        self.program = replace(program, constants=kept)
        self._signature = Signature(self.program)
        self._engine = _engine(self.program, state, code, elsewhere)

    @property
    def state(self) -> State:
        """Parameters and optimizer state by name: reading copies out, assigning copies in."""
        return self._engine.state

    @property
    def inputs(self) -> tuple[Argument, ...]:
        """Name, shape and dtype of each input, in order."""
        return tuple(map(_argument, self.program.inputs))

    @property
    def outputs(self) -> tuple[Argument, ...]:
        """Name, shape and dtype of each output, in order."""
        return tuple(map(_argument, self.program.outputs))

    @property
    def memory(self) -> dict[str, Dim]:
        """Bytes held after a run, by use; `Affine` formulas where the batch is symbolic.

        "inputs" are copies of arrays that kernels cannot read in place (there are none where all start at a multiple
        of 64 bytes and are row-major); "outputs" belong to the caller.
        """
        p = self.program
        return {
            "constants": sum(p.constants[b.name].nbytes for b in p.buffers if b.kind == "constant" and b.base is None),
            "state": self.state.nbytes,
            "arena": p.arena,
            "inputs": _nbytes(p.inputs),
            "outputs": _nbytes(p.outputs),
        }

    @property
    def peak_memory(self) -> Dim:
        """The sum of `memory`: an integer, or an `Affine` of the symbols (`.at({"N": 8})`; prints as a formula)."""
        total: Dim = 0
        for part in self.memory.values():
            total = total + part
        return total

    def report(self) -> Report:
        """Every kernel call: layer, algorithm, layouts, tiles, GFLOP, bytes, and whether it is on the fallback."""
        from cnncc.report import Report

        return Report.of(self.program.notes)

    def run(self, feeds: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Runs the model on arrays by input name; gives the results by output name.

        Raises GraphError naming the input, the rule and the numbers where an array does not fit.
        """
        results = self._run(self._signature.order(feeds), None)
        return {port.name: array for port, array in zip(self.program.outputs, results, strict=True)}

    def __call__(self, *arrays: Any, out: Any = None) -> Any:
        """Runs the model on arrays in input order; gives one array, or a tuple of them where there are several outputs.

        torch tensors in give torch tensors out. `out`: an array, or a sequence of them, that takes the results and is
        returned. Errors as for `run`.
        """
        if len(arrays) != len(self.program.inputs):
            raise GraphError(f"inputs: there must be {len(self.program.inputs)}, got {len(arrays)}")
        single = len(self.program.outputs) == 1
        if out is not None:
            self._run(arrays, [out] if single and not isinstance(out, (tuple, list)) else list(out))
            return out
        results: list[Any] = self._run(arrays, None)
        if any(map(is_torch, arrays)):
            results = list(map(to_torch, results))
        return results[0] if single else tuple(results)

    def clone(self, threads: int | None = None) -> Executable:
        """Another executable of this model that can run at the same time as this one.

        It shares the weights and the loaded code; its arena, its threads (`threads`: how many, if not as many) and a
        copy of the present state are its own. Kernels keep the tiles that were chosen for this one's threads.
        """
        if threads is not None and threads < 1:
            raise GraphError(f"threads must be at least 1, got {threads}")
        program = self.program if threads is None else replace(self.program, threads=threads)
        own = State({name: self.state[name] for name in self.state})
        return Executable(program, own, self._engine.functions if isinstance(self._engine, Engine) else None)

    def profile(self, feeds: Mapping[str, Any], repeat: int = 10) -> tuple[CallTime, ...]:
        """The time of every kernel call, over some runs after a first one; state is left as it was.

        Calls are started one by one from Python, which adds some microseconds to each where there are several threads.
        `cnncc.profile` times them inside of runs, and says more.
        """
        arrays, sizes = self._signature.take(self._signature.order(feeds))
        times = np.zeros((repeat + 1, len(self.program.calls)))

        def steps(table: CallTable) -> None:
            for row in times:
                for i in range(len(row)):
                    begin = time.perf_counter()
                    table.step(i)
                    row[i] = time.perf_counter() - begin

        before = dict(self.state)
        try:
            self._engine.execute(arrays, sizes, self._signature.fresh(sizes), steps)
        finally:
            self.state.update(before)
        least, median = times[1:].min(0), np.median(times[1:], 0)
        return tuple(
            CallTime(c.node, c.kernel, float(least[i]), float(median[i])) for i, c in enumerate(self.program.calls)
        )

    def save(self, path: str | Path) -> None:
        """Writes the model, with its present state, as one file that `cnncc.load` runs without a compiler."""
        from cnncc.runtime.artifact import save

        save(self, Path(path))

    def _run(self, given: Sequence[Any], out: Sequence[Any] | None) -> list[np.ndarray]:
        arrays, sizes = self._signature.take(given)
        if out is None:
            results = self._signature.fresh(sizes)
            self._execute(arrays, sizes, results)
            return results
        targets = self._signature.targets(out, sizes)
        results = [t if _direct(t, [*arrays, *targets]) else empty(t.shape, t.dtype) for t in targets]
        self._execute(arrays, sizes, results)
        for target, result in zip(targets, results, strict=True):
            if target is not result:
                target[...] = result
        return targets

    def _execute(self, arrays: Sequence[np.ndarray], sizes: Sizes, results: Sequence[np.ndarray]) -> None:
        if 0 not in sizes.key:
            self._engine.execute(arrays, sizes, results, CallTable.run)
        elif self.state or any(r.size for r in results):  # else the results are empty, and there is nothing to run
            raise GraphError(
                f"{', '.join(sizes.zero)}: a size must be at least 1 where results do not become empty with it, got 0"
            )


def _engine(
    program: Program, state: State | None, code: Mapping[str, Any] | None, elsewhere: bool
) -> Engine | CudaEngine | Elsewhere:
    if program.target.get("kind") == "cuda":
        from cnncc.targets.cuda.engine import CudaEngine

        return CudaEngine(program, state)
    if elsewhere:
        try:
            check_machine(program)
        except RuntimeFault as reason:
            return Elsewhere(program, state, str(reason))
    return Engine(program, state, code)


def _direct(target: np.ndarray, used: Sequence[np.ndarray]) -> bool:
    """Whether kernels may write a result straight into an array: its place fits, and no other use shares its memory."""
    return usable(target) and not any(other is not target and np.may_share_memory(target, other) for other in used)


def _argument(port: Port) -> Argument:
    return Argument(port.name, tuple(d if isinstance(d, int) else str(d) for d in port.shape), port.dtype)


def _nbytes(ports: Sequence[Port]) -> Dim:
    total: Dim = 0
    for port in ports:
        fixed, symbolic = np.dtype(port.dtype).itemsize, [d for d in port.shape if isinstance(d, Affine)]
        for d in port.shape:
            fixed *= d if isinstance(d, int) else 1
        total = total + (symbolic[0] * fixed if symbolic else fixed)  # Program.check allows one symbolic extent
    return total
