"""Blocks of channels on one side of a transpose, channels last on the other."""

from __future__ import annotations

import numpy as np
import pytest

import cnncc
from cnncc.interpret import interpret
from cnncc.ir.graph import Graph
from cnncc.ir.layout import PLAIN, channels
from cnncc.passes import INFERENCE, Context, run_passes
from cnncc.passes.channels_last import layouts_beside_transposes
from cnncc.targets.machine import AVX512
from cnncc.targets.target import Target
from tests.targets.cpu_records import AVX2, SSE, WIDEST, needs_x86, runs
from tests.tolerances import assert_close

BLOCKS = channels(16)


def block_of_convnext(width: int, batch: str = "1") -> Graph:
    """Depthwise, layer norm and product over channels last, residual, depthwise again."""
    image, rows = f"f32[{batch}, {width}, 6, 5]", f"f32[{batch}, 6, 5, {width}]"
    return cnncc.parse(f"""graph g(%x: {image}) {{
      const %w: f32[{width}, 1, 3, 3] = random(1)
      const %s: f32[{width}] = random(2)
      const %t: f32[{width}] = random(3)
      const %v: f32[{width}, {width}] = random(4)
      %1: {image} = conv(%x, %w, pads=(1, 1, 1, 1), groups={width})
      %2: {rows} = transpose(%1, perm=(0, 2, 3, 1))
      %3: {rows} = layer_norm(%2, %s, %t)
      %4: {rows} = matmul(%3, %v)
      %5: {image} = transpose(%4, perm=(0, 3, 1, 2))
      %6: {image} = add(%1, %5)
      %7: {image} = conv(%6, %w, pads=(1, 1, 1, 1), groups={width})
      return %7
    }}""")


def test_no_layout_changes_remain() -> None:
    laid = run_passes(block_of_convnext(32), INFERENCE, Context(AVX512, "default"))
    changed = [v.name for n in laid.nodes if n.body is not None for v in n.outputs if n.body.nodes[0].op == "to_layout"]
    assert len(changed) == 2  # the graph's input and output are plain


@needs_x86
@pytest.mark.parametrize("target", [WIDEST, AVX2, SSE], ids=lambda t: t.name)
@pytest.mark.parametrize("width", [32, 24])
def test_results(target: Target, width: int) -> None:
    graph = block_of_convnext(width)
    x = np.random.default_rng(0).standard_normal((1, width, 6, 5)).astype(np.float32)
    found = cnncc.compile(graph, runs(target)).run({"x": x})
    for name, expected in interpret(graph, {"x": x}).items():
        assert_close(found[name], expected, "network-strict")


@needs_x86
@pytest.mark.parametrize("batch", [1, 3])
def test_a_symbolic_batch(batch: int) -> None:
    graph = block_of_convnext(32, "N")
    x = np.random.default_rng(0).standard_normal((batch, 32, 6, 5)).astype(np.float32)
    found = cnncc.compile(graph, WIDEST).run({"x": x})
    for name, expected in interpret(graph, {"x": x}).items():
        assert_close(found[name], expected, "network-strict")


def test_operands_on_both_sides() -> None:
    body = cnncc.parse("""graph g(%a: f32[2, 7, 5, 32], %b: f32[2, 32, 7, 5], %c: f32[1, 32, 1, 1]) {
      %1: f32[2, 32, 7, 5] = transpose(%a, perm=(0, 3, 1, 2))
      %2: f32[2, 32, 7, 5] = mul(%1, %c)
      %3: f32[2, 32, 7, 5] = add(%b, %2)
      %4: f32[2, 7, 5, 32] = transpose(%3, perm=(0, 2, 3, 1))
      return %3, %4
    }""")
    assert layouts_beside_transposes(body, 16) == ((PLAIN, BLOCKS, PLAIN), (BLOCKS, PLAIN))


@pytest.mark.parametrize(
    "text",
    [
        "graph g(%a: f32[2, 32, 7, 5]) { %1: f32[2, 32, 7, 5] = relu(%a) return %1 }",
        "graph g(%a: f32[2, 32, 7, 5]) { %1: f32[2, 32, 5, 7] = transpose(%a, perm=(0, 1, 3, 2)) return %1 }",
        "graph g(%a: f32[2, 24, 7, 5]) { %1: f32[2, 7, 5, 24] = transpose(%a, perm=(0, 2, 3, 1)) return %1 }",
        "graph g(%a: f32[2, 32, 7]) { %1: f32[2, 7, 32] = transpose(%a, perm=(0, 2, 1)) return %1 }",
        "graph g(%a: f64[2, 32, 7, 5]) { %1: f64[2, 7, 5, 32] = transpose(%a, perm=(0, 2, 3, 1)) return %1 }",
        """graph g(%a: f32[2, 32, 32, 32]) {
          %1: f32[2, 32, 32, 32] = transpose(%a, perm=(0, 2, 3, 1))
          %2: f32[2, 32, 32, 32] = add(%a, %1)
          return %2
        }""",
    ],
    ids=["no transpose", "another order", "no whole blocks", "two axes", "f64", "both at once"],
)
def test_kernels_of_another_kind(text: str) -> None:
    assert layouts_beside_transposes(cnncc.parse(text), 16) is None
