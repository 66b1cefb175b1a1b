"""Extra buffers of kernels that keep intermediates in memory, remembered beside the objects in the cache.

Only scheduling tells what a kernel of several stages keeps between them; remembering it spares a compilation whose
kernels are all cached from importing TVM.
"""

from __future__ import annotations

import json

from cnncc.ir.dims import parse_dim
from cnncc.ir.graph import Node
from cnncc.ir.kernel import anchor
from cnncc.ir.types import Type
from cnncc.kernels.build import KernelSource, cache_key
from cnncc.kernels.cache import Cache
from cnncc.passes.tiles import tile_record
from cnncc.targets.describe import describe_kernel
from cnncc.targets.table import find_algorithm
from cnncc.targets.target import Target


def find_workspaces(node: Node, source: KernelSource, symbol: str, target: Target) -> tuple[Type, ...]:
    """Types of the extra buffers of a kernel, behind its operands and results."""
    assert node.body is not None
    algorithm = find_algorithm(target, node.attrs.algorithm)
    if algorithm is not None:
        problem = describe_kernel(node)
        kind = type(algorithm.tiles_for(problem, target))
        shapes = algorithm.workspaces(problem, tile_record(kind, node.attrs.tile))
        return tuple(Type("f32", shape) for shape in shapes)
    if anchor(node.body) is None:
        return ()
    store = Cache.default()
    key = f"workspaces of {cache_key(source, symbol, target)}"
    found = store.get(key)
    if found is not None:
        return tuple(Type(dtype, tuple(map(parse_dim, shape))) for dtype, shape in json.loads(found))
    from cnncc.targets.lower import lower_kernel

    types = lower_kernel(node, target).workspaces
    store.put(key, json.dumps([(t.dtype, [str(d) for d in t.shape]) for t in types]).encode())
    return types
