"""propose-kernels: which operations one kernel runs. Golden cases show examples; here is what holds for every graph."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

import cnncc
from cnncc.interpret import interpret
from cnncc.ir.graph import Graph, Node, Value
from cnncc.ir.kernel import anchor, feeding
from cnncc.ops.registry import lookup
from cnncc.passes import PASSES, Context, run_passes
from cnncc.passes.regions import LIMIT, TAKES_PROLOGUE, VIEWS
from tests.graphs import random_feeds, random_graph

KERNELS = [PASSES["separate-outputs"], PASSES["propose-kernels"]]


def propose(text: str) -> tuple[list[str], Context]:
    """Kernels of a graph whose inputs are %x, %z: f32[1, 16, 4, 4], each as its ops."""
    graph = cnncc.parse(
        "graph g(%x: f32[1, 16, 4, 4], %z: f32[1, 16, 4, 4]) {\n  const %w: f32[16, 16, 3, 3] = random(1)\n"
        + text
        + "\n}"
    )
    context = Context()
    proposed = run_passes(graph, [PASSES["propose-kernels"]], context)
    feeds = random_feeds(graph, {})
    for name, array in interpret(graph, feeds).items():
        assert np.array_equal(interpret(proposed, feeds)[name], array)
    return ["+".join(n.op for n in m.body.nodes) if m.body else m.op for m in proposed.nodes], context


def line(name: str, call: str, shape: str = "1, 16, 4, 4") -> str:
    return f"  %{name}: f32[{shape}] = {call}\n"


@pytest.mark.parametrize("seed", range(40))
def test_every_operation_is_in_one_kernel(seed):
    graph = run_passes(random_graph(seed, "N" if seed % 2 else 2, size=20), [PASSES["separate-outputs"]], Context())
    proposed = run_passes(graph, [PASSES["propose-kernels"]], Context())
    inside: Counter[str] = Counter()
    for node in proposed.nodes:
        if node.body is None:
            assert node.op in VIEWS
            inside[node.op] += 1
            continue
        inside.update(n.op for n in node.body.nodes)
        check_kernel(node.body)
    assert inside == Counter(n.op for n in graph.nodes)
    feeds = random_feeds(graph, {"N": 2})
    results = interpret(proposed, feeds)
    for name, array in interpret(graph, feeds).items():
        assert np.array_equal(results[name], array)  # the same operations on the same arrays


def feeding_all(node: Node) -> set[Value]:
    return {v for operand in node.operands() for v in feeding(operand)}


def check_kernel(body: Graph) -> None:
    heavy = [n for n in body.nodes if not lookup(n.op).fusible]
    assert len(heavy) <= 1
    root = anchor(body)
    if root is None:
        assert len(body.nodes) <= LIMIT
        return
    position = body.nodes.index(root)
    before = body.nodes[:position]  # a prologue, or what is read behind the anchor only
    assert root.op.startswith(TAKES_PROLOGUE) or not feeding_all(root) & {v for n in before for v in n.outputs}
    behind = body.nodes[position + 1 :]
    assert all(lookup(n.op).elementwise for n in behind)
    assert all(v.type.shape == root.outputs[0].type.shape for n in behind for v in n.outputs)


def test_an_epilogue_ends_where_paths_meet():
    kernels, _ = propose(
        line("c", "conv(%x, %w, pads=1)") + line("s", "sigmoid(%c)") + line("m", "mul(%c, %s)")
        + line("a", "add(%m, %z)") + line("r", "relu(%a)") + "  return %r"
    )  # fmt: skip
    assert kernels == ["conv+sigmoid+mul+add+relu"]


def test_what_is_read_behind_an_anchor_alone_is_computed_there():
    """Momentum beside a weight gradient, the mask of a ReLU beside a data gradient."""
    kernels, _ = propose(
        line("h", "mul(%z, %z)") + line("c", "conv(%x, %w, pads=1)") + line("a", "add(%c, %h)") + "  return %a"
    )  # fmt: skip
    assert kernels == ["mul+conv+add"]
    kernels, _ = propose(
        line("h", "mul(%z, %z)") + line("c", "conv(%h, %w, pads=1)") + line("a", "add(%c, %h)") + "  return %a"
    )  # fmt: skip
    assert kernels == ["mul", "conv+add"]


def test_the_latest_anchor_takes_a_shared_epilogue():
    kernels, _ = propose(
        line("c", "conv(%x, %w, pads=1)") + line("d", "conv(%z, %w, pads=1)") + line("a", "add(%c, %d)")
        + line("r", "relu(%a)") + "  return %r"
    )  # fmt: skip
    assert kernels == ["conv", "conv+add+relu"]


def test_values_with_two_destinations_stay():
    kernels, context = propose(
        line("c", "conv(%x, %w, pads=1)") + line("r", "relu(%c)") + line("d", "conv(%r, %w, pads=1)")
        + line("e", "conv(%c, %w, pads=1)") + line("a", "add(%d, %e)") + "  return %a"
    )  # fmt: skip
    assert kernels == ["conv", "relu", "conv", "conv+add"]
    assert any("is no elementwise operation" in d.reason for d in context.declined)


def test_an_output_ends_an_epilogue():
    kernels, _ = propose(line("c", "conv(%x, %w, pads=1)") + line("r", "relu(%c)") + "  return %c, %r")
    assert kernels == ["conv", "relu"]
    kernels, _ = propose(
        line("c", "conv(%x, %w, pads=1)") + line("s", "sigmoid(%c)") + line("m", "mul(%c, %s)") + "  return %s, %m"
    )
    assert kernels == ["conv", "sigmoid", "mul"]


def test_chains_without_an_anchor_fuse_up_to_the_limit():
    lines = [line(f"v{k}", f"tanh(%{'x' if k == 0 else f'v{k - 1}'})") for k in range(LIMIT + 3)]
    kernels, context = propose("".join(lines) + f"  return %v{LIMIT + 2}")
    assert sorted(k.count("tanh") for k in kernels) == [3, LIMIT]
    assert any(f"more than {LIMIT} operations" in d.reason for d in context.declined)


def test_what_is_read_often_is_computed_once():
    """A value read three times by one kernel is a kernel of its own: fused, it would be computed three times."""
    kernels, _ = propose(
        line("t", "tanh(%x)") + line("a", "add(%t, %z)") + line("b", "mul(%a, %t)") + line("c", "sub(%b, %t)")
        + "  return %c"
    )  # fmt: skip
    assert kernels == ["tanh", "add+mul+sub"]


def test_interpolation_reads_what_is_computed_once():
    for mode, kernels in (("linear", ["sigmoid", "resize+neg"]), ("nearest", ["sigmoid+resize+neg"])):
        text = line("1", "sigmoid(%x)") + line("2", f'resize(%1, size=(4, 8), mode="{mode}")', "1, 16, 4, 8")
        found, context = propose(text + line("3", "neg(%2)", "1, 16, 4, 8") + "  return %3")
        assert found == kernels
        assert any("every neighbour" in d.reason for d in context.declined) == (mode == "linear")


def test_reductions_take_a_prologue():
    kernels, _ = propose(
        line("m", "mul(%x, %z)") + line("r", "reduce_sum(%m, axes=(2, 3))", "1, 16, 1, 1") + "  return %r"
    )
    assert kernels == ["mul+reduce_sum"]
    chain = line("s", "sigmoid(%x)") + line("m", "mul(%x, %s)") + line("t", "tanh(%m)")
    kernels, _ = propose(chain + line("r", "reduce_sum(%t, axes=(2, 3))", "1, 16, 1, 1") + "  return %r")
    assert kernels == ["sigmoid+mul+tanh+reduce_sum"]
    kernels, context = propose(chain + line("r", "softmax(%t, axis=3)") + "  return %r")
    assert kernels == ["sigmoid+mul", "tanh+softmax"], "softmax reads its operand three times"
    assert any("several times" in d.reason for d in context.declined)
    for stride, expected in ((2, ["sigmoid+mul+tanh+average_pool"]), (1, ["sigmoid+mul", "tanh+average_pool"])):
        pool, size = f"average_pool(%t, kernel=(2, 2), strides=({stride}, {stride}))", 4 // stride - (stride == 1)
        kernels, _ = propose(chain + line("r", pool, f"1, 16, {size}, {size}") + "  return %r")
        assert kernels == expected, "windows that overlap read an element several times"
    kernels, context = propose(line("m", "mul(%x, %z)") + line("c", "conv(%m, %w, pads=1)") + "  return %c")
    assert kernels == ["mul", "conv"]
    assert any(d.reason == "conv takes no prologue" for d in context.declined)


def test_views_and_concats_stand_alone():
    kernels, _ = propose(
        line("a", "relu(%x)") + line("r", "reshape(%a, shape=(1, 4, 4, 16))", "1, 4, 4, 16")
        + line("t", "tanh(%r)", "1, 4, 4, 16") + line("c", "concat(%t, %t, axis=1)", "1, 8, 4, 16")
        + line("d", "exp(%c)", "1, 8, 4, 16") + "  return %d"
    )  # fmt: skip
    assert kernels == ["relu", "reshape", "tanh", "concat", "exp"]


def test_a_kernel_may_have_several_results():
    kernels, _ = propose(line("a", "relu(%x)") + line("b", "tanh(%a)") + line("c", "add(%a, %b)") + "  return %b, %c")
    assert "+".join(kernels).split("+").count("tanh") == 1


def test_names_of_results_are_kept():
    graph = cnncc.parse(
        'graph g(%x: f32[2]) {\n  %a: f32[2] = tanh(%x)\n  %result: f32[2] = exp(%a) @ "layer"\n  return %result\n}'
    )
    (kernel,) = run_passes(graph, KERNELS, Context()).nodes
    assert kernel.output.name == "result"
    assert kernel.source == "layer"
