"""Parameters of Slice and Split, which shape arithmetic and the graph share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cnncc.ir.dims import Dim, normal

if TYPE_CHECKING:
    from cnncc.edges.onnx_import.context import Call


_FAR = 10**8  # exporters write "up to the end" as some large number (1e9, 2^31 - 1, 2^63 - 1)
_LAST = 2**63 - 1


def slice_arguments(n: Call) -> tuple[tuple[Dim, ...], tuple[Dim, ...], tuple[int, ...], tuple[int, ...]]:
    """starts, ends, axes and steps of a Slice: as Python's slices mean them, one for each axis that is cut."""
    rank = n.rank(0)
    if n.version < 10:
        starts: tuple[Dim, ...] = n.attr_ints("starts") or ()
        ends: tuple[Dim, ...] = n.attr_ints("ends") or ()
        axes, steps = n.attr_ints("axes"), None
    else:
        starts, ends = n.dims(1, "starts"), n.dims(2, "ends")
        axes = n.ints(3, "axes") if n.has(3) else None
        steps = n.ints(4, "steps") if n.has(4) else None
    axes = n.axes(range(len(starts)) if axes is None else axes, rank)
    steps = (1,) * len(starts) if steps is None else steps
    if not len(starts) == len(ends) == len(axes) == len(steps):
        counts = ", ".join(str(len(x)) for x in (starts, ends, axes, steps))
        n.fail(f"starts, ends, axes and steps must be equally many, got {counts}")
    if any(step == 0 for step in steps):
        n.fail("steps must not be 0")
    return starts, tuple(_LAST if isinstance(d, int) and d >= _FAR else d for d in ends), axes, steps


def split_sizes(n: Call) -> tuple[int, tuple[Dim, ...]]:
    """The axis of a Split and the size of each part."""
    shape = n.shape(0)
    if not shape:
        n.fail("takes at least rank 1, got a scalar")
    axis = n.axis(n.attr_int("axis"), len(shape))
    size = shape[axis]
    count = n.attr_int("num_outputs", len(n.proto.output))
    if count != len(n.proto.output):
        n.fail(f"num_outputs must be the number of outputs {len(n.proto.output)}, got {count}")
    if n.version >= 13 and n.has(1):
        sizes: tuple[Dim, ...] = n.dims(1, "split")
    elif n.attr_ints("split") is not None:
        sizes = n.attr_ints("split") or ()
    elif isinstance(size, int):
        each = -(-size // count)
        sizes = (*(each,) * (count - 1), size - each * (count - 1))
    else:
        sizes = (_part(n, axis, size, count),) * count
    total = normal(sum(sizes[1:], sizes[0]) if sizes else 0)
    n.equate(size, total, f"the size of axis {axis} and the sum of the parts")
    if any(isinstance(d, int) and d < 0 for d in sizes):
        n.fail(f"parts must not be negative, got {sizes}")
    return axis, sizes


def _part(n: Call, axis: int, size: Dim, count: int) -> Dim:
    from cnncc.edges.onnx_import.symbolic import whole_quotient

    part = whole_quotient(size, count)
    if part is None:
        n.unsupported(f"axis {axis} has symbolic size {size}; fix the shapes (shapes=...)")
    return part
