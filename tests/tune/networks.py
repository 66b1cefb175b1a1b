"""A small network for the tests of tuning, and verdicts for it."""

from __future__ import annotations

from dataclasses import replace

import cnncc
from cnncc.ir.graph import Graph
from cnncc.targets.machine import AVX512
from cnncc.tune.database import Database, find_setting
from cnncc.tune.records import Choice, Measured, Verdict
from cnncc.tune.space import Task, find_tasks

TARGET = replace(AVX512, threads=1)

TEXT = """
graph small(%x: f32[BATCH, 16, 12, 12]) {
  const %a: f32[32, 16, 3, 3] = random(1)
  const %b: f32[32, 32, 3, 3] = random(2)
  const %c: f32[16, 32, 1, 1] = random(3)
  %1: f32[BATCH, 32, 12, 12] = conv(%x, %a, pads=1)
  %2: f32[BATCH, 32, 12, 12] = relu(%1)
  %3: f32[BATCH, 32, 12, 12] = conv(%2, %b, pads=1)
  %4: f32[BATCH, 32, 12, 12] = add(%3, %2)
  %5: f32[BATCH, 32, 12, 12] = sigmoid(%4)
  %6: f32[BATCH, 16, 12, 12] = conv(%5, %c)
  %7: f32[BATCH, 16, 6, 6] = max_pool(%6, kernel=2, strides=2)
  return %7
}
"""
FIRST = "conv n1 ic16 h12 w12 oc32 k3x3 s1x1 p1x1"
SECOND = "conv n1 ic32 h12 w12 oc32 k3x3 s1x1 p1x1"
THIRD = "conv n1 ic32 h12 w12 oc16 k1x1 s1x1 p0x0"


def small(batch: int | str = 1) -> Graph:
    """Two 3x3 convolutions, the second with a residual and a sigmoid behind it; a 1x1 convolution; a pooling."""
    return cnncc.parse(TEXT.replace("BATCH", str(batch)))


def tasks(target=TARGET, accuracy="default", batch: int | str = 1) -> list[Task]:
    """The kernels of the small network."""
    return find_tasks(small(batch), target, accuracy)


def verdict(task: Task, *others: tuple[Choice, float], kept: bool = True, default: float | None = None) -> Verdict:
    """A verdict: the default with its modelled time (or another), and choices so many times as fast."""
    way = task.ways[0]
    seconds = way.modelled if default is None else default
    choices = [Measured(task.default, seconds, way.modelled, (1.0, 1.0, 1.0), False)]
    for choice, ratio in others:
        modelled = task.way(choice.algorithm).modelled
        choices.append(Measured(choice, seconds / ratio, modelled, (ratio, ratio, ratio), kept))
    return Verdict("", *task.name, tuple(choices), 9)


def write(path, *verdicts: Verdict, target=TARGET, accuracy="default") -> None:
    """Verdicts into a database for a target."""
    setting = find_setting(target, accuracy)
    for record in verdicts:
        Database(path).add(setting, replace(record, setting=setting.digest))
