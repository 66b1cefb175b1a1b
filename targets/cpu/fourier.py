"""Discrete Fourier transforms of a few points as straight-line code, over any numbers that add and multiply.

A complex value is a pair (re, im); None in place of either is a zero that is known, and costs nothing. `let` names an
intermediate value, so that code made of it computes each once.
"""

from __future__ import annotations

import cmath
import math
from collections.abc import Callable, Sequence
from typing import Any

Complex = tuple[Any, Any]
Let = Callable[[Any], Any]
ZERO: Complex = (None, None)


def plus(a: Complex, b: Complex) -> Complex:
    """a + b."""
    return _add(a[0], b[0]), _add(a[1], b[1])


def minus(a: Complex, b: Complex) -> Complex:
    """a - b."""
    return _sub(a[0], b[0]), _sub(a[1], b[1])


def times_i(a: Complex, sign: int = 1) -> Complex:
    """i a, or -i a where the sign is -1."""
    return (_sub(None, a[1]), a[0]) if sign > 0 else (a[1], _sub(None, a[0]))


def times(a: Complex, c: Any, s: Any, sign: int = 1) -> Complex:
    """a (c + i s), or a (c - i s) where the sign is -1."""
    first, second = _mul(a[0], c), _mul(a[1], s)
    other, last = _mul(a[0], s), _mul(a[1], c)
    if sign > 0:
        return _sub(first, second), _add(other, last)
    return _add(first, second), _sub(last, other)


def rotated(a: Complex, turn: int, n: int, let: Let) -> Complex:
    """a exp(2 pi i turn / n), for known numbers; multiples of an eighth of a circle take fewer operations."""
    turn %= n
    if (4 * turn) % n == 0:
        quarter = 4 * turn // n
        return (a, times_i(a), _negative(a), times_i(a, -1))[quarter]
    if (8 * turn) % n == 0:
        eighth, half = 8 * turn // n, math.sqrt(0.5)
        mixed = _sub(a[0], a[1]), _add(a[0], a[1])  # sqrt(2) exp(i pi / 4) a
        turned = _named((_mul(mixed[0], half), _mul(mixed[1], half)), let)
        return (turned, times_i(turned), _negative(turned), times_i(turned, -1))[eighth // 2]
    unit = cmath.exp(2j * math.pi * turn / n)
    return _named(times(a, unit.real, unit.imag), let)


def transform(values: Sequence[Complex], sign: int, let: Let) -> list[Complex]:
    """sum_j values[j] exp(sign 2 pi i j k / n) for every k."""
    n = len(values)
    if n == 1:
        return list(values)
    factor = next(f for f in (4, 2, 3, 5, *range(7, n + 1)) if n % f == 0)
    if factor == n:
        return _SMALL.get(n, _odd)(values, sign, let)
    rest = n // factor
    rows = [transform(values[j::rest], sign, let) for j in range(rest)]
    turned = [[rotated(row[k], sign * j * k, n, let) for k in range(factor)] for j, row in enumerate(rows)]
    columns = [transform([turned[j][k] for j in range(rest)], sign, let) for k in range(factor)]
    return [columns[k % factor][k // factor] for k in range(n)]


def _two(z: Sequence[Complex], sign: int, let: Let) -> list[Complex]:
    return [_named(plus(z[0], z[1]), let), _named(minus(z[0], z[1]), let)]


def _four(z: Sequence[Complex], sign: int, let: Let) -> list[Complex]:
    a, b = (_named(f(z[0], z[2]), let) for f in (plus, minus))
    c, d = (_named(f(z[1], z[3]), let) for f in (plus, minus))
    turned = times_i(d, sign)
    return [_named(v, let) for v in (plus(a, c), plus(b, turned), minus(a, c), minus(b, turned))]


def _odd(z: Sequence[Complex], sign: int, let: Let) -> list[Complex]:
    """An odd number of points: those at equal distance from the first together."""
    n, half = len(z), len(z) // 2
    sums = [_named(plus(z[j], z[n - j]), let) for j in range(1, half + 1)]
    differences = [_named(minus(z[j], z[n - j]), let) for j in range(1, half + 1)]
    total = z[0]
    for s in sums:
        total = plus(total, s)
    out = [_named(total, let), *[ZERO] * (n - 1)]
    for k in range(1, half + 1):
        even, odd = z[0], ZERO
        for j in range(1, half + 1):
            angle = 2 * math.pi * j * k / n
            even = plus(even, _scaled(sums[j - 1], math.cos(angle)))
            odd = plus(odd, _scaled(differences[j - 1], math.sin(angle)))
        even, turned = _named(even, let), times_i(_named(odd, let), sign)
        out[k], out[n - k] = _named(plus(even, turned), let), _named(minus(even, turned), let)
    return out


_SMALL: dict[int, Callable[[Sequence[Complex], int, Let], list[Complex]]] = {2: _two, 4: _four}


def _named(a: Complex, let: Let) -> Complex:
    real, imaginary = (None if part is None else let(part) for part in a)
    return real, imaginary


def _scaled(a: Complex, by: float) -> Complex:
    return _mul(a[0], by), _mul(a[1], by)


def _negative(a: Complex) -> Complex:
    return _sub(None, a[0]), _sub(None, a[1])


def _add(a: Any, b: Any) -> Any:
    return b if a is None else a if b is None else a + b


def _sub(a: Any, b: Any) -> Any:
    if b is None:
        return a
    return b * -1.0 if a is None else a - b


def _mul(a: Any, by: Any) -> Any:
    return None if a is None else a * by
