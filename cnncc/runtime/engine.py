"""Everything native behind an executable: loaded code, memory, call tables, the thread that runs."""

from __future__ import annotations

import atexit
import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from cnncc.errors import GraphError, RuntimeFault
from cnncc.runtime import native
from cnncc.runtime.arena import address, allocate, empty, usable
from cnncc.runtime.calltable import CallTable
from cnncc.runtime.check import check_bounds
from cnncc.runtime.machine import check_features, check_object
from cnncc.runtime.program import Program, dim_at, show_shape
from cnncc.runtime.signature import Sizes
from cnncc.runtime.state import State
from cnncc.runtime.threads import Dispatcher

_TABLES_KEPT = 16  # one per size of the symbols, some kilobytes each


class Engine:
    """A program (its constants aligned) with its code loaded and its memory allocated. Runs take turns."""

    def __init__(self, program: Program, state: State | None, code: Mapping[str, Any] | None = None) -> None:
        """`code`: the program's functions where another engine has loaded them already."""
        own = {b.name: b for b in program.buffers if b.kind == "state" and b.base is None}
        self.state = State({n: program.constants[n] for n in own}) if state is None else state
        for name, b in own.items():
            array = self.state.arrays.get(name)
            if array is None or array.dtype.name != b.dtype or array.shape != b.shape:
                got = "none" if array is None else f"{array.dtype.name}{array.shape}"
                raise GraphError(f"{name}: the shared state must have it as {b.dtype}{show_shape(b.shape)}, got {got}")
        self._program = program
        self.functions = code if code is not None else _load(program)
        self._tables: OrderedDict[tuple[int, ...], CallTable] = OrderedDict()
        self._arena = allocate(0)
        self._staging: dict[int, np.ndarray] = {}
        # An output that kernels write into directly, by port; the other ports copy from their buffer afterwards.
        self._direct: dict[int, int] = {}
        for i, port in enumerate(program.outputs):
            if program.buffers[port.buffer].kind == "output" and port.buffer not in self._direct.values():
                self._direct[i] = port.buffer
        # Where every kernel is too small for several threads, runs stay on the caller's (whose pool has any size).
        self._threads = program.threads if program.team_kernels else 1
        self._dispatcher: Dispatcher | None = None
        self.renew()
        _living.add(self)

    def renew(self) -> None:
        """A thread of our own that no run has used yet: at the start, and again in a forked child."""
        if self._threads > 1:
            self._dispatcher = Dispatcher(self._threads)
            weakref.finalize(self, self._dispatcher.stop).atexit = False

    def execute(
        self,
        arrays: Sequence[np.ndarray],
        sizes: Sizes,
        results: Sequence[np.ndarray],
        action: Callable[[CallTable], None],
    ) -> None:
        """Runs `action` on the call table with inputs and results bound. Results must be aligned and row-major."""
        with self.state.lock:
            if _closing and threading.current_thread() is not threading.main_thread():
                raise RuntimeFault("a model cannot run on this thread any more: the interpreter is shutting down")
            table = self._table(sizes)
            for port, array in zip(self._program.inputs, arrays, strict=True):
                table.bind(port.buffer, address(array if usable(array) else self._staged(port.buffer, array)))
            for i, buffer in self._direct.items():
                table.bind(buffer, address(results[i]))
            if self._dispatcher is None:
                action(table)
            else:
                self._dispatcher.call(lambda: action(table))
            if len(self._direct) < len(results):
                for i, port in enumerate(self._program.outputs):
                    if i not in self._direct:
                        table.read(port.buffer, results[i])

    def _staged(self, index: int, array: np.ndarray) -> np.ndarray:
        copy = self._staging.get(index)
        if copy is None or copy.shape != array.shape:
            copy = self._staging[index] = empty(array.shape, array.dtype)
        copy[...] = array
        return copy

    def _table(self, sizes: Sizes) -> CallTable:
        """The call table for these sizes, with everything bound but inputs and outputs."""
        table = self._tables.get(sizes.key)
        if table is not None:
            self._tables.move_to_end(sizes.key)
            return table
        check_bounds(self._program, sizes.values)
        size = dim_at(self._program.arena, sizes.values)
        if size > len(self._arena):
            self._tables.clear()  # their addresses are the old arena's
            self._arena = allocate(0)  # the old one goes before the new one comes
            self._arena = allocate(size)
        table = CallTable(self._program, self.functions, sizes.values, threads=self._threads)
        for i, b in enumerate(self._program.buffers):
            if b.base is not None:
                continue
            if b.kind == "constant":
                table.bind(i, address(self._program.constants[b.name]))
            elif b.kind == "state":
                table.bind(i, address(self.state.arrays[b.name]))
            elif b.kind == "arena":
                table.bind(i, address(self._arena) + dim_at(b.offset, sizes.values))
        self._tables[sizes.key] = table
        if len(self._tables) > _TABLES_KEPT:
            self._tables.popitem(last=False)
        return table


def check_machine(program: Program) -> None:
    """Raises RuntimeFault where the code of a program is not for this machine."""
    check_features("this model", program.features)
    for symbol, data in program.kernels.items():
        check_object(symbol, data)


def _load(program: Program) -> dict[str, Any]:
    """The functions of a program, linked into this process."""
    check_machine(program)
    module = native.link(program.kernels.values())
    return {name: module.get_function(name) for name in program.kernels}


_living: weakref.WeakSet[Engine] = weakref.WeakSet()
_closing = False


def _close() -> None:
    # At exit the interpreter ends other threads when they ask for the GIL, and a thread that returns from native code
    # then takes the process down with it. So runs end first, and other threads begin none.
    global _closing
    _closing = True
    for state in {id(e.state): e.state for e in list(_living)}.values():
        if state.lock.acquire(timeout=60):
            state.lock.release()


def _after_fork() -> None:
    # The child has none of the parent's threads, and one of them may have held a lock.
    native.after_fork()
    for engine in list(_living):
        engine.state.after_fork()
        engine.renew()


atexit.register(_close)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
