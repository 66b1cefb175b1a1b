"""The algorithms of each kind of machine, in the order in which they are listed in reports; the fallback comes last."""

from __future__ import annotations

import functools

from cnncc.errors import ScheduleError
from cnncc.targets.algorithm import Algorithm
from cnncc.targets.target import Target

GENERIC = "generic"  # elementwise chains and reductions: scheduled from their definition, always applies
FALLBACK = "fallback"  # the same, for an op that deserves better

_REGISTERED: dict[str, list[Algorithm]] = {"cpu": [], "cuda": []}


def register_algorithm(kind: str, algorithm: Algorithm) -> None:
    """Offer an algorithm from outside the package to every target of a kind ("cpu", "cuda").

    `choose` takes it wherever it applies and its cost is the least. Raises ScheduleError where the name is taken.
    """
    if kind not in _REGISTERED:
        raise ScheduleError(f"algorithms are for {' or '.join(_REGISTERED)}, got {kind!r}")
    if algorithm.name in (GENERIC, FALLBACK, *(a.name for a in (*_REGISTERED[kind], *_own(kind)))):
        raise ScheduleError(f"there is an algorithm called {algorithm.name!r} for {kind} already")
    _REGISTERED[kind].append(algorithm)


def registered() -> tuple[Algorithm, ...]:
    """The algorithms from outside the package, of all kinds."""
    return tuple(a for every in _REGISTERED.values() for a in every)


def _own(kind: str) -> tuple[Algorithm, ...]:
    return _cpu() if kind == "cpu" else _cuda()


@functools.cache
def _cpu() -> tuple[Algorithm, ...]:
    from cnncc.targets.cpu import (
        batched,
        dense,
        depthwise,
        direct,
        fft_dense,
        fft_depthwise,
        first_layer,
        fused,
        grouped,
        lanes,
        narrow,
        pointwise,
        pool,
        pool_gradient,
        weight_gradient,
        weight_product,
        winograd,
        winograd_weights,
    )

    return (
        winograd.WINOGRAD_F2,
        winograd.WINOGRAD_F4,
        winograd.WINOGRAD_F6,
        winograd.WINOGRAD_F4_FRESH,
        depthwise.DEPTHWISE,
        fft_depthwise.ALGORITHM,
        fft_dense.ALGORITHM,
        first_layer.ALGORITHM,
        direct.ALGORITHM,
        pointwise.ALGORITHM,
        fused.ALGORITHM,
        narrow.ALGORITHM,
        lanes.ALGORITHM,
        grouped.ALGORITHM,
        dense.ALGORITHM,
        batched.ALGORITHM,
        pool.pool_blocked,
        pool.pool_plain,
        pool_gradient.ALGORITHM,
        *weight_gradient.ALGORITHMS,
        weight_product.ALGORITHM,
        winograd_weights.ALGORITHM,
    )


@functools.cache
def _cuda() -> tuple[Algorithm, ...]:
    from cnncc.targets.cuda.algorithms import ALGORITHMS

    return ALGORITHMS


def algorithms(target: Target, op: str = "") -> tuple[Algorithm, ...]:
    """The algorithms of a target, all or those that serve one op (conv, matmul, pool)."""
    every = (*_REGISTERED[target.kind], *_own(target.kind))
    return tuple(a for a in every if not op or a.op == op)


def find_algorithm(target: Target, name: str) -> Algorithm | None:
    """The algorithm called `name`; None for GENERIC and FALLBACK."""
    if name in (GENERIC, FALLBACK):
        return None
    return next(a for a in algorithms(target) if a.name == name)
