"""Compiled models with every buffer between pages that may not be touched: `python -m tests.guarded NET...`.

A kernel that reads or writes outside of its buffers ends the process with a segmentation fault, so tests start this
module in a process of its own.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

import cnncc
from cnncc.runtime.calltable import CallTable
from cnncc.runtime.program import dim_at, shape_at
from tests import zoo
from tests.graphs import random_feeds, random_graph
from tests.ops.harness import run_reference
from tests.ops.test_driver import CASES, feeds_of, one_op

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


def models(names: list[str]) -> Iterator[tuple[str, Any, dict[str, np.ndarray]]]:
    """What to run, on one thread: networks, small, or random graphs by their seeds, with a symbolic batch of 1 and of
    3; a sample of an operation ("max_unpool-2"); "ops:2:8": of them all every eighth, from the third on."""
    for name in names:
        chosen = [case for case in CASES if str(case) == name]
        if name.startswith("ops:"):
            _, first, step = name.split(":")
            chosen = CASES[int(first) :: int(step)]
        if chosen:
            for case in chosen:
                if all(a.size for a in (*case.arrays(), *run_reference(case, case.arrays())) if a is not None):
                    yield str(case), cnncc.compile(one_op(case), threads=1), feeds_of(case.arrays())
        elif name.isdigit():
            graph = random_graph(int(name), batch="N")
            executable = cnncc.compile(graph, threads=1)
            for batch in (1, 3):
                yield name, executable, random_feeds(graph, {"N": batch})
        else:
            net = zoo.NETS[name]
            path = zoo.export(name, dynamo=False, symbolic_batch=True, size=net.small, width=net.small_width)
            executable = cnncc.compile(path, threads=1)
            for batch in (1, 3):
                yield name, executable, zoo.inputs(name, batch, net.small)


def main(names: list[str]) -> None:
    """Runs every model at both ends; says which before it does."""
    for name, executable, feeds in models(names):
        for at_end in (False, True):
            print(name, "end" if at_end else "start", flush=True)
            run(executable, feeds, at_end)
    print("done", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
