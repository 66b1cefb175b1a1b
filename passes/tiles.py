"""choose-tiles: the tile record of every kernel goes into the IR, where it prints, parses and can be overridden."""

from __future__ import annotations

import dataclasses
from typing import Any

from cnncc.ir.graph import Graph
from cnncc.passes.manager import Context
from cnncc.targets.describe import describe
from cnncc.targets.table import find_algorithm


def choose_tiles(graph: Graph, context: Context) -> None:
    """kernel [algorithm] --> kernel [algorithm, tile]; kernels that have a tile record keep it."""
    assert context.target is not None
    for node in graph.nodes:
        if node.body is None or node.attrs.tile:
            continue
        algorithm = find_algorithm(context.target, node.attrs.algorithm)
        if algorithm is not None:
            record = algorithm.tiles_for(describe(node.body), context.target)
            node.attrs = dataclasses.replace(node.attrs, tile=tile_pairs(record))


def tile_pairs(record: Any) -> tuple[tuple[str, Any], ...]:
    """A tile record as name, value pairs."""
    return tuple((f.name, getattr(record, f.name)) for f in dataclasses.fields(record))


def tile_record(kind: type, pairs: tuple[tuple[str, Any], ...]) -> Any:
    """Inverse of `tile_pairs`."""
    return kind(**dict(pairs))
