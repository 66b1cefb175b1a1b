"""Which kernels a training step is made of: none that matters is scheduled from its definition. Nothing is built."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from benchmarks.training_nets import NETS, build
from cnncc import nn, optim
from cnncc.driver import Planned, plan_graph
from cnncc.losses import find_loss
from cnncc.nn.tensor import RANDOM
from cnncc.report import KernelRow
from cnncc.targets.machine import find_target
from cnncc.targets.target import Target
from cnncc.train.batch import Batch
from cnncc.train.graphs import Measures, training_graph
from cnncc.train.update import Update

SHARE = 0.05  # of a step's modelled time
TARGET = find_target("avx512", 2)
ALGORITHMS = {
    "first_weight_gradient": "lenet5",
    "weight_gradient": "resnet18",
    "depthwise_weight_gradient": "mobilenetv2",
    "pool_gradient": "vgg",
    "weight_product": "lenet5",
    "winograd_weights": "vgg",
}


@functools.cache
def planned(name: str) -> Planned:
    """The step of a small version of a network, with a symbolic batch, up to where its kernels would be built."""
    net, module = NETS[name], build(name, nn, 0.5)
    x = np.zeros((2, *net.small), np.float32)
    y = np.zeros((2, *(net.small[1:] if net.per_pixel else ())), np.int64)
    arrays = {**module.state_dict(), RANDOM: np.zeros(2, np.uint32)}
    made = training_graph(
        module, Batch.of(x, y, module.input_names).types, arrays, Measures(find_loss("cross_entropy"), {}),
        Update(optim.SGD(lr=0.1, momentum=0.9)),
    )  # fmt: skip
    return plan_graph(made.graph, TARGET, state=made.replaced)


def seconds(row: KernelRow, target: Target) -> float:
    """A rough time: work at a third of the peak (a twenty-fifth without an algorithm), bytes at memory's bandwidth."""
    rate = target.gflops_per_core * target.threads / (25 if row.fallback else 3)
    slowdown = 8 if row.fallback else 1  # windows and gathers scheduled from their definition
    return row.gflop / rate + slowdown * row.mbytes / 1e3 / target.gbytes_per_second


@pytest.mark.parametrize("name", NETS)
def test_nothing_that_matters_is_on_the_fallback(name: str) -> None:
    rows = [KernelRow(**row) for row in planned(name).calls]
    total = sum(seconds(row, TARGET) for row in rows)
    slow = {f"{row.ops} of {row.layer}": seconds(row, TARGET) / total for row in rows if row.fallback}
    assert {what: share for what, share in slow.items() if share > SHARE} == {}


@pytest.mark.parametrize(("algorithm", "name"), ALGORITHMS.items())
def test_the_algorithms_of_training_are_chosen(algorithm: str, name: str) -> None:
    assert algorithm in {row["algorithm"] for row in planned(name).calls}


def test_statistics_read_blocks_of_channels() -> None:
    """Batch norm's sums, forward and backward, in the layout of the convolutions beside them: nothing is moved."""
    sums = [row for row in planned("resnet18").calls if "reduce_" in row["ops"] and row["layer"] not in ("", "12")]
    blocked = [row for row in sums if row["layouts"].startswith("aBcd16b")]
    assert len(blocked) >= 4 * 20 - 8
    assert not any("batch_norm_train" in row["ops"] for row in planned("resnet18").calls)
