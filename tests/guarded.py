"""Runs compiled models with every buffer between pages that may not be touched: `python -m tests.guarded NET|SEED...`.

A kernel that reads or writes outside of its buffers ends the process with a segmentation fault, so tests start this
module in a process of its own.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from typing import Any

import numpy as np

import cnncc
from cnncc.runtime.calltable import CallTable
from cnncc.runtime.program import dim_at, shape_at
from tests import zoo
from tests.graphs import random_feeds, random_graph

PAGE = mmap.PAGESIZE
LINE = 64  # kernels may rely on whole cache lines
_libc = ctypes.CDLL(None, use_errno=True)


def guarded(nbytes: int, at_end: bool) -> int:
    """The address of so many bytes, right behind a forbidden page or right in front of one. Never given back."""
    body = -(-nbytes // PAGE) * PAGE
    area = mmap.mmap(-1, body + 2 * PAGE)
    _kept.append(area)
    start = ctypes.addressof(ctypes.c_char.from_buffer(area))
    for page in (start, start + PAGE + body):
        if _libc.mprotect(ctypes.c_void_p(page), ctypes.c_size_t(PAGE), 0):
            raise OSError(ctypes.get_errno(), "mprotect")
    return start + PAGE + (body - -(-nbytes // LINE) * LINE if at_end else 0)


_kept: list[mmap.mmap] = []


def run(executable: Any, feeds: dict[str, np.ndarray], at_end: bool) -> None:
    """One run with every buffer that owns memory in an area of its own."""
    program = executable.program
    _, sizes = executable._signature.take(executable._signature.order(feeds))
    values = sizes.values
    table = CallTable(program, executable._engine.functions, values)
    for index, buffer in enumerate(program.buffers):
        if buffer.base is not None:
            continue
        nbytes = int(np.prod([1, *shape_at(buffer.shape, values)])) * np.dtype(buffer.dtype).itemsize
        views = [dim_at(b.offset, values) for b in program.buffers if b.base == index]
        where = guarded(max([nbytes, *views]), at_end)
        port = next((p for p in program.inputs if p.buffer == index), None)
        content = feeds[port.name] if port is not None else program.constants.get(buffer.name)
        if content is not None:
            array = np.ascontiguousarray(content)
            ctypes.memmove(where, array.ctypes.data, array.nbytes)
        table.bind(index, where)
    table.run()


def main(names: list[str]) -> None:
    """Networks, small, or random graphs by their seeds, with a symbolic batch of 1 and of 3, on one thread."""
    for name in names:
        if name.isdigit():
            graph = random_graph(int(name), batch="N")
            executable = cnncc.compile(graph, threads=1)
            given = {batch: random_feeds(graph, {"N": batch}) for batch in (1, 3)}
        else:
            net = zoo.NETS[name]
            path = zoo.export(name, dynamo=False, symbolic_batch=True, size=net.small, width=net.small_width)
            executable = cnncc.compile(path, threads=1)
            given = {batch: zoo.inputs(name, batch, net.small) for batch in (1, 3)}
        for batch, feeds in given.items():
            for at_end in (False, True):
                print(name, batch, "end" if at_end else "start", flush=True)
                run(executable, feeds, at_end)
    print("done", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
