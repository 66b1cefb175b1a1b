"""ONNX --> Graph: operators against onnx's own cases, shapes and symbols, what is refused and how."""

from __future__ import annotations

import time

import numpy as np
import onnx
import pytest
from onnx import helper

from cnncc.edges.onnx_import import UnsupportedOperators, load_onnx, register
from cnncc.edges.onnx_import.table import _registered
from cnncc.errors import GraphError
from cnncc.interpret import interpret
from cnncc.ir.reshape import bind_shapes
from tests import zoo
from tests.edges.onnx_models import model, node
from tests.tolerances import assert_close

# -- whole models ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("symbolic", [False, True], ids=["fixed", "symbolic"])
@pytest.mark.parametrize("dynamo", [False, True], ids=["script", "dynamo"])
@pytest.mark.parametrize("name", ["lenet5", "audio_m5", "unet"])
def test_exports_of_torch(name, dynamo, symbolic):
    pytest.importorskip("torch")
    net = zoo.NETS[name]
    path = zoo.export(name, dynamo, symbolic, net.small, net.small_width)
    graph = load_onnx(path)
    assert graph.symbols == (("batch",) if symbolic else ())
    feeds = zoo.inputs(name, 3 if symbolic else 1, net.small)
    for key, expected in zoo.reference(path, feeds).items():
        assert_close(interpret(graph, feeds)[key], expected, "network-strict", label=key)


@pytest.mark.parametrize("name", zoo.LIGHT)
def test_light_models(name):
    from pathlib import Path

    import onnx.backend.test

    path = Path(onnx.backend.test.__file__).parent / "data" / "light" / f"{name}.onnx"
    graph = load_onnx(path)
    (image,) = graph.inputs
    assert image.type.shape == (1, 3, 224, 224)
    assert graph.outputs[0].type.shape in ((1, 1000), (1, 1000, 1, 1))


def text_image(shape):
    """Black strokes on white: the detector answers with probabilities near 1, not with ONNX Runtime's steps near 0."""
    x = np.ones(shape, np.float32)
    h, w = shape[2:]
    for start in (8, 9):
        x[..., h // 2 - 8 : h // 2 + 8, start : w - 8 : 8] = -1
    x[..., h // 2 - 1 : h // 2 + 1, 8 : w - 8] = -1
    return x


@pytest.mark.parametrize(
    ("kind", "shape"), [("cls", (2, 3, 48, 192)), ("det", (1, 3, 64, 96)), ("rec", (1, 3, 48, 96))]
)
def test_trained_text_models(kind, shape):
    """Symbolic height and width: sizes that are formulas are taken to fit, and checked when they are fixed."""
    models = zoo.ocr()
    if kind not in models:
        pytest.skip("needs rapidocr-onnxruntime")
    x = text_image(shape)
    symbolic = load_onnx(models[kind])
    assert symbolic.symbols
    expected = zoo.reference(models[kind], {"x": x})
    for graph in (bind_shapes(symbolic, {"x": shape}), load_onnx(models[kind], {"x": shape})):
        for key, e in expected.items():
            assert_close(interpret(graph, {"x": x})[key], e, "probabilities", label=key)


def test_sizes_that_do_not_fit_are_found_when_they_are_fixed():
    models = zoo.ocr()
    if "det" not in models:
        pytest.skip("needs rapidocr-onnxruntime")
    with pytest.raises(GraphError, match=r"Add 'p2o\.Add"):
        load_onnx(models["det"], {"x": (1, 3, 48, 96)})  # not a multiple of 32
    with pytest.raises(GraphError):
        bind_shapes(load_onnx(models["det"]), {"x": (1, 3, 48, 96)})


def test_import_is_fast():
    """No timing: a network of 200 nodes must not need more than some calls a node."""
    import cProfile
    import pstats

    nodes, last = [], "x"
    for k in range(100):
        nodes += [node("Conv", [last, "w"], [f"c{k}"], pads=[1, 1, 1, 1]), node("Relu", [f"c{k}"], [f"r{k}"])]
        last = f"r{k}"
    m = model(nodes, {"x": (1, 4, 8, 8)}, [last], {"w": np.ones((4, 4, 3, 3), np.float32)})
    load_onnx(m)
    profile = cProfile.Profile()
    profile.runcall(load_onnx, m)
    assert pstats.Stats(profile).total_calls < 200 * 500


# -- names -------------------------------------------------------------------------------------------------------------


def test_names_are_kept():
    nodes = [
        node("Conv", ["image", "weight"], ["features"], name="/stem/conv"),
        node("Gelu", ["features"], ["12"], name="act"),
        node("HardSwish", ["12"], ["out"]),
    ]
    constants = {"weight": np.ones((2, 3, 1, 1), np.float32), "unused": np.ones(3, np.float32)}
    graph = load_onnx(model(nodes, {"image": (1, 3, 4, 4)}, ["out"], constants, opset=20))
    assert [v.name for v in graph.inputs] == ["image"]
    assert [v.name for v in graph.constants] == ["weight"]
    assert [(n.op, n.source, n.output.name) for n in graph.nodes] == [
        ("conv", "/stem/conv", "features"),
        ("gelu", "act", "12"),
        ("hard_swish", "", "out"),
    ]
    assert graph.output_names == ["out"]


def test_results_of_several_operations_carry_the_name_last():
    nodes = [node("Gemm", ["x", "w", "b"], ["y"], name="fc", transB=1)]
    constants = {"w": np.ones((5, 3), np.float32), "b": np.ones(5, np.float32)}
    graph = load_onnx(model(nodes, {"x": ("N", 3)}, ["y"], constants))
    assert [(n.op, n.source) for n in graph.nodes] == [("matmul", "fc"), ("add", "fc")]
    assert graph.nodes[-1].output.name == "y"


def test_initializers_listed_as_inputs_are_constants():
    m = model([node("Add", ["x", "w"], ["y"])], {"x": (2,), "w": (2,)}, ["y"], {"w": np.ones(2, np.float32)})
    graph = load_onnx(m)
    assert [v.name for v in graph.inputs] == ["x"]
    assert interpret(graph, {"x": np.zeros(2, np.float32)})["y"].tolist() == [1, 1]


def test_outputs_that_are_inputs_constants_or_the_same():
    nodes = [node("Relu", ["x"], ["a"]), node("Identity", ["a"], ["b"]), node("Identity", ["x"], ["c"])]
    m = model(nodes, {"x": (2,)}, ["a", "b", "c", "w"], {"w": np.arange(3, dtype=np.float32)})
    x = np.array([-1, 2], np.float32)
    results = interpret(load_onnx(m), {"x": x})
    assert {k: v.tolist() for k, v in results.items()} == {"a": [0, 2], "b": [0, 2], "c": [-1, 2], "w": [0, 1, 2]}


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_all_unsupported_operators_at_once():
    nodes = [
        node("NonMaxSuppression", ["x"], ["a"], name="nms1"),
        node("Relu", ["a"], ["b"], name="behind"),
        node("NonMaxSuppression", ["b"], ["c"], name="nms2"),
        node("Fancy", ["x"], ["d"], name="own", domain="com.me"),
        node("MaxPool", ["x"], ["e", "m"], name="pool", kernel_shape=[2, 2], storage_order=1),
        node("Sum", ["c", "d", "e"], ["y"]),
    ]
    m = model(nodes, {"x": (1, 3, 4, 4)}, ["y"], domains={"com.me": 1})
    with pytest.raises(UnsupportedOperators) as error:
        load_onnx(m)
    text = str(error.value)
    assert "3 operations are not supported" in text
    assert "NonMaxSuppression (opset 17), 2 nodes: 'nms1', 'nms2'" in text
    assert "com.me.Fancy (opset 1), 1 node: 'own'" in text
    assert "MaxPool (opset 17), 1 node: 'pool': " in text
    assert "behind" not in text
    assert [r.node for r in error.value.records] == ["nms1", "nms2", "own", "pool"]


def test_unsupported_inside_functions_names_the_path():
    body = [helper.make_node("Det", ["a"], ["b"], name="inner")]
    f = helper.make_function("own", "F", ["a"], ["b"], body, [helper.make_opsetid("", 17)])
    nodes = [node("F", ["x"], ["y"], name="outer", domain="own")]
    m = model(nodes, {"x": (3, 3)}, ["y"], functions=[f], domains={"own": 1})
    with pytest.raises(UnsupportedOperators, match="'outer/inner'"):
        load_onnx(m)


@pytest.mark.parametrize(
    ("nodes", "match"),
    [
        ([node("Conv", ["x", "w"], ["y"], name="c")], r"Conv 'c': input channels and the weights' channels .* 3 and 5"),
        (
            [node("Conv", ["x", "k"], ["y"], name="c", kernel_shape=[5, 5])],
            "Conv 'c': kernel_shape must be the weights'",
        ),
        ([node("Conv", ["x", "k"], ["y"], name="c", strides=[0, 1])], "conv 'c': strides must be positive"),
        ([node("MaxPool", ["x"], ["y"], name="p", kernel_shape=[9, 9])], "max_pool 'p': the window must fit"),
        ([node("Reshape", ["x", "t"], ["y"], name="r")], "reshape 'r': .*as many elements"),
        ([node("Softmax", ["x"], ["y"], name="s", axis=4)], "Softmax 's': axis must be from -4 to 3, got 4"),
        ([node("Gemm", ["x", "w"], ["y"], name="g")], "Gemm 'g': A and B must have rank 2"),
        ([node("Split", ["x", "t"], ["y"], name="s", axis=1)], "Split 's': .* must be equal, got 3 and 10"),
    ],
)
def test_impossible_shapes_name_the_node(nodes, match):
    constants = {"w": np.ones((4, 5, 3, 3), np.float32), "k": np.ones((4, 3, 3, 3), np.float32), "t": np.array([3, 7])}
    with pytest.raises(GraphError, match=match):
        load_onnx(model(nodes, {"x": (1, 3, 8, 8)}, ["y"], constants))


# -- functions, branches, registration ---------------------------------------------------------------------------------


def test_local_functions_are_imported_in_place():
    body = [
        helper.make_node("LeakyRelu", ["a"], ["c"], name="act"),
        helper.make_node("Mul", ["c", "c"], ["b"]),
    ]
    body[0].attribute.append(onnx.AttributeProto(name="alpha", type=1, ref_attr_name="slope"))
    f = helper.make_function("own", "Act", ["a"], ["b"], body, [helper.make_opsetid("", 17)], ["slope"])
    nodes = [
        node("Act", ["x"], ["h"], name="one", domain="own", slope=0.5),
        node("Act", ["h"], ["y"], domain="own", slope=0.25),
    ]
    graph = load_onnx(model(nodes, {"x": (2,)}, ["y"], functions=[f], domains={"own": 1}))
    assert [n.attrs.alpha for n in graph.nodes if n.op == "leaky_relu"] == [0.5, 0.25]
    assert graph.nodes[0].source == "one/act"
    assert interpret(graph, {"x": np.array([-2, 3], np.float32)})["y"].tolist() == [1, 81]


def test_if_with_a_known_condition():
    def branch(op):
        return helper.make_graph([node(op, ["x"], ["r"])], op, [], [onnx.ValueInfoProto(name="r")])

    nodes = [
        node("Shape", ["x"], ["s"]),
        node("Size", ["s"], ["rank"]),
        node("Equal", ["rank", "two"], ["c"]),
        node("If", ["c"], ["y"], then_branch=branch("Neg"), else_branch=branch("Det")),
    ]
    graph = load_onnx(model(nodes, {"x": ("N", 3)}, ["y"], {"two": np.array(2)}))
    assert [n.op for n in graph.nodes] == ["neg"]


def test_registered_operators_go_first():
    def double(n):
        return n.op("mul", n.value(0), 2.0)

    register("Double", double, "com.me")
    try:
        m = model([node("Double", ["x"], ["y"], name="d", domain="com.me")], {"x": (2,)}, ["y"], domains={"com.me": 1})
        graph = load_onnx(m)
    finally:
        del _registered["com.me", "Double"]
    assert interpret(graph, {"x": np.ones(2, np.float32)})["y"].tolist() == [2, 2]


def test_weights_stay_constants_by_name():
    """Parameters are not computed with at import, so that training finds them."""
    nodes = [node("Unsqueeze", ["b", "axes"], ["b3"]), node("Add", ["x", "b3"], ["y"])]
    constants = {"b": np.ones(3, np.float32), "axes": np.array([1, 2])}
    graph = load_onnx(model(nodes, {"x": (1, 3, 4, 4)}, ["y"], constants))
    assert [v.name for v in graph.constants] == ["b"]


@pytest.mark.parametrize(
    "attributes",
    [{"output_shape": [9, 8]}, {"auto_pad": "SAME_UPPER"}, {"auto_pad": "SAME_LOWER"}, {"output_padding": [1, 0]}],
    ids=str,
)
def test_transposed_convolution_with_output_shape(attributes):
    rng = np.random.default_rng(0)
    nodes = [node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2], **attributes)]
    w, x = (rng.standard_normal(s).astype(np.float32) for s in ((2, 3, 3, 3), (1, 2, 4, 4)))
    m = model(nodes, {"x": (1, 2, 4, 4)}, ["y"], {"w": w})
    assert_close(interpret(load_onnx(m), {"x": x})["y"], zoo.reference(m, {"x": x})["y"], "conv")


def test_opset_is_read_once_per_domain():
    """Softmax before opset 13 takes all axes from `axis` on together."""
    x = np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)
    for opset, axes in ((11, (1, 2)), (13, (1,))):
        m = model([node("Softmax", ["x"], ["y"], axis=1)], {"x": (2, 3, 4)}, ["y"], opset=opset)
        y = interpret(load_onnx(m), {"x": x})["y"]
        assert_close(y.sum(axis=axes), np.ones(y.sum(axis=axes).shape, np.float32), "softmax")


def test_time_of_a_large_chain():
    """Symbolic sizes stay in normal form: 300 layers of shape arithmetic do not grow."""
    nodes, last = [], "x"
    for k in range(300):
        nodes += [
            node("Shape", [last], [f"s{k}"]),
            node("Reshape", [last, f"s{k}"], [f"r{k}"]),
            node("Relu", [f"r{k}"], [f"a{k}"]),
        ]
        last = f"a{k}"
    start = time.perf_counter()
    graph = load_onnx(model(nodes, {"x": ("N", 3, "H", "W")}, [last]))
    assert str(graph.outputs[0].type) == "f32[N, 3, H, W]"
    assert time.perf_counter() - start < 20  # grows without bound where sizes are not in normal form
