"""The algorithms of each kind of machine, in the order in which they are listed in reports; the fallback comes last."""

from __future__ import annotations

import functools

from cnncc.targets.algorithm import Algorithm
from cnncc.targets.target import Target

GENERIC = "generic"  # elementwise chains and reductions: scheduled from their definition, always applies
FALLBACK = "fallback"  # the same, for an op that deserves better


@functools.cache
def _cpu() -> tuple[Algorithm, ...]:
    from cnncc.targets.cpu import dense, depthwise, direct, first_layer, grouped, pointwise, pool, winograd

    return (
        winograd.WINOGRAD_F2,
        winograd.WINOGRAD_F4,
        winograd.WINOGRAD_F6,
        depthwise.DEPTHWISE,
        first_layer.ALGORITHM,
        direct.ALGORITHM,
        pointwise.ALGORITHM,
        grouped.ALGORITHM,
        dense.ALGORITHM,
        pool.pool_blocked,
        pool.pool_plain,
    )


@functools.cache
def _cuda() -> tuple[Algorithm, ...]:
    from cnncc.targets.cuda.algorithms import ALGORITHMS

    return ALGORITHMS


def algorithms(target: Target, op: str = "") -> tuple[Algorithm, ...]:
    """The algorithms of a target, all or those that serve one op (conv, matmul, pool)."""
    every = _cpu() if target.kind == "cpu" else _cuda()
    return tuple(a for a in every if not op or a.op == op)


def find_algorithm(target: Target, name: str) -> Algorithm | None:
    """The algorithm called `name`; None for GENERIC and FALLBACK."""
    if name in (GENERIC, FALLBACK):
        return None
    return next(a for a in algorithms(target) if a.name == name)
