"""lower-dilation: convolutions that read mostly padding, and those of far-apart taps, become dense ones."""

from __future__ import annotations

from itertools import product
from math import prod

import numpy as np

from cnncc.builder import Builder
from cnncc.ir.graph import Graph, Node, Value
from cnncc.ops.window import Geometry, geometry
from cnncc.ops.winograd_matrices import TAPS, axes
from cnncc.passes.manager import Context
from cnncc.passes.rules import Decline, Rule, apply_rules, rule

READ = 0.7  # of the taps' positions that lie inside the image, up to which taps are taken apart
WASTE = 1.8  # times the image that its phases with the gaps between them may be, where Winograd is the gain
FAR = 2.5  # where the window is large
PHASE = 4  # positions of a phase along an axis from which Winograd pays
WINDOW = 64 << 10  # elements of input under a large window, a copy of which does not stay near


def _static(x: Value, w: Value) -> tuple[int, ...] | Decline:
    size = x.type.shape[2:]
    if not w.is_constant or not all(isinstance(d, int) for d in (*size, x.type.shape[1])):
        return Decline("weights and sizes must be known")
    return tuple(int(d) for d in size)


def _alive(g: Geometry, size: tuple[int, ...], out: tuple[int, ...]) -> list[list[tuple[int, int, int]]]:
    """For each axis the taps that read the image: their number, and the range of results for which they do."""
    axes = []
    for k, s, p, d, n, o in zip(g.kernel, g.strides, g.begin, g.dilations, size, out, strict=True):
        taps = [(t, max(0, -((t * d - p) // s)), min(o, -((t * d - p - n) // s))) for t in range(k)]
        axes.append([(t, low, high) for t, low, high in taps if low < high])
    return axes


def _taps(b: Builder, w: Value, first: list[int], past: list[int]) -> Value:
    """The weights of taps from the first ones on, before those past the last."""
    assert w.data is not None
    inner = tuple(slice(f, p) for f, p in zip(first, past, strict=True))
    return b.constant(np.ascontiguousarray(w.data[(slice(None), slice(None), *inner)]), w.name)


def _out(root: Node) -> tuple[int, ...]:
    return tuple(int(d) for d in root.output.type.shape[2:])


@rule("conv(x, w)")
def crop_taps(b: Builder, root: Node, x: Value, w: Value) -> Value | Decline:
    """conv(x, w, p) --> conv(x, w without outer taps that read padding alone, p less)."""
    size = _static(x, w)
    if isinstance(size, Decline):
        return size
    g = geometry(root.attrs, w.type.shape[2:])
    taps = [[t for t, *_ in axis] for axis in _alive(g, size, _out(root))]
    if any(not t for t in taps):
        return Decline("nothing but padding is read")
    first, past = [t[0] for t in taps], [t[-1] + 1 for t in taps]
    if all(f == 0 and e == k for f, e, k in zip(first, past, g.kernel, strict=True)):
        return Decline("every tap reads the image")
    begin = tuple(p - f * d for p, f, d in zip(g.begin, first, g.dilations, strict=True))
    end = tuple(p - (k - e) * d for p, k, e, d in zip(g.end, g.kernel, past, g.dilations, strict=True))
    if any(p < 0 for p in (*begin, *end)):
        return Decline("some of the image would be cut off")
    cut = _taps(b, w, first, past)
    dilations = tuple(d if e - f > 1 else 1 for d, f, e in zip(g.dilations, first, past, strict=True))
    return b.conv(x, cut, strides=g.strides, pads=(*begin, *end), dilations=dilations, groups=root.attrs.groups)


@rule("conv(x, w)")
def take_taps_apart(b: Builder, root: Node, x: Value, w: Value) -> Value | Decline:
    """conv(x, w) --> sum over taps t of pad(conv1x1(x where t reads it, w[t])), where taps read padding mostly."""
    size = _static(x, w)
    if isinstance(size, Decline):
        return size
    g, out = geometry(root.attrs, w.type.shape[2:]), _out(root)
    if all(d == 1 for d in g.dilations) or any(s != 1 for s in g.strides) or root.attrs.groups != 1:
        return Decline("it is for dilated kernels of stride 1 in one group")
    axes = _alive(g, size, out)
    read = prod(
        sum(high - low for _, low, high in axis) / (k * o) for axis, k, o in zip(axes, g.kernel, out, strict=True)
    )
    if read > READ:
        return Decline(f"{read:.0%} of what the taps read is the image")
    total: Value | None = None
    whole: Value | None = None
    for taps in product(*axes):
        at = [low + t * d - p for (t, low, _), d, p in zip(taps, g.dilations, g.begin, strict=True)]
        part = b.slice(
            x,
            starts=(0, 0, *at),
            ends=(*x.type.shape[:2], *(a + high - low for a, (_, low, high) in zip(at, taps, strict=True))),
        )
        tap = _taps(b, w, [t for t, *_ in taps], [t + 1 for t, *_ in taps])
        term = b.conv(part, tap)
        if all(low == 0 and high == o for (_, low, high), o in zip(taps, out, strict=True)) and whole is None:
            whole = term  # the last to be added, so that its kernel takes what follows
            continue
        ends = (o - high for (_, _, high), o in zip(taps, out, strict=True))
        term = b.pad(term, pads=(0, 0, *(low for _, low, _ in taps), 0, 0, *ends))
        total = term if total is None else b.add(total, term)
    if total is None or whole is None:
        return total or whole or Decline("nothing but padding is read")
    return b.add(total, whole)


@rule("conv(x, w)")
def phases_of_large_windows(b: Builder, root: Node, x: Value, w: Value) -> Value | Decline:
    """conv(x, w, dilation d) --> join_phases(conv(split_phases(x, d), w)), so that windows are small."""
    g = geometry(root.attrs, w.type.shape[2:])
    if not isinstance(x.type.shape[1], int) or x.type.shape[1] * prod(g.extent) <= WINDOW:
        return Decline("a copy of the window stays near")
    return _side_by_side(b, root, x, w, FAR)


@rule("conv(x, w)")
def phases_for_winograd(b: Builder, root: Node, x: Value, w: Value) -> Value | Decline:
    """conv(x, w, dilation d) --> join_phases(conv(split_phases(x, d), w)), so that Winograd's algorithm applies."""
    g = geometry(root.attrs, w.type.shape[2:])
    size = _static(x, w)
    if isinstance(size, Decline):
        return size
    last = axes(len(size))
    taps = g.kernel[-last:]
    short = min(-(-n // d) for n, d in zip(size[-last:], g.dilations[-last:], strict=True)) < PHASE
    if set(taps) == {1} or not set(taps) <= {1, *TAPS[1:]} or short or min(int(d) for d in w.type.shape[:2]) < 16:
        return Decline("Winograd gains more than the phases cost from 3 taps on, with many channels and pixels")
    return _side_by_side(b, root, x, w, WASTE)


def _side_by_side(b: Builder, root: Node, x: Value, w: Value, most: float) -> Value | Decline:
    """join_phases(conv(split_phases(x, d), w)), where phases and gaps are at most so many times the image.

    Result q d + r reads x at (q + k - p / d) d + r: phase r of the result is a dense convolution of phase r of x. The
    zeros between the phases are the padding of both.
    """
    size = _static(x, w)
    if isinstance(size, Decline):
        return size
    g, out = geometry(root.attrs, w.type.shape[2:]), _out(root)
    strides = g.dilations
    if all(d == 1 for d in strides) or any(s != 1 for s in g.strides) or root.attrs.groups != 1:
        return Decline("it is for dilated kernels of stride 1 in one group")
    if any(p % d for p, d in zip(g.begin, strides, strict=True)):
        return Decline(f"the padding {g.begin} is no multiple of the dilation")
    phase = [-(-n // d) for n, d in zip(size, strides, strict=True)]
    begin = [p // d for p, d in zip(g.begin, strides, strict=True)]
    end = [-(-o // d) + k - 1 - p - q for o, d, k, p, q in zip(out, strides, g.kernel, begin, phase, strict=True)]
    if any(p < 0 for p in end):
        return Decline("the result is shorter than its phases")
    gap = [max(p, q) for p, q in zip(begin, end, strict=True)]
    waste = prod((d * (q + z) - z) / n for q, d, z, n in zip(phase, strides, gap, size, strict=True))
    if waste > most:
        return Decline(f"the phases with the gaps between them are {waste:.1f} times the image")
    y = b.conv(b.split_phases(x, strides=strides, gap=tuple(gap)), w, pads=(*begin, *end))
    pitch = tuple(q + z for q, z in zip(phase, gap, strict=True))
    return b.join_phases(y, strides=strides, pitch=pitch, size=out)


EXACT: tuple[Rule, ...] = (crop_taps, take_taps_apart, phases_of_large_windows)
RULES: tuple[Rule, ...] = (*EXACT, phases_for_winograd)


def lower_dilation(graph: Graph, context: Context) -> None:
    """Apply RULES; EXACT ones alone where Winograd's algorithm is not allowed, or the target has none."""
    winograd = context.accuracy != "strict" and context.target is not None and context.target.kind == "cpu"
    apply_rules(graph, RULES if winograd else EXACT, context)
