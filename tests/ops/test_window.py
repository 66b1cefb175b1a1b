"""The geometry of windows: sizes by counting, named paddings, symbolic sizes."""

from __future__ import annotations

from itertools import product

import pytest

from cnncc.errors import GraphError
from cnncc.ir.dims import parse_dim, substitute, substitute_shape, symbol
from cnncc.ops.window import Window, canonical, geometry
from tests.ops.harness import Case, all_cases
from tests.ops.harness import canonical as canonical_attrs

SIZES = tuple(product(range(1, 9), range(1, 5), range(1, 5), range(3), range(3), (1, 2)))


def _starts(i: int, k: int, s: int, b: int, e: int, d: int) -> list[int]:
    """Where windows that lie in the padded input start, counted from its first element."""
    return [p for p in range(-b, i + e) if (p + b) % s == 0 and p + d * (k - 1) < i + e]


@pytest.mark.parametrize("ceil", [False, True])
def test_sizes_by_counting(ceil: bool):
    for i, k, s, b, e, d in SIZES:
        g = geometry(Window((s,), (b, e), (d,)), (k,))
        starts = _starts(i, k, s, b, e, d)
        if not starts:
            with pytest.raises(GraphError, match="the window must fit"):
                g.out((i,), ceil)
            continue
        count = len(starts)
        if ceil and starts[-1] + d * (k - 1) < i + e - 1 and starts[-1] + s < i:
            count += 1  # a partial window that starts inside
        if ceil and starts[-1] + d * (k - 1) == i + e - 1 and starts[-1] >= i:
            count -= 1  # a whole one that lies behind the input
        if ceil and starts[-1] + d * (k - 1) < i + e - 1 and starts[-1] >= i:
            continue  # several behind it: only the last goes, as in PyTorch and ONNX
        assert g.out((i,), ceil) == (count,), (i, k, s, b, e, d)


@pytest.mark.parametrize("ceil", [False, True])
def test_symbolic_sizes(ceil: bool):
    w = symbol("W")
    for i, k, s, b, e, d in SIZES[::7]:
        g = geometry(Window((s,), (b, e), (d,)), (k,))
        (size,) = g.out((w,), ceil)
        assert parse_dim(str(size)) == size
        if _starts(i, k, s, b, e, d):
            assert substitute(size, {"W": i}) == g.out((i,), ceil)[0], (i, k, s, b, e, d)


@pytest.mark.parametrize(
    ("mode", "size", "kernel", "stride", "pads"),
    [
        ("valid", 7, 3, 1, ()),
        ("full", 7, 3, 1, (2, 2)),
        ("same", 7, 3, 1, (1, 1)),
        ("same_upper", 7, 4, 1, (1, 2)),
        ("same_lower", 7, 4, 1, (2, 1)),
        ("same_upper", 224, 3, 2, (0, 1)),
        ("same_lower", 224, 3, 2, (1, 0)),
        ("same", 8, 1, 2, ()),
        (2, 7, 3, 1, (2, 2)),
        ((1,), 7, 3, 1, (1, 1)),
        ((1, 0), 7, 3, 1, (1, 0)),
    ],
)
def test_named_paddings(mode: object, size: int, kernel: int, stride: int, pads: tuple[int, ...]):
    assert canonical(Window((stride,), mode), (size,), (kernel,)).pads == pads


def test_same_padding_keeps_the_size_over_the_stride():
    for i, k, s, d in product(range(3, 30), range(1, 6), range(1, 4), (1, 2)):
        attrs = canonical(Window((s,), "same", (d,)), (i,), (k,))
        assert geometry(attrs, (k,)).out((i,)) == (-(-i // s),), (i, k, s, d)


@pytest.mark.parametrize(
    ("attrs", "kernel", "message"),
    [
        (Window((1, 1)), (3,), r"strides must have 1 numbers for 1 spatial axes, got \(1, 1\)"),
        (Window((0,)), (3,), r"strides must be positive, got \(0,\)"),
        (Window(pads=(1,)), (3,), r"pads must have 2 numbers for 1 spatial axes, got \(1,\)"),
        (Window(pads=(-1, 0)), (3,), r"pads must be at least 0, got \(-1, 0\)"),
        (Window(dilations=(0,)), (3,), r"dilations must be positive, got \(0,\)"),
        (Window(), (0,), "kernel sizes must be positive numbers, got 0"),
    ],
)
def test_impossible_numbers(attrs: Window, kernel: tuple[int, ...], message: str):
    with pytest.raises(GraphError, match=message):
        geometry(attrs, kernel)


def test_same_padding_of_a_symbolic_size_with_a_stride():
    with pytest.raises(GraphError, match="needs a known size, got H"):
        canonical(Window((2,), "same"), (symbol("H"),), (3,))


# the last axes of these are weights, or are fixed by another operand or an attribute
FIXED = (
    *("winograd_weights", "layer_norm", "locally_connected_dx", "expand", "concat", "gather_elements_dx"),
    *("split_phases", "join_phases", "fft_conv", "fft_weights"),  # made where sizes are known
    *("fold", "max_unpool"),
)
SPATIAL = [
    c for c in all_cases()
    if c.op.name not in FIXED and c.types[0] is not None and c.types[0].rank >= 3 and str(c) != "slice-2"
]  # fmt: skip


@pytest.mark.parametrize("case", SPATIAL, ids=str)
def test_types_with_symbolic_height_and_width(case: Case):
    first, *rest = case.types
    sizes = {"H": first.shape[-2], "W": first.shape[-1]} if first.rank > 3 else {"W": first.shape[-1]}
    free = first.with_(shape=(*first.shape[: -len(sizes)], *map(symbol, sizes)))
    attrs = canonical_attrs(case.op, case.sample.attrs, [free, *rest])
    inferred = case.op.infer_types(attrs, [free, *rest])
    expected = case.op.infer_types(case.attrs, case.types)
    assert [substitute_shape(t.shape, sizes) for t in inferred] == [t.shape for t in expected]
