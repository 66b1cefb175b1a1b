"""Every algorithm earns its place: the choice over the whole graph takes it in some network."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from cnncc.builder import Builder
from cnncc.driver import as_graph
from cnncc.ir.graph import Graph
from cnncc.passes import INFERENCE, Context, run_passes
from cnncc.targets.machine import find_target
from cnncc.targets.table import algorithms
from tests import zoo

TARGET = find_target("avx512", 1)
needs_torch = pytest.mark.skipif(not find_spec("torch"), reason="needs torch")

NETWORKS = {
    "resnet18": ("winograd_f4", "winograd_f4_fresh", "first_layer", "direct", "dense"),
    "audio_m5": ("winograd_f6", "pool_blocked"),
    "googlenet": ("winograd_f2", "fft"),
    "replknet": ("fft_depthwise", "depthwise", "pointwise", "fused_pointwise"),
    "regnety_400mf": ("narrow", "lanes", "grouped"),
    "conv_vit": ("batched",),
}
# Chosen in steps of training: tests/train/test_step_kernels.py.
TRAINING = (
    *("first_weight_gradient", "weight_gradient", "depthwise_weight_gradient", "weight_product"),
    *("pool_gradient", "winograd_weights"),
)
PLAIN = ("pool_plain",)  # an image made smaller before anything else


def chosen(graph: Graph) -> set[str]:
    """The algorithms of a graph's kernels."""
    laid = run_passes(graph, INFERENCE, Context(TARGET, "default"))
    return {node.attrs.algorithm for node in laid.nodes if node.body is not None}


@needs_torch
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_choose(name: str) -> None:
    graph = as_graph(zoo.export(name, dynamo=False, symbolic_batch=False))
    assert chosen(graph) >= set(NETWORKS[name])


def test_a_pool_of_an_image_stays_in_rows() -> None:
    b = Builder()
    x = b.input("x", (1, 3, 224, 224))
    b.output(b.max_pool(x, kernel=(2, 2), strides=(2, 2)))
    assert chosen(b.graph) == set(PLAIN)


def test_all_are_named() -> None:
    named = {*(name for names in NETWORKS.values() for name in names), *PLAIN, *TRAINING}
    assert {a.name for a in algorithms(TARGET)} == named
