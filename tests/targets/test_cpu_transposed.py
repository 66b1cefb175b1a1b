"""Layout changes between rows and blocks of channels: built for several targets, exact, and inside their buffers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cnncc.ir.graph import Graph, Node
from cnncc.ir.kernel import KernelAttrs, kernel_node
from cnncc.ir.layout import channels
from cnncc.ir.types import Type
from cnncc.ops.layout import ToLayoutAttrs
from cnncc.runtime.arena import aligned
from cnncc.targets.cpu.transposed import changes_blocks
from cnncc.targets.lower import lower_kernel
from cnncc.targets.target import Target
from tests.targets.cpu_records import AVX2, AVX512, SSE, needs_x86, runs

SHAPES = [
    (1, 58, 28, 28),  # a last block of ten channels
    (2, 40, 7, 7),  # a last tile that overlaps the one before it
    (1, 16, 3, 6),
    (1, 3, 17),  # less than a block
    (2, 33, 2, 3, 5),
]


def change(shape: tuple[int | str, ...], inward: bool, target: Target) -> tuple[Node, Graph]:
    """A kernel that packs channels into blocks, or unpacks them."""
    plain = Type("f32", shape)
    types = (plain, plain.with_(layout=channels(target.block)))
    source, result = types if inward else types[::-1]
    body = Graph("body")
    attrs = ToLayoutAttrs(result.layout.tag(result.rank) if inward else "")
    body.add_output(body.add_node(Node("to_layout", [body.add_input("x", source)], attrs, [result], ["y"])).output)
    graph = Graph("graph")
    node = kernel_node(graph, body, [graph.add_input("x", source)], KernelAttrs("generic"), "")
    return node, body


@needs_x86
@pytest.mark.parametrize(
    "target", [AVX512, replace(AVX512, threads=1), AVX2, SSE], ids=lambda t: f"{t.name}{t.threads}"
)
@pytest.mark.parametrize("inward", [True, False], ids=["packs", "unpacks"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_element_is_moved(shape: tuple[int, ...], inward: bool, target: Target) -> None:
    import tvm

    from cnncc.targets.cpu.llvm import to_tvm
    from cnncc.targets.cpu.stack import pipeline

    runs(target)
    node, body = change(shape, inward, target)
    assert changes_blocks(body, target) == (np.prod(shape[2:]) >= target.lanes())
    func = lower_kernel(node, target).func.with_attr("global_symbol", "main")
    built = tvm.compile(tvm.IRModule({"main": func}), target=to_tvm(target), tir_pipeline=pipeline())
    rows = np.random.default_rng(3).standard_normal(shape).astype(np.float32)
    packed = channels(target.block).pack(rows)
    source, expected = (rows, packed) if inward else (packed, rows)
    result = aligned(np.full(expected.shape, np.nan, np.float32))
    built["main"](tvm.runtime.from_dlpack(aligned(source)), tvm.runtime.from_dlpack(result))
    np.testing.assert_array_equal(result, expected)  # zeros in the padding


@pytest.mark.parametrize("shape", [(1, 32, 3, 5), (1, 32, "H", 16)], ids=str)
def test_other_changes_are_scheduled_from_their_definition(shape: tuple[int | str, ...]) -> None:
    """Rows shorter than a vector, and symbolic sizes."""
    from cnncc.ir.dims import symbol

    known = tuple(symbol(d) if isinstance(d, str) else d for d in shape)
    assert not changes_blocks(change(known, True, AVX512)[1], AVX512)
