"""Worked examples from lectures on convolution, on the public API. docs/lectures.md has the formula of each.

Every graph runs compiled and in the interpreter; examples with integers must come out exactly.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import cnncc
from cnncc import nn
from cnncc.check import check
from cnncc.cli import group
from cnncc.errors import GraphError
from cnncc.filters import KERNELS, receptive_field, toeplitz, true_convolution
from cnncc.interpret import interpret
from cnncc.ir.graph import Graph
from cnncc.parameters import count_parameters
from tests.tolerances import assert_close


def run(build: Any, *arrays: np.ndarray, compiled: bool = False) -> np.ndarray:
    """build(b, *values) on arrays; compiled, the result must equal the interpreter's."""
    b = cnncc.Builder()
    b.output(build(b, *(b.input(f"x{k}", a.shape) for k, a in enumerate(arrays))), "y")
    graph = b.finish()
    result = interpret(graph, {f"x{k}": a for k, a in enumerate(arrays)})["y"]
    if compiled:
        assert_close(cnncc.compile(graph, threads=1)(*arrays), result, "conv")
    return result


def image(*numbers: Any) -> np.ndarray:
    """Numbers as one image (or one kernel) of one channel: [1, 1, *size]."""
    return np.array(numbers, np.float32)[None, None]


def random(*shape: int, seed: int = 0) -> np.ndarray:
    """Small integers: sums of products are exact in float32, in any order."""
    return np.random.default_rng(seed).integers(-4, 5, shape).astype(np.float32)


# -- what a convolution is ---------------------------------------------------------------------------------------------

A, B = (2, -1, 1), (1, 1, 2)
M, K = ((1, 3, 1), (0, -1, 1), (2, 2, -1)), ((1, 2), (0, -1))


def full(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    return run(lambda b, x, w: true_convolution(b, x, w, pads="full"), x, w, compiled=True)[0, 0]


def translate_and_scale(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """The sum of copies of w, one for each sample of x: moved there and multiplied by it."""
    size = [a + b - 1 for a, b in zip(x.shape[2:], w.shape[2:], strict=True)]

    def build(b: cnncc.Builder, x: Any, w: Any) -> Any:
        total = None
        for at in np.ndindex(*x.type.shape[2:]):
            after = [s - a - k for s, a, k in zip(size, at, w.type.shape[2:], strict=True)]
            sample = b.slice(x, starts=at, ends=[a + 1 for a in at], axes=range(2, 2 + len(at)), steps=[1] * len(at))
            copy = b.mul(b.pad(w, pads=(0, 0, *at, 0, 0, *after)), sample)
            total = copy if total is None else b.add(total, copy)
        return total

    return run(build, x, w)[0, 0]


def by_matrix(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    out = [a + b - 1 for a, b in zip(x.shape[2:], w.shape[2:], strict=True)]
    return (toeplitz(w, x.shape[2:], flip=True, pads="full") @ x.reshape(-1)).reshape(out)


WAYS = {"flip and filter": full, "translate and scale": translate_and_scale, "Toeplitz matrix": by_matrix}


@pytest.mark.parametrize("way", WAYS.values(), ids=list(WAYS))
def test_full_convolution_in_one_dimension(way):
    assert way(image(*A), image(*B)).tolist() == [2, 1, 4, -1, 2]
    assert way(image(*B), image(*A)).tolist() == [2, 1, 4, -1, 2], "it is commutative"
    assert np.convolve(A, B).tolist() == [2, 1, 4, -1, 2]


@pytest.mark.parametrize("way", WAYS.values(), ids=list(WAYS))
def test_full_convolution_in_two_dimensions(way):
    expected = [[1, 5, 7, 2], [0, -2, -4, 1], [2, 6, 4, -3], [0, -2, -2, 1]]
    assert way(image(*M), image(*K)).tolist() == expected
    assert way(image(*K), image(*M)).tolist() == expected


def test_the_op_is_cross_correlation():
    x, w = image(*A), image(*B)
    y = run(lambda b, x, w: b.conv(x, w, pads="full"), x, w)[0, 0]
    assert y.tolist() == np.correlate(A, B, "full").tolist()
    assert y.tolist() != full(x, w).tolist()
    assert np.array_equal(y, full(x, w[..., ::-1]))


def test_the_matrix_in_one_dimension_is_toeplitz():
    """T[i, j] depends on i - j alone, and its first column is the kernel followed by zeros."""
    t = toeplitz(image(*B), (3,), flip=True, pads="full")
    assert t.tolist() == [[1, 0, 0], [1, 1, 0], [2, 1, 1], [0, 2, 1], [0, 0, 2]]
    assert all(len(set(np.diagonal(t, k))) == 1 for k in range(-4, 3))


def test_the_matrix_in_two_dimensions_has_toeplitz_blocks():
    t = toeplitz(image(*K), (3, 3), flip=True, pads="full").reshape(4, 4, 3, 3)
    blocks = t.transpose(0, 2, 1, 3)  # block (i, j): rows i of the result, j of the image
    for i, j in np.ndindex(3, 2):
        assert np.array_equal(blocks[i, j], blocks[i + 1, j + 1])
    assert all(len(set(np.diagonal(b, k))) == 1 for row in blocks for b in row for k in range(-3, 3))


def test_the_matrix_holds_for_any_window():
    x, w = random(1, 4, 7, 6), random(6, 2, 3, 2, seed=1)
    window = {"strides": (2, 1), "pads": (1, 0, 2, 1), "dilations": (1, 2), "groups": 2}
    y = run(lambda b, x, w: b.conv(x, w, **window), x, w)
    assert np.array_equal(toeplitz(w, (7, 6), **window) @ x.reshape(-1), y.reshape(-1))
    with pytest.raises(GraphError, match=r"w must be \[M, C, \*kernel\] with 1 spatial axes"):
        toeplitz(w, (7,))


def test_true_convolution_compiles_into_the_same_kernel():
    """The flip of a constant kernel is done at compile time."""
    b = cnncc.Builder()
    b.output(true_convolution(b, b.input("x", (1, 16, 8, 8)), random(16, 16, 3, 3), pads="same"))
    report = cnncc.compile(b.finish(), threads=1, accuracy="strict").report()
    assert not any("flip" in row.ops for row in report.rows)


# -- sizes and strides -------------------------------------------------------------------------------------------------


def layer(size: int, kernel: int, stride: int = 1, pad: int = 0, channels: int = 1, filters: int = 1) -> Graph:
    net = nn.Sequential(nn.Conv2d(channels, filters, kernel, stride, pad))
    return nn.trace(net, {"x": (1, channels, size, size)})


@pytest.mark.parametrize(("stride", "out"), [(1, 5), (2, 3)])
def test_seven_by_seven(stride, out):
    graph = layer(7, 3, stride)
    assert graph.outputs[0].type.shape == (1, 1, out, out)
    assert not check(graph).findings


def test_seven_by_seven_with_stride_three_drops_pixels():
    graph = layer(7, 3, 3)
    assert graph.outputs[0].type.shape == (1, 1, 2, 2)
    finding, _ = check(graph).findings
    assert (finding.rule, finding.node) == ("window-does-not-tile", "0")
    assert finding.numbers["dropped"] == 1
    x = random(1, 1, 7, 7)
    changed = x.copy()
    changed[..., 6, :] += 1
    changed[..., :, 6] += 1
    w = random(1, 1, 3, 3, seed=1)
    a, b = (run(lambda b, x, w: b.conv(x, w, strides=3), each, w) for each in (x, changed))
    assert np.array_equal(a, b), "the last row and column are never read"


def test_four_and_a_half_places():
    """I = 10, F = 3, S = 2, P = 0: (10 - 3) / 2 + 1 = 4.5, and check says so."""
    findings = check(layer(10, 3, 2)).findings
    assert [f.numbers["places"] for f in findings] == [4.5, 4.5]
    assert "(10 - 3 + 0 + 0) / 2 + 1 = 4.5; the last 1 of 10 is never read" in findings[0].message


@pytest.mark.parametrize("stride", [2, 3, 4])
def test_a_strided_convolution_is_the_subsampled_one(stride):
    x, w = random(2, 3, 11, 13), random(4, 3, 3, 3, seed=1)
    strided = run(lambda b, x, w: b.conv(x, w, strides=stride, pads=1), x, w, compiled=True)
    dense = run(lambda b, x, w: b.conv(x, w, pads=1), x, w)
    assert np.array_equal(strided, dense[..., ::stride, ::stride])


# -- parameters --------------------------------------------------------------------------------------------------------


def test_ten_filters_on_a_colour_image():
    graph = layer(32, 5, pad=2, channels=3, filters=10)
    assert graph.outputs[0].type.shape == (1, 10, 32, 32)
    (row,) = count_parameters(graph)
    assert row.shared == 760 == sum(p.numel() for p in nn.Conv2d(3, 10, 5).parameters())


def test_the_first_layer_of_alexnet():
    graph = layer(227, 11, 4, channels=3, filters=96)
    assert graph.outputs[0].type.shape == (1, 96, 55, 55)
    assert not check(graph).findings
    (row,) = count_parameters(graph)
    assert (row.shared, row.local) == (34_944, 105_705_600)
    assert row.dense == (227 * 227 * 3 + 1) * 55 * 55 * 96


def test_a_dense_layer_on_a_colour_image():
    b = cnncc.Builder()
    x, w = b.input("x", (1, 3, 200, 200)), b.input("w", (200 * 200 * 3, 1000))
    b.output(b.matmul(b.reshape(x, shape=(1, -1)), w))
    (row,) = count_parameters(b.finish())
    assert row.shared == 120_000_000


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: nn.LocallyConnected1d(2, 3, 9, 3, stride=2), (2, 9)),
        (lambda: nn.LocallyConnected2d(2, 3, (6, 7), 3, padding=1), (2, 6, 7)),
    ],
)
def test_locally_connected_layers(make, shape):
    """With the same filter at every place they are convolutions; their parameters are those that `local` says."""
    nn.manual_seed(0)
    net = nn.Sequential(make())
    graph = nn.trace(net, {"x": (1, *shape)})
    (row,) = count_parameters(graph)
    assert row.shared == row.local == sum(p.numel() for p in net.parameters())
    local = net[0]
    w = random(3, 2, *local.kernel_size)
    places = local.weight.data.shape[: w.ndim - 2]
    net.load_state_dict({"0.weight": np.broadcast_to(w, (*places, *w.shape)), "0.bias": local.bias.data * 0})
    x = random(1, *shape, seed=2)
    y = cnncc.compile(net, shapes={"x": (1, *shape)}, threads=1)(x)
    shared = run(lambda b, x, w: b.conv(x, w, strides=local.stride, pads=local.padding), x, w)
    assert np.array_equal(y, shared)
    conv = nn.trace(nn.Sequential(getattr(nn, f"Conv{w.ndim - 2}d")(2, 3, 3, local.stride, local.padding)), (1, *shape))
    assert count_parameters(conv)[0].local == row.local


def test_inspect_compares_dense_local_and_shared(tmp_path: Path):
    file = tmp_path / "net.onnx"
    cnncc.to_onnx(layer(32, 5, pad=2, channels=3, filters=10), file)
    result = CliRunner().invoke(group, ["inspect", str(file)])
    assert result.exit_code == 0, result.output
    table = result.output
    assert all(n in table for n in ("locally connected", "dense", "760", f"{76 * 10 * 32 * 32:,}"))
    (row,) = json.loads(CliRunner().invoke(group, ["inspect", str(file), "--json"]).output)["layers"]
    assert (row["shared"], row["local"], row["dense"]) == (760, 778_240, (3 * 32 * 32 + 1) * 10 * 32 * 32)


# -- receptive fields --------------------------------------------------------------------------------------------------


def dilated(count: int) -> nn.Module:
    return nn.Sequential(*(nn.Conv1d(1, 1, 3, dilation=2**k) for k in range(count)))


@pytest.mark.parametrize(("layers", "field"), [(1, 3), (2, 7), (3, 15), (4, 31)])
def test_dilations_double_the_receptive_field(layers, field):
    graph = nn.trace(dilated(layers), {"x": (1, 1, 64)})
    assert receptive_field(graph).size == (field,)
    assert receptive_field(graph).stride == (1,)


NETS = {
    "dilated": (lambda: dilated(4), (40,)),
    "strides and pads": (
        lambda: nn.Sequential(nn.Conv2d(1, 2, 3, 2, 1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(2, 1, (3, 2))), (22, 19)
    ),
    "pad and average": (lambda: nn.Sequential(nn.ZeroPad2d((2, 1, 0, 3)), nn.AvgPool2d(3, 2), nn.Tanh()), (9, 8)),
}  # fmt: skip


@pytest.mark.parametrize("name", NETS)
def test_receptive_fields_are_what_outputs_depend_on(name):
    """By brute force: the pixels whose change changes an element of the output."""
    make, size = NETS[name]
    nn.manual_seed(1)
    graph = nn.trace(make().eval(), {"x": ("N", 1, *size)})
    field = receptive_field(graph)
    count = int(np.prod(size))
    base = np.random.default_rng(0).standard_normal((1, 1, *size)).astype(np.float32)
    changed = base + 100 * np.eye(count, dtype=np.float32).reshape(count, 1, *size)
    results = interpret(graph, {"x": np.concatenate([base, changed])})["output"]
    for at in np.ndindex(*results.shape[2:]):
        depends = (results[1:, 0] != results[0, 0])[(slice(None), *at)].reshape(size)
        for axis, o in enumerate(at):
            first = field.start[axis] + o * field.stride[axis]
            pixels = np.nonzero(depends.any(axis=tuple(a for a in range(len(size)) if a != axis)))[0]
            assert pixels.min() >= max(first, 0)
            assert pixels.max() <= min(first + field.size[axis], size[axis]) - 1
            if name == "dilated":  # no maximum hides a pixel, no row of padding empties a window
                assert (pixels.min(), pixels.max()) == (first, first + field.size[axis] - 1)


def test_receptive_fields_of_branches_and_dense_layers():
    b = cnncc.Builder()
    x = b.input("x", (1, 1, 16, 16))
    wide, narrow = (b.conv(x, random(1, 1, k, k), pads="same", hint=f"k{k}") for k in (7, 3))
    both = b.concat(wide, narrow, axis=1)
    b.output(narrow, "narrow")
    b.output(both, "both")
    b.output(b.mul(both, b.sigmoid(b.reduce_mean(both, axes=(2, 3), keepdims=True))), "gated")
    b.output(b.constant(1.0), "one")
    graph = b.finish()
    assert receptive_field(graph).size == (3, 3)
    assert receptive_field(graph, "both").start == (-3, -3)
    assert receptive_field(graph, "gated").size == (16, 16)
    with pytest.raises(GraphError, match="does not depend on input 'x'"):
        receptive_field(graph, "one")
    with pytest.raises(GraphError, match="there is no output 'z'; there are narrow, both, gated, one"):
        receptive_field(graph, "z")


# -- transposed convolution --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "kernel", "stride", "pad"), [(7, 3, 1, 0), (7, 3, 2, 1), (10, 3, 2, 0), (8, 4, 3, 1)])
def test_a_transposed_convolution_recovers_the_shape(size, kernel, stride, pad):
    x, w = random(1, 2, size, size), random(3, 2, kernel, kernel, seed=1)
    rest = (size + 2 * pad - kernel) % stride  # pixels that no window read
    y = run(lambda b, x, w: b.conv(x, w, strides=stride, pads=pad), x, w)
    back = run(
        lambda b, y, w: b.conv_transpose(y, w, strides=stride, pads=pad, output_padding=rest), y, w, compiled=True
    )
    assert back.shape == x.shape
    t = toeplitz(w, (size, size), strides=stride, pads=pad)
    assert np.array_equal(t.T @ y.reshape(-1), back.reshape(-1)), "it multiplies by the transposed matrix"


def test_valid_and_full_exchange_under_transposition():
    y, w = random(1, 1, 6, 6), random(1, 1, 3, 3, seed=1)
    for pads, other in ((0, "full"), (2, "valid")):
        transposed = run(lambda b, y, w, pads=pads: b.conv_transpose(y, w, pads=pads), y, w)
        flipped = run(lambda b, y, w, other=other: true_convolution(b, y, w, pads=other), y, w)
        assert np.array_equal(transposed, flipped)


# -- shifts and rotations ----------------------------------------------------------------------------------------------


def filtered(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    return run(lambda b, x, w: b.conv(x, w, pads="same"), x, w)


def blob(row: int, column: int) -> np.ndarray:
    x = np.zeros((1, 1, 12, 12), np.float32)
    x[..., row : row + 3, column : column + 2] = random(3, 2, seed=3)
    return x


@pytest.mark.parametrize("shift", [(1, 0), (0, 3), (-2, 2)])
def test_shifting_the_input_shifts_the_output(shift):
    w = random(1, 1, 3, 3, seed=1)
    moved = filtered(blob(4 + shift[0], 5 + shift[1]), w)
    assert np.array_equal(moved, np.roll(filtered(blob(4, 5), w), shift, axis=(2, 3)))


def test_pooling_is_invariant_to_small_shifts():
    """A feature that moves within its window leaves the maximum where it is; the convolution alone would move."""

    def pooled(x: np.ndarray) -> np.ndarray:
        return run(lambda b, x: b.max_pool(x, kernel=4, strides=4), x, compiled=True)

    def point(row: int, column: int) -> np.ndarray:
        x = np.zeros((1, 1, 12, 12), np.float32)
        x[..., row, column] = 1
        return x

    for row, column in np.ndindex(4, 4):
        assert np.array_equal(pooled(point(4 + row, 4 + column)), pooled(point(4, 4)))
    assert not np.array_equal(pooled(point(8, 4)), pooled(point(4, 4)))
    assert np.array_equal(pooled(blob(8, 4)), np.roll(pooled(blob(4, 4)), 1, axis=2)), "by its stride it is equivariant"
    whole = run(lambda b, x: b.max_pool(x, kernel=12), blob(1, 2))
    assert all(
        np.array_equal(run(lambda b, x: b.max_pool(x, kernel=12), blob(r, c)), whole) for r, c in ((5, 5), (9, 0))
    )


def test_rotation_does_not_commute():
    x = random(1, 1, 9, 9)
    turned = np.rot90(x, axes=(2, 3))
    for name, kernel in KERNELS.items():
        w = kernel[None, None]
        same = np.allclose(filtered(turned, w), np.rot90(filtered(x, w), axes=(2, 3)), rtol=0, atol=1e-6)
        assert same == np.array_equal(kernel, np.rot90(kernel)), f"{name}: only a kernel that looks the same turned"
        again = filtered(turned, np.rot90(w, axes=(2, 3)))
        assert_close(again, np.rot90(filtered(x, w), axes=(2, 3)), "conv", label=name)
    assert not np.array_equal(KERNELS["sobel_x"], np.rot90(KERNELS["sobel_x"]))


# -- filters -----------------------------------------------------------------------------------------------------------


def test_filter_kernels():
    flat = np.full((1, 1, 8, 8), 3, np.float32)
    ramp = np.tile(np.arange(8, dtype=np.float32), (8, 1))[None, None]
    inner = (0, 0, slice(1, -1), slice(1, -1))
    response = {name: (filtered(flat, w[None, None])[inner], filtered(ramp, w[None, None])[inner])
                for name, w in KERNELS.items()}  # fmt: skip
    for name in ("identity", "blur", "sharpen"):
        assert_close(response[name][0], flat[inner], "conv")  # constants pass
        assert_close(response[name][1], ramp[inner], "conv")  # and so do slopes
    for name in ("laplace", "sobel_x", "sobel_y"):
        assert not response[name][0].any(), "no edges in a constant"
    assert not response["laplace"][1].any(), "a slope has no second difference"
    assert np.all(response["sobel_x"][1] == 8)
    assert not response["sobel_y"][1].any()
    assert np.array_equal(KERNELS["sharpen"], KERNELS["identity"] - KERNELS["laplace"])
    assert np.array_equal(KERNELS["sobel_y"], KERNELS["sobel_x"].T)
