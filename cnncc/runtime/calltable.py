"""The calls of a program for one size of its symbols, as memory that the native run loop walks.

One block of 64-bit words holds, in this order: the loop's status (a row per thread), counters for the barrier, a row
per call and thread (function, arguments, their number, barrier), the barrier itself, the arguments (a tag and a value
each), a DLTensor per buffer, the shapes and strides. Binding a buffer is storing its address in its DLTensor, so a run
patches the inputs and outputs and makes one native call.

A kernel for a team is called by every thread, with three more arguments: the thread's number, their count, the
barrier's address. Any other is called by thread 0; the threads wait for each other behind it if a team is next.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from cnncc.errors import RuntimeFault
from cnncc.runtime import native
from cnncc.runtime.arena import address, allocate
from cnncc.runtime.program import RUN_LOOP, Program, dim_at, shape_at

_ROW = 8  # words a call: function, arguments, their number, barrier; whole cache lines, so that a row is a table
_TENSOR = 6  # words a DLTensor: data, device, rank and dtype, shape, strides (none: row-major), byte offset
_CPU = 1  # kDLCPU, device 0
_INTEGER = 1  # kTVMFFIInt
_TENSOR_POINTER = 7  # kTVMFFIDLTensorPtr
_CODES = {"i": 0, "u": 1, "f": 2, "V": 4, "c": 5, "b": 6}  # DLPack's type codes by numpy's kinds (V: bfloat16)


class CallTable:
    """A program's calls bound to sizes. `functions`: kernel symbol --> loaded function."""

    def __init__(
        self,
        program: Program,
        functions: Mapping[str, Any],
        values: Mapping[str, int],
        device: int = _CPU,
        threads: int = 1,
    ) -> None:
        """`device`: DLPack's device type of the memory that buffers will be bound to (device 0 of it).

        `threads`: how many run the calls; more than one start and wait in the run loop.
        """
        shapes = [shape_at(b.shape, values) for b in program.buffers]
        self._program = program
        self._functions = functions  # keeps the code alive that the rows point to
        self._run = functions[RUN_LOOP]
        calls, buffers, team = program.calls, program.buffers, program.team_kernels
        together = [c.kernel in team for c in calls]
        arguments = sum(
            threads * (len(c.buffers) + 3) if all_ else len(c.buffers) for c, all_ in zip(calls, together, strict=True)
        )
        counters_at = threads * _ROW
        rows_at = counters_at + threads * _ROW
        barrier_at = rows_at + len(calls) * threads * _ROW
        arguments_at = barrier_at + 2
        tensors_at = arguments_at + arguments * 2
        shapes_at = tensors_at + len(buffers) * _TENSOR
        extents = sum(len(shape) * (2 if b.pitch else 1) for b, shape in zip(buffers, shapes, strict=True))
        words = allocate((shapes_at + extents) * 8).view(np.int64)
        words[:] = 0
        start = address(words)

        at = shapes_at
        for i, (b, shape) in enumerate(zip(buffers, shapes, strict=True)):
            dtype = np.dtype(b.dtype)
            described = len(shape) | _CODES[dtype.kind] << 32 | (8 * dtype.itemsize) << 40 | 1 << 48
            words[tensors_at + i * _TENSOR : tensors_at + i * _TENSOR + 4] = (0, device, described, start + at * 8)
            words[at : at + len(shape)] = shape
            at += len(shape)
            if b.pitch:
                words[tensors_at + i * _TENSOR + 4] = start + at * 8
                words[at : at + len(shape)] = (b.pitch, *(math.prod(shape[k + 1 :]) for k in range(1, len(shape))))
                at += len(shape)
        barrier = start + barrier_at * 8
        words[barrier_at : barrier_at + 2] = (start + counters_at * 8, threads)  # a TVMParallelGroupEnv
        rows = words[rows_at:barrier_at].reshape(len(calls), threads, _ROW)
        at = arguments_at
        for i, call in enumerate(calls):
            function = functions[call.kernel].__chandle__()
            tensors = [(_TENSOR_POINTER, start + (tensors_at + b_id * _TENSOR) * 8) for b_id in call.buffers]
            for thread in range(threads if together[i] else 1):
                number = (_INTEGER, thread), (_INTEGER, threads), (_INTEGER, barrier)
                given = np.array([*tensors, *(number if together[i] else ())], np.int64).reshape(-1)
                words[at : at + len(given)] = given
                rows[i, thread, :3] = (function, start + at * 8, len(given) // 2)
                at += len(given)
            if not together[i] and True in together[i + 1 : i + 2]:
                rows[i, :, 3] = barrier

        self._words = words
        self._status = words[:counters_at].reshape(threads, _ROW)
        self._data = words[tensors_at:shapes_at:_TENSOR]
        self._rows = rows.view(np.uint64)
        from_dlpack = native.import_ffi().from_dlpack
        self._status_tensor = from_dlpack(self._status)
        self._counters = from_dlpack(words[counters_at:rows_at].view(np.int32).reshape(threads, 2 * _ROW))
        self._table = from_dlpack(self._rows) if calls else None
        self._steps: list[Any] = []
        # A buffer's address is its root's plus this.
        self._views: dict[int, list[tuple[int, int]]] = {}
        for i, b in enumerate(buffers):
            if b.base is not None:
                self._views.setdefault(program.root(i), []).append((i, self._offset(i, values)))

    def _offset(self, index: int, values: Mapping[str, int]) -> int:
        b = self._program.buffers[index]
        return 0 if b.base is None else dim_at(b.offset, values) + self._offset(b.base, values)

    def bind(self, index: int, where: int) -> None:
        """Places a buffer (no view), and with it its views, at an address."""
        self._data[index] = where
        for view, offset in self._views.get(index, ()):
            self._data[view] = where + offset

    def read(self, index: int, into: np.ndarray) -> None:
        """Copies what a buffer holds into an array of the same dtype and number of elements."""
        nbytes = into.nbytes
        if nbytes:
            memory = (ctypes.c_byte * nbytes).from_address(int(self._data[index]))
            into[...] = np.ctypeslib.as_array(memory).view(into.dtype).reshape(into.shape)

    def run(self) -> None:
        """Runs every call on the calling thread (and those of its pool), without the GIL.

        Raises RuntimeFault where a kernel refuses its arguments.
        """
        if self._table is not None:
            self._run(self._table, self._status_tensor, self._counters)
            if self._status[0, 0]:
                self._fail(0)

    def step(self, index: int) -> None:
        """Runs one call."""
        if not self._steps:
            from_dlpack = native.import_ffi().from_dlpack
            self._steps = [from_dlpack(self._rows[i : i + 1]) for i in range(len(self._rows))]
        self._run(self._steps[index], self._status_tensor, self._counters)
        if self._status[0, 0]:
            self._fail(index)

    def _fail(self, first: int) -> None:
        call = self._program.calls[first + int(self._status[0, 1])]
        self._status[:] = 0
        where = f"{call.node} ({call.kernel})" if call.node else call.kernel
        raise RuntimeFault(f"{where}: the kernel refused its arguments: {native.take_error() or 'no reason given'}")
