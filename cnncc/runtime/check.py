"""Whether a program is consistent: nothing it names is missing, and no kernel is given memory that is not its own."""

from __future__ import annotations

import math
from collections.abc import Mapping

from cnncc.errors import GraphError
from cnncc.runtime.arena import ALIGNMENT
from cnncc.runtime.program import RUN_LOOP, Affine, Buffer, Port, Program, dim_at, shape_at, show_shape


def check_program(program: Program) -> None:
    """Raises GraphError naming the first thing that is wrong."""
    if program.threads < 1:
        raise GraphError(f"threads must be at least 1, got {program.threads}")
    if RUN_LOOP not in program.kernels:
        raise GraphError(f"the kernels must include the run loop {RUN_LOOP!r}, got {', '.join(program.kernels)}")
    for index in range(len(program.buffers)):
        _check_buffer(program, index)
    _check_calls(program)
    _check_ports(program)
    check_bounds(program, dict.fromkeys(program.symbols, 1))


def check_bounds(program: Program, values: Mapping[str, int]) -> None:
    """Raises GraphError where, at these sizes, a buffer does not lie within the arena or the buffer it is a view of."""
    arena = dim_at(program.arena, values)
    sizes: list[int] = []
    for index, b in enumerate(program.buffers):
        shape = shape_at(b.shape, values)
        sizes.append(b.span(values))
        offset = dim_at(b.offset, values)
        if b.base is None and b.kind != "arena":
            limit, where = sizes[-1], "itself"
        else:
            limit, where = (arena, "the arena") if b.base is None else (sizes[b.base], f"buffer {b.base}")
        if min(shape, default=0) < 0 or offset < 0 or offset + sizes[-1] > limit:
            raise GraphError(
                f"{_name(index, b)}: its memory must lie within {where} of {limit} bytes, "
                f"got {sizes[-1]} bytes of shape {shape} at {offset}"
            )


def _name(index: int, buffer: Buffer) -> str:
    return f"buffer {index} ({buffer.name})"


def _check_buffer(program: Program, index: int) -> None:
    b = program.buffers[index]
    what = _name(index, b)
    inner = math.prod(d for d in b.shape[1:] if isinstance(d, int))
    if b.pitch and (b.pitch < inner or b.base is None or not all(isinstance(d, int) for d in b.shape[1:])):
        raise GraphError(f"{what}: a pitch is for views, and at least the {inner} elements of an index, got {b.pitch}")
    if b.base is not None and not (0 <= b.base < index and program.buffers[b.base].kind == b.kind):
        raise GraphError(f"{what}: a view must follow its base and be of its kind, got base {b.base}, {b.kind}")
    steps = [b.offset] if isinstance(b.offset, int) else [b.offset.constant, *(c for _, c in b.offset.terms)]
    if any(s % ALIGNMENT for s in steps):
        raise GraphError(f"{what}: offset must be a multiple of {ALIGNMENT} bytes for every size, got {b.offset}")
    unknown = {s for d in (*b.shape, b.offset) if isinstance(d, Affine) for s, _ in d.terms} - set(program.symbols)
    if unknown:
        raise GraphError(f"{what}: symbols must be declared, got {', '.join(sorted(unknown))}")
    if b.kind in ("constant", "state") and b.base is None:
        array = program.constants.get(b.name)
        if array is None or array.dtype.name != b.dtype or array.shape != b.shape:
            got = "none" if array is None else f"{array.dtype.name}{array.shape}"
            raise GraphError(f"{what}: its array must be {b.dtype}{show_shape(b.shape)}, got {got}")


def _check_calls(program: Program) -> None:
    count = len(program.buffers)
    for call in program.calls:
        node = call.node or call.kernel
        if call.kernel not in program.kernels:
            raise GraphError(f"{node}: its kernel must be among the kernels, got {call.kernel!r}")
        if any(not 0 <= i < count for i in call.buffers):
            raise GraphError(f"{node}: buffers must be 0 to {count - 1}, got {call.buffers}")


def _check_ports(program: Program) -> None:
    fixed = {s for p in program.inputs for d in p.shape if isinstance(d, Affine) for s, _ in d.terms}
    loose = [s for s in program.symbols if s not in fixed]
    if loose:
        raise GraphError(f"symbols must follow from the inputs' shapes, got {', '.join(loose)}")
    for port in (*program.inputs, *program.outputs):
        _check_port(program, port)
    for port in program.inputs:
        b = program.buffers[port.buffer]
        if b.kind != "input" or b.base is not None:
            raise GraphError(f"{port.name}: an input's buffer must be of kind input and no view, got {b.kind}")
    written = {p.buffer for p in program.outputs}
    given = {p.buffer for p in program.inputs}
    for index, b in enumerate(program.buffers):
        if b.kind == "output" and b.base is None and index not in written:
            raise GraphError(f"{_name(index, b)}: it is of kind output, so an output must name it")
        if b.kind == "input" and b.base is None and index not in given:
            raise GraphError(f"{_name(index, b)}: it is of kind input, so an input must name it")


def _check_port(program: Program, port: Port) -> None:
    if not 0 <= port.buffer < len(program.buffers):
        raise GraphError(f"{port.name}: its buffer must be 0 to {len(program.buffers) - 1}, got {port.buffer}")
    if sum(isinstance(d, Affine) for d in port.shape) > 1:
        raise GraphError(f"{port.name}: at most one extent may be symbolic, got {show_shape(port.shape)}")
    unknown = {s for d in port.shape if isinstance(d, Affine) for s, _ in d.terms} - set(program.symbols)
    if unknown:
        raise GraphError(f"{port.name}: symbols must be declared, got {', '.join(sorted(unknown))}")
    b = program.buffers[port.buffer]
    if b.kind == "output" and b.base is not None:
        raise GraphError(f"{port.name}: an output's buffer must not be a view of another output")
    for values in (dict.fromkeys(program.symbols, n) for n in (1, 2)):  # affine in one symbol: two points settle it
        inside, outside = math.prod(shape_at(b.shape, values)), math.prod(shape_at(port.shape, values))
        if inside != outside or b.dtype != port.dtype:
            raise GraphError(
                f"{port.name}: its buffer must hold {port.dtype}{show_shape(port.shape)}, "
                f"got {b.dtype}{show_shape(b.shape)}"
            )
