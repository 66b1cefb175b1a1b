"""What stands behind an executable whose kernels run on a CUDA device; the counterpart of `cnncc.runtime.engine`.

Weights are copied to the device once, inputs and results at every run. Code is loaded at the first run, so a model for
another machine's device can be compiled, reported on and saved anywhere.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Protocol

import numpy as np

from cnncc.errors import RuntimeFault
from cnncc.runtime import native
from cnncc.runtime.calltable import CallTable
from cnncc.runtime.machine import check_object
from cnncc.runtime.program import Program, dim_at, shape_at
from cnncc.runtime.signature import Sizes
from cnncc.runtime.state import State
from cnncc.targets.cuda.device import CudaDevice
from cnncc.targets.cuda.objects import NOTE, device_code

CUDA = 2  # kDLCUDA, device 0
TABLES_KEPT = 16  # one per size of the symbols, each with its arena, inputs and results on the device
_ALIGN = 256


class Device(Protocol):
    """What the engine asks of a device."""

    def module(self, codes: Any) -> list[Any]: ...
    def allocate(self, nbytes: int) -> int: ...
    def free(self, address: int) -> None: ...
    def upload(self, address: int, array: np.ndarray) -> None: ...
    def download(self, array: np.ndarray, address: int) -> None: ...
    def synchronize(self) -> None: ...


class _Table(CallTable):
    """A call table whose single steps end when the kernel does, so that they can be timed."""

    device: Device

    def step(self, index: int) -> None:
        super().step(index)
        self.device.synchronize()


@dataclass
class _Bound:
    """A call table with the device memory that belongs to it: address of each buffer that owns memory, and blocks."""

    table: CallTable
    addresses: dict[int, int]
    block: int


class CudaEngine:
    """A program whose kernels run on a CUDA device. Runs take turns."""

    def __init__(self, program: Program, state: State | None = None, device: Device | None = None) -> None:
        """`device`: left out, the first CUDA device, asked for at the first run."""
        own = {b.name: b for b in program.buffers if b.kind == "state" and b.base is None}
        self.state = State({name: program.constants[name] for name in own}) if state is None else state
        for symbol, data in program.kernels.items():
            check_object(symbol, data)
        self._program = program
        self._device = device
        self._functions: dict[str, Any] = {}
        self._fixed: dict[int, int] = {}  # address of each constant and state
        self._tables: OrderedDict[tuple[int, ...], _Bound] = OrderedDict()

    def renew(self) -> None:
        """Nothing to do in a forked child: a CUDA context does not survive a fork, and a run there says so."""

    def execute(
        self,
        arrays: Sequence[np.ndarray],
        sizes: Sizes,
        results: Sequence[np.ndarray],
        action: Callable[[CallTable], None],
    ) -> None:
        """Copies inputs to the device, runs `action` on the call table, copies results (and state) back.

        Raises RuntimeFault where there is no device, or a kernel fails.
        """
        with self.state.lock:
            device = self._load()
            bound = self._bind(device, sizes)
            for port, array in zip(self._program.inputs, arrays, strict=True):
                device.upload(self._address(bound, port.buffer, sizes), np.ascontiguousarray(array))
            for index, name in self._states():
                device.upload(bound.addresses[index], self.state.arrays[name])
            action(bound.table)
            device.synchronize()
            for port, result in zip(self._program.outputs, results, strict=True):
                device.download(result, self._address(bound, port.buffer, sizes))
            for index, name in self._states():
                device.download(self.state.arrays[name], bound.addresses[index])

    def _states(self) -> list[tuple[int, str]]:
        return [(i, b.name) for i, b in enumerate(self._program.buffers) if b.kind == "state" and b.base is None]

    def _load(self) -> Device:
        """The device, with code and constants on it."""
        if self._device is None:
            self._device = CudaDevice()
        if not self._functions:
            module = native.link(self._program.kernels.values())
            for code in self._device.module(device_code(self._program.notes[NOTE])):
                module.import_module(code)
            for index, buffer in enumerate(self._program.buffers):
                if buffer.base is None and buffer.kind in ("constant", "state"):
                    array = np.ascontiguousarray(self._program.constants[buffer.name])
                    self._fixed[index] = self._device.allocate(array.nbytes)
                    self._device.upload(self._fixed[index], array)
            self._functions = {name: module.get_function(name) for name in self._program.kernels}
        return self._device

    def _bind(self, device: Device, sizes: Sizes) -> _Bound:
        """The call table for these sizes, every buffer at its place on the device."""
        bound = self._tables.get(sizes.key)
        if bound is not None:
            self._tables.move_to_end(sizes.key)
            return bound
        for buffer in self._program.buffers:
            elements = prod(shape_at(buffer.shape, sizes.values))
            if elements >= 1 << 31:  # kernels count in 32 bits
                raise RuntimeFault(f"CUDA: {buffer.name} must have fewer than 2^31 elements, got {elements}")
        addresses = dict(self._fixed)
        total = dim_at(self._program.arena, sizes.values)
        own = {}
        for index, buffer in enumerate(self._program.buffers):
            if buffer.base is None and buffer.kind in ("input", "output"):
                total = -(-total // _ALIGN) * _ALIGN
                own[index] = total
                total += prod(shape_at(buffer.shape, sizes.values)) * np.dtype(buffer.dtype).itemsize
        if len(self._tables) >= TABLES_KEPT:
            _, oldest = self._tables.popitem(last=False)
            device.free(oldest.block)
        block = device.allocate(total)
        addresses.update({index: block + offset for index, offset in own.items()})
        for index, buffer in enumerate(self._program.buffers):
            if buffer.base is None and buffer.kind == "arena":
                addresses[index] = block + dim_at(buffer.offset, sizes.values)
        table = _Table(self._program, self._functions, sizes.values, device=CUDA)
        table.device = device
        for index, address in addresses.items():
            table.bind(index, address)
        self._tables[sizes.key] = bound = _Bound(table, addresses, block)
        return bound

    def _address(self, bound: _Bound, index: int, sizes: Sizes) -> int:
        buffer = self._program.buffers[index]
        if buffer.base is None:
            return bound.addresses[index]
        return self._address(bound, buffer.base, sizes) + dim_at(buffer.offset, sizes.values)
