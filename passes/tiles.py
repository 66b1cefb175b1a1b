"""choose-tiles: the tile record of every kernel goes into the IR, where it prints, parses and can be overridden."""

from __future__ import annotations

import dataclasses
from typing import Any

from cnncc.errors import ScheduleError
from cnncc.ir.graph import Graph
from cnncc.passes.manager import Context
from cnncc.targets.describe import describe_kernel
from cnncc.targets.problem import FUSED
from cnncc.targets.table import find_algorithm


def choose_tiles(graph: Graph, context: Context) -> None:
    """kernel [algorithm] --> kernel [algorithm, tile]; kernels that have a tile record keep it.

    Measured records come before modelled ones. Raises ScheduleError listing the kernels that were not tuned where
    schedules are frozen.
    """
    assert context.target is not None
    missing: list[str] = []
    for node in graph.nodes:
        if node.body is None or node.attrs.tile:
            continue
        algorithm = find_algorithm(context.target, node.attrs.algorithm)
        if algorithm is None:
            continue
        problem = describe_kernel(node)
        pairs = None if context.tuning is None else context.tuning.tile(node.body, algorithm, problem, context.target)
        if pairs is not None:
            context.tuned.add(node)
        elif context.frozen and algorithm.name != FUSED and not _known(node.body, context):
            missing.append(f"{problem} ({node.where})")
        tile = tile_pairs(algorithm.tiles_for(problem, context.target)) if pairs is None else pairs
        node.attrs = dataclasses.replace(node.attrs, tile=tile)
    if missing:
        raise ScheduleError(
            f"frozen schedules: every kernel must have a tuning record for this machine, these versions and this "
            f"accuracy, got none for {len(missing)} (`cnncc tune` makes them):\n  " + "\n  ".join(missing)
        )


def _known(body: Graph, context: Context) -> bool:
    return context.tuning is not None and context.tuning.known(body)


def tile_pairs(record: Any) -> tuple[tuple[str, Any], ...]:
    """A tile record as name, value pairs."""
    return tuple((f.name, getattr(record, f.name)) for f in dataclasses.fields(record))


def tile_record(kind: type, pairs: tuple[tuple[str, Any], ...]) -> Any:
    """Inverse of `tile_pairs`."""
    return kind(**dict(pairs))
