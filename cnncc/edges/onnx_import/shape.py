"""Shapes and rearrangements."""

from __future__ import annotations

from collections.abc import Callable

from cnncc.edges.onnx_import.context import Call, Result, Results
from cnncc.edges.onnx_import.reduce import axes_of
from cnncc.edges.onnx_import.slicing import slice_arguments, split_sizes
from cnncc.edges.onnx_import.symbolic import reshape_target
from cnncc.ir.dims import Dim, broadcast, normal, product


def reshape(n: Call) -> Results:
    """Reshape."""
    x = n.value(0)
    target = reshape_target(x.type.shape, n.dims(1, "shape"), bool(n.attr_int("allowzero")))
    if isinstance(target, str):
        n.fail(target)
    return n.op("reshape", x, shape=target)


def flatten(n: Call) -> Results:
    """Flatten to two axes."""
    x = n.value(0)
    rank = x.type.rank
    axis = n.attr_int("axis", 1)
    if not -rank <= axis <= rank:
        n.fail(f"axis must be from {-rank} to {rank}, got {axis}")
    axis = axis + rank if axis < 0 else axis
    return n.op("reshape", x, shape=(product(x.type.shape[:axis]), product(x.type.shape[axis:])))


def squeeze(n: Call) -> Results:
    """Squeeze."""
    x = n.value(0)
    axes = axes_of(n, 13)
    dims = x.type.shape
    where = tuple(i for i, d in enumerate(dims) if d == 1) if axes is None else n.axes(axes, len(dims))
    for axis in where:
        if dims[axis] != 1:
            n.equate(dims[axis], 1, f"the size of squeezed axis {axis} and 1")
    return n.op("reshape", x, shape=tuple(d for i, d in enumerate(dims) if i not in where))


def unsqueeze(n: Call) -> Results:
    """Unsqueeze."""
    x = n.value(0)
    axes = axes_of(n, 13) or ()
    where = n.axes(axes, x.type.rank + len(axes))
    rest = iter(x.type.shape)
    return n.op("reshape", x, shape=tuple(1 if i in where else next(rest) for i in range(x.type.rank + len(axes))))


def transpose(n: Call) -> Results:
    """Transpose; without perm all axes are reversed."""
    rank = n.rank(0)
    perm = n.attr_ints("perm")
    perm = tuple(reversed(range(rank))) if perm is None else perm
    if sorted(perm) != list(range(rank)):
        n.fail(f"perm must hold each axis from 0 to {rank - 1} once, got {perm}")
    if perm == tuple(range(rank)):
        return n.tensor(0)
    return n.op("transpose", n.value(0), perm=perm)


def concat(n: Call) -> Results:
    """Concat."""
    values = n.values()
    axis = n.axis(n.attr_int("axis", 1), values[0].type.rank)
    for v in values[1:]:
        if v.type.rank != values[0].type.rank:
            n.fail(f"inputs must have one rank, got {values[0].type.rank} and {v.type.rank}")
        for i, (a, b) in enumerate(zip(values[0].type.shape, v.type.shape, strict=True)):
            if i != axis:
                n.equate(a, b, f"sizes of axis {i}")
    common = values[0].type.shape
    values = [n.agree(v, (*common[:axis], v.type.shape[axis], *common[axis + 1 :])) for v in values]
    return n.tensor(0) if len(values) == 1 else n.op("concat", *values, axis=axis)


def split(n: Call) -> Results:
    """Split into slices."""
    x = n.value(0)
    axis, sizes = split_sizes(n)
    results: list[Result] = []
    start: Dim = 0
    for i, d in enumerate(sizes):
        end = normal(start + d)
        wanted = n.wants(i)
        results.append(n.op("slice", x, starts=(start,), ends=(end,), axes=(axis,)) if wanted else None)
        start = end
    return tuple(results)


def slice_(n: Call) -> Results:
    """Slice."""
    starts, ends, axes, steps = slice_arguments(n)
    if not starts:
        return n.tensor(0)
    return n.op("slice", n.value(0), starts=starts, ends=ends, axes=axes, steps=steps)


def pad(n: Call) -> Results:
    """Pad, also with negative numbers."""
    x, rank = n.value(0), n.rank(0)
    mode = n.attr_str("mode", "constant")
    value = 0.0
    if n.version < 11:
        pads = n.attr_ints("pads") or ()
        value = n.attr_float("value")
        axes = tuple(range(rank))
    else:
        pads = n.ints(1, "pads")
        if n.has(2) and mode == "constant":
            value = n.scalar(2, "constant_value")
        axes = n.axes(n.ints(3, "axes"), rank) if n.has(3) else tuple(range(rank))
    if len(pads) != 2 * len(axes):
        n.fail(f"pads must have {2 * len(axes)} numbers, got {len(pads)}")
    begin, end = [0] * rank, [0] * rank
    for i, axis in enumerate(axes):
        begin[axis], end[axis] = pads[i], pads[len(axes) + i]
    if not any(begin) and not any(end):
        return n.tensor(0)
    if mode == "constant":
        return n.op("pad", x, pads=(*begin, *end), value=value)
    cut = [min(p, 0) for p in (*begin, *end)]
    if any(cut):
        x = n.op("pad", x, pads=tuple(cut))
    return n.op("pad", x, pads=tuple(max(p, 0) for p in (*begin, *end)), mode=mode)


def expand(n: Call) -> Results:
    """Expand."""
    x = n.value(0)
    target = n.dims(1, "shape")
    rank = x.type.rank
    agreed = list(x.type.shape)
    for k in range(1, min(rank, len(target)) + 1):
        if agreed[-k] != 1 and target[-k] != 1:
            n.equate(agreed[-k], target[-k], "broadcast sizes")
            agreed[-k] = target[-k]
    x = n.agree(x, agreed)
    result = broadcast([x.type.shape, target])
    return n.tensor(0) if result == x.type.shape else n.op("expand", x, shape=result)


def tile(n: Call) -> Results:
    """Tile."""
    return n.op("tile", n.value(0), repeats=n.ints(1, "repeats"))


def _blocks(n: Call) -> tuple[int, int, int, tuple[Dim, ...]]:
    """Block size, number of spatial axes, block elements, shape."""
    dims, block = n.shape(0), n.attr_int("blocksize")
    if len(dims) != 4 or block < 1:
        n.fail(f"needs rank 4 and a positive blocksize, got rank {len(dims)} and {block}")
    return block, 2, block * block, dims


def depth_to_space(n: Call) -> Results:
    """DepthToSpace: channels become blocks of pixels."""
    block, _, count, (batch, channels, h, w) = _blocks(n)
    if not isinstance(channels, int) or channels % count:
        n.fail(f"channels must be divisible by blocksize^2 = {count}, got {channels}")
    each = channels // count
    if n.attr_str("mode", "DCR") == "DCR":
        split, perm = (batch, block, block, each, h, w), (0, 3, 4, 1, 5, 2)
    else:
        split, perm = (batch, each, block, block, h, w), (0, 1, 4, 2, 5, 3)
    x = n.transpose(n.reshape(n.value(0), split), perm)
    return n.reshape(x, (batch, each, normal(h * block), normal(w * block)))


def space_to_depth(n: Call) -> Results:
    """SpaceToDepth: blocks of pixels become channels."""
    block, _, count, (batch, channels, h, w) = _blocks(n)
    if any(isinstance(d, int) and d % block for d in (h, w)):
        n.fail(f"height and width must be divisible by blocksize {block}, got {h} and {w}")
    small = (normal(h // block), normal(w // block))
    x = n.reshape(n.value(0), (batch, channels, small[0], block, small[1], block))
    perm = (0, 1, 3, 5, 2, 4) if n.attr_str("mode", "DCR") == "CRD" else (0, 3, 5, 1, 2, 4)
    return n.reshape(n.transpose(x, perm), (batch, normal(channels * count), *small))


TABLE: dict[str, Callable[[Call], Results]] = {
    "Reshape": reshape,
    "Flatten": flatten,
    "Squeeze": squeeze,
    "Unsqueeze": unsqueeze,
    "Transpose": transpose,
    "Concat": concat,
    "Split": split,
    "Slice": slice_,
    "Pad": pad,
    "Expand": expand,
    "Tile": tile,
    "DepthToSpace": depth_to_space,
    "SpaceToDepth": space_to_depth,
}
