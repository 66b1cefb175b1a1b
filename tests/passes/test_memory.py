"""The memory plan, by brute force: graphs run inside the planned bytes, and every value must survive to its readers."""

from __future__ import annotations

import numpy as np
import pytest

import cnncc
from cnncc.errors import GraphError
from cnncc.interpret import evaluate, interpret
from cnncc.ir.dims import substitute_shape, symbol
from cnncc.ir.graph import Graph, Node, Value
from cnncc.ir.types import Type
from cnncc.passes import INFERENCE, PASSES, Context, run_passes
from cnncc.passes.memory import ALIGN, Plan, Size, plan_memory
from cnncc.passes.regions import Region, make_kernel
from cnncc.passes.views import find_views
from cnncc.targets.machine import AVX512
from tests.graphs import random_feeds, random_graph
from tests.tolerances import assert_close

POISON = 0x7E  # as float32 8e37, which no tolerance hides


def bytes_of(size: Size, sizes: dict[str, int]) -> int:
    return size.constant + sum(c * sizes[s] for s, c in size.terms)


class Memory:
    """Bytes as a plan lays them out: one arena, and one piece for each input, constant and output of the graph."""

    def __init__(self, graph: Graph, plan: Plan, sizes: dict[str, int]):
        self.graph, self.plan, self.sizes = graph, plan, sizes
        self.arena = np.full(bytes_of(plan.arena, sizes), POISON, np.uint8)
        self.own: dict[Value, np.ndarray] = {}

    def shape(self, value: Value, physical: bool = True) -> tuple[int, ...]:
        dims = value.type.physical if physical else value.type.shape
        return tuple(int(d) for d in substitute_shape(dims, self.sizes))

    def nbytes(self, value: Value) -> int:
        return int(np.prod(self.shape(value), dtype=np.int64)) * value.type.numpy.itemsize

    def pieces(self, value: Value) -> list[np.ndarray]:
        """The bytes of a value, of each image where images lie apart."""
        if value not in self.plan.pitches:
            return [self.place(value, 0, self.nbytes(value))]
        count = self.shape(value)[0]
        step = self.plan.pitches[value] * value.type.numpy.itemsize
        return [self.place(value, k * step, self.nbytes(value) // count) for k in range(count)]

    def place(self, value: Value, start: int, size: int) -> np.ndarray:
        """So many bytes of a value from a place in it on."""
        root = value
        while root in self.plan.views:
            start += self.plan.views[root].offset
            root = self.plan.views[root].root
        if root in self.plan.offsets:
            at = bytes_of(self.plan.offsets[root], self.sizes) + start
            assert at % ALIGN == 0
            assert at + size <= len(self.arena), f"%{value.name} lies beyond the arena"
            return self.arena[at : at + size]
        if root not in self.own:
            self.own[root] = np.full(self.nbytes(root), POISON, np.uint8)
        assert start + size <= len(self.own[root]), f"%{value.name} lies beyond %{root.name}"
        return self.own[root][start : start + size]

    def write(self, value: Value, array: np.ndarray) -> None:
        stored = np.ascontiguousarray(value.type.layout.pack(array)).reshape(-1).view(np.uint8)
        pieces = self.pieces(value)
        for piece, part in zip(pieces, np.split(stored, len(pieces)), strict=True):
            piece[:] = part

    def read(self, value: Value) -> np.ndarray:
        stored = np.concatenate(self.pieces(value)).view(value.type.numpy).reshape(self.shape(value))
        return value.type.layout.unpack(stored, self.shape(value, physical=False))


def run(graph: Graph, plan: Plan, feeds: dict[str, np.ndarray], sizes: dict[str, int], extra: dict) -> dict:
    """Run the graph within the planned memory. A kernel's results and workspaces are poisoned before it reads."""
    memory = Memory(graph, plan, sizes)
    for value in graph.inputs:
        memory.write(value, feeds[value.name])
    for value in graph.constants:
        assert value.data is not None
        memory.write(value, value.data)
    for node in graph.nodes:
        if node in plan.skipped:
            continue
        for value in node.outputs:
            for piece in memory.pieces(value):
                piece[:] = POISON
        for k, type_ in enumerate(extra.get(node, ())):
            at = bytes_of(plan.workspaces[node][k], sizes)
            size = int(np.prod(substitute_shape(type_.shape, sizes), dtype=np.int64)) * type_.numpy.itemsize
            assert at % ALIGN == 0
            assert at + size <= len(memory.arena)
            memory.arena[at : at + size] = POISON
        assert node.body is not None
        arrays = [memory.read(v) for v in node.operands()]
        values = evaluate(node.body, dict(zip(node.body.inputs, arrays, strict=True)))
        for value, inner in zip(node.outputs, node.body.outputs, strict=True):
            memory.write(value, values[inner])
    return {name: memory.read(v) for v, name in zip(graph.outputs, graph.output_names, strict=True)}


def check(graph: Graph, laid: Graph, sizes: dict[str, int], extra: dict | None = None, pitched: bool = False) -> Plan:
    """Results inside the plan equal the interpreter's."""
    plan = plan_memory(laid, extra or {}, find_views(laid, pitched))
    feeds = random_feeds(graph, sizes)
    expected = interpret(laid, feeds)
    for name, array in run(laid, plan, feeds, sizes, extra or {}).items():
        assert_close(array, expected[name], "conv", label=name)  # numpy's sums depend on where arrays lie
    return plan


def workspaces_for(laid: Graph, seed: int) -> dict[Node, tuple[Type, ...]]:
    rng = np.random.default_rng(seed)
    batch = symbol("N") if laid.symbols else 3
    return {
        n: tuple(Type("f32", (batch, int(d))) for d in rng.integers(1, 200, size=int(rng.integers(3))))
        for n in laid.nodes
        if n.body is not None
    }


KERNELS = [PASSES["separate-outputs"], PASSES["propose-kernels"]]


@pytest.mark.parametrize("seed", range(40))
def test_row_major_graphs_survive(seed):
    graph = random_graph(seed, 1 if seed % 3 else 2, size=20)
    laid = run_passes(graph, KERNELS, Context())
    check(graph, laid, {}, workspaces_for(laid, seed))


@pytest.mark.parametrize("seed", range(20))
def test_laid_out_graphs_survive(seed):
    graph = random_graph(seed, 1)
    check(graph, run_passes(graph, INFERENCE, Context(AVX512)), {})


@pytest.mark.parametrize("seed", range(20))
def test_one_plan_serves_every_batch(seed):
    graph = random_graph(seed, "N")
    laid = run_passes(graph, INFERENCE if seed % 2 else KERNELS, Context(AVX512))
    extra = workspaces_for(laid, seed)
    for batch in (1, 2, 5):
        check(graph, laid, {"N": batch}, extra, pitched=seed % 4 > 1)


def kernels(*lines: str, inputs: str = "%x: f32[1, 16, 4, 4]", returns: str) -> Graph:
    """A graph from its text, each line a kernel of its own."""
    text = f"graph g({inputs}) {{\n" + "\n".join(f"  {line}" for line in lines) + f"\n  return {returns}\n}}"
    graph = cnncc.parse(text)
    pieces = [PASSES["separate-outputs"]]
    graph = run_passes(graph, pieces, Context())
    for node in list(graph.nodes):
        if node.op != "reshape":
            make_kernel(graph, Region(None, [node]))
    graph.tidy()
    return graph


BYTES = 16 * 16 * 4  # of one value of f32[1, 16, 4, 4]


def test_a_chain_needs_two_buffers():
    lines = [f"%v{k}: f32[1, 16, 4, 4] = tanh(%{'x' if k == 0 else f'v{k - 1}'})" for k in range(8)]
    graph = kernels(*lines, returns="%v7")
    plan = check(graph, graph, {})
    assert plan.arena == Size(2 * BYTES)


def test_what_is_read_late_is_kept():
    graph = kernels(
        "%a: f32[1, 16, 4, 4] = relu(%x)",
        "%b: f32[1, 16, 4, 4] = tanh(%a)",
        "%c: f32[1, 16, 4, 4] = tanh(%b)",
        "%d: f32[1, 16, 4, 4] = add(%c, %a)",
        returns="%d",
    )
    assert check(graph, graph, {}).arena == Size(3 * BYTES)


def test_reshapes_are_views():
    graph = kernels(
        "%a: f32[1, 16, 4, 4] = relu(%x)",
        "%r: f32[1, 256] = reshape(%a, shape=(1, 256))",
        "%b: f32[1, 256] = tanh(%r)",
        returns="%b",
    )
    plan = check(graph, graph, {})
    assert plan.arena == Size(BYTES)
    assert [n.op for n in plan.skipped] == ["reshape"]


def test_layouts_of_one_order_are_views():
    b = cnncc.Builder()
    x = b.conv(b.input("x", ("N", 32, 8, 8)), np.ones((32, 32, 3, 3), np.float32))
    mean = b.reduce_mean(x, axes=(2, 3), keepdims=True)
    b.output(b.reshape(mean, shape=(x.type.shape[0], 32)), "y")
    graph = run_passes(b.finish(), INFERENCE, Context(AVX512))
    view = next(n for n in graph.nodes if n.op == "to_layout")
    assert next(view.operands()).type.layout.tag(4) == "aBcd16b"
    plan = plan_memory(graph)
    assert view in plan.skipped
    assert plan.root(view.output) is graph.outputs[0]


def test_a_reshape_that_is_an_output_is_written_by_its_producer():
    graph = kernels("%a: f32[1, 16, 4, 4] = relu(%x)", "%r: f32[1, 256] = reshape(%a, shape=(1, 256))", returns="%r")
    plan = check(graph, graph, {})
    assert plan.arena == Size(0)
    assert plan.root(graph.nodes[0].output) is graph.outputs[0]


def test_the_second_of_two_reshapes_is_an_output():
    graph = kernels(
        "%a: f32[1, 16, 4, 4] = relu(%x)",
        "%r: f32[1, 256] = reshape(%a, shape=(1, 256))",
        "%s: f32[256] = reshape(%r, shape=(256,))",
        "%b: f32[1, 256] = tanh(%r)",
        "%c: f32[1, 256] = tanh(%b)",
        returns="%c, %s",
    )
    plan = check(graph, graph, {})
    assert plan.root(graph.nodes[0].output) is graph.outputs[1]


def test_a_member_of_a_concat_is_an_output_by_another_shape():
    graph = kernels(*CONCAT, "%r: f32[256] = reshape(%a, shape=(256,))", "%d: f32[1, 32, 4, 4] = tanh(%c)",
                    "%e: f32[1, 32, 4, 4] = tanh(%d)", returns="%e, %r")  # fmt: skip
    plan = check(graph, graph, {})
    assert plan.root(graph.nodes[0].output) is graph.outputs[1]
    assert [n.op for n in plan.skipped] == ["reshape"]


CONCAT = (
    "%a: f32[1, 16, 4, 4] = relu(%x)",
    "%b: f32[1, 16, 4, 4] = tanh(%x)",
    "%c: f32[1, 32, 4, 4] = concat(%a, %b, axis=1)",
)


def test_members_of_a_concat_are_written_in_place():
    graph = kernels(*CONCAT, "%d: f32[1, 32, 4, 4] = tanh(%c)", returns="%d")
    plan = check(graph, graph, {})
    a, b, c, _ = graph.nodes
    assert plan.skipped == {c}
    assert {v.name: plan.views[v].offset for v in (a.output, b.output)} == {"a": 0, "b": BYTES}
    assert plan.arena == Size(2 * BYTES)


def test_concats_of_a_dense_block_share_one_buffer():
    graph = kernels(
        *CONCAT,
        "%d: f32[1, 32, 4, 4] = tanh(%c)",
        "%e: f32[1, 16, 4, 4] = slice(%d, starts=(0,), ends=(16,), axes=(1,), steps=(1,))",
        "%f: f32[1, 48, 4, 4] = concat(%a, %b, %e, axis=1)",
        "%g: f32[1, 48, 4, 4] = tanh(%f)",
        returns="%g",
    )
    plan = check(graph, graph, {})
    assert {n.output.name for n in plan.skipped} == {"c", "f"}
    assert plan.arena == Size(5 * BYTES)


@pytest.mark.parametrize(
    ("lines", "inputs", "returns"),
    [
        (CONCAT, "%x: f32[2, 16, 4, 4]", "%c"),
        (CONCAT, "%x: f32[N, 16, 4, 4]", "%c"),
        ((CONCAT[0], "%c: f32[1, 32, 4, 4] = concat(%a, %a, axis=1)"), "%x: f32[1, 16, 4, 4]", "%c"),
        ((CONCAT[0], "%c: f32[1, 32, 4, 4] = concat(%a, %x, axis=1)"), "%x: f32[1, 16, 4, 4]", "%c"),
        (CONCAT, "%x: f32[1, 16, 4, 4]", "%c, %a"),
        ((CONCAT[0], CONCAT[1], "%c: f32[1, 16, 8, 4] = concat(%a, %b, axis=2)"), "%x: f32[1, 16, 4, 4]", "%c"),
        (("%a: f32[1, 1, 3] = relu(%x)", "%b: f32[1, 1, 3] = tanh(%x)", "%c: f32[1, 2, 3] = concat(%a, %b, axis=1)"),
         "%x: f32[1, 1, 3]", "%c"),
    ],
    ids=["batch 2", "symbolic batch", "a member twice", "an input", "a member is an output", "rows", "not aligned"],
)  # fmt: skip
def test_concats_that_must_be_run(lines, inputs, returns):
    shape = inputs[inputs.index("[") + 1 : -1].split(",")[0]
    graph = kernels(*(line.replace("f32[1,", f"f32[{shape},") for line in lines), inputs=inputs, returns=returns)
    plan = check(graph, graph, {"N": 3})
    assert not plan.skipped


DENSE = (
    *CONCAT,
    "%d: f32[1, 32, 4, 4] = tanh(%c)",
    "%e: f32[1, 16, 4, 4] = slice(%d, starts=(0,), ends=(16,), axes=(1,), steps=(1,))",
    "%f: f32[1, 48, 4, 4] = concat(%a, %b, %e, axis=1)",
    "%g: f32[1, 48, 4, 4] = tanh(%f)",
)


@pytest.mark.parametrize("batch", ["2", "N"])
def test_images_of_members_lie_apart(batch):
    """A dense block above one image: its concats are views, and its kernels know the distance between images."""
    graph = kernels(
        *(line.replace("f32[1,", f"f32[{batch},") for line in DENSE), inputs=f"%x: f32[{batch}, 16, 4, 4]", returns="%g"
    )
    plan = check(graph, graph, {"N": 3}, pitched=True)
    assert {n.output.name for n in plan.skipped} == {"c", "f"}
    assert {v.name: (plan.views[v].offset, p) for v, p in plan.pitches.items()} == {
        "a": (0, 768), "b": (BYTES, 768), "c": (0, 768), "e": (2 * BYTES, 768),
    }  # fmt: skip
    pitches = {n.output.name: n.attrs.pitches for n in graph.nodes if n not in plan.skipped}
    assert pitches == {"a": (0, 768), "b": (0, 768), "d": (768, 0), "e": (0, 768), "g": ()}


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ((CONCAT[0], "%c: f32[2, 32, 4, 4] = concat(%a, %a, axis=1)"), "twice"),
        ((CONCAT[0], "%c: f32[2, 32, 4, 4] = concat(%a, %x, axis=1)"), "%x is an input"),
        ((CONCAT[0], CONCAT[1], "%c: f32[2, 16, 8, 4] = concat(%a, %b, axis=2)"), "along axis 2"),
        ((*CONCAT, "%d: f32[512] = reshape(%a, shape=(512,))", "%e: f32[512] = tanh(%d)"), "in one piece"),
    ],
    ids=["a member twice", "an input", "rows", "reshaped"],
)
def test_why_a_concat_stays(lines, reason):
    graph = kernels(*(line.replace("f32[1,", "f32[2,") for line in lines), inputs="%x: f32[2, 16, 4, 4]",
                    returns="%c, %e" if len(lines) > 4 else "%c")  # fmt: skip
    declined = []
    find_views(graph, True, lambda node, why: declined.append(why))
    assert [reason in why for why in declined] == [True]
    check(graph, graph, {}, pitched=True)


def test_symbolic_sizes_are_multiples_of_the_batch():
    n = symbol("N")
    assert Size.of(Type("f32", (n, 3)).nbytes) == Size(0, (("N", ALIGN),))
    assert Size.of(100) == Size(128)
    assert Size(64, (("N", 64),)) + Size(0, (("M", 64), ("N", 128))) == Size(64, (("M", 64), ("N", 192)))


def test_sizes_of_two_symbols_multiplied_are_refused():
    graph = kernels("%a: f32[N, 16, 4, H] = relu(%x)", "%b: f32[N, 16, 4, H] = tanh(%a)",
                    inputs="%x: f32[N, 16, 4, H]", returns="%b")  # fmt: skip
    with pytest.raises(GraphError, match="linear in its symbols"):
        plan_memory(graph)


def test_constants_and_batches_have_regions_of_their_own():
    graph = kernels(
        "%a: f32[N, 64] = relu(%x)", "%p: f32[64] = relu(%y)", "%q: f32[64] = tanh(%p)", "%b: f32[N, 64] = tanh(%a)",
        "%c: f32[N, 64] = add(%b, %q)", inputs="%x: f32[N, 64], %y: f32[64]", returns="%c",
    )  # fmt: skip
    plan = check(graph, graph, {"N": 2})
    assert plan.arena == Size(2 * 256, (("N", 2 * 256),))
