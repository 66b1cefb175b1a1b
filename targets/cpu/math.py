"""Vector exp, log, tanh, erf, ... for float32, as polynomials on TVM expressions.

LLVM turns a vector `exp` into one call of the C library per lane; these stay in vector registers. All take and return
expressions, keep NaN, are exact at infinities and zeros, and keep denormal results. Largest errors over all float32
arguments, in units of the last place (tests/targets/test_cpu_math.py):

    exp 1.1, expm1 1.7, log 0.9, log1p 2.5, tanh 5.5, sigmoid 2.5, erf 5.5, pow 0.51

float64 goes to the C library; float16 and bfloat16 are computed in float32. An expansion shares its subexpressions
through `Let`. Definitions that use `tirx.exp` and its relatives are served by `expand_math` (expand.py).

Coefficients are minimax fits of this project (Lawson's algorithm on Chebyshev nodes, relative error).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tvm import tirx

Expr = Any

_LOG2E = 1.4426950408889634
_LN2_HIGH = 0.693359375  # few enough bits that n * _LN2_HIGH is exact
_LN2_LOW = -2.12194440054690583e-4
_MAGIC = 12582912.0  # 1.5 * 2**23: adding it rounds to the nearest integer, which then lies in the low mantissa bits
_MAGIC_BITS = 0x4B400000
_SQRT_HALF_BITS = 0x3F3504F3
# expm1(r) = r + r^2 P(r) on |r| <= ln(2) / 2, error 1.3e-8
_EXP = (0.5, 0.16666541993618011, 0.04166628047823906, 0.008366644382476807, 0.0013946554390713573)
# log1p(f) = f - f^2 / 2 + f^3 P(f) on [sqrt(1/2) - 1, sqrt(2) - 1], error 7.5e-10
_LOG = (
    0.3333331346511841,
    -0.25000008940696716,
    0.2000211924314499,
    -0.1666799634695053,
    0.14219550788402557,
    -0.12405592203140259,
    0.11888177692890167,
    -0.1167563870549202,
    0.06746591627597809,
)
# tanh(x) = x P(x^2) / Q(x^2) on |x| <= 9.02, error 3.7e-11
_TANH_P = (
    1.0,
    0.1409921795129776,
    0.004425959195941687,
    4.227399404044263e-05,
    1.1117747078515094e-07,
    3.674518675444993e-11,
)
_TANH_Q = (
    1.0,
    0.4743255078792572,
    0.02920112945139408,
    0.0005008361185900867,
    2.603877874207683e-06,
    2.9512270405263052e-09,
)
# erf(x) = x P(x^2) / Q(x^2) on |x| <= 3.93, error 2.2e-9
_ERF_P = (
    1.128379225730896,
    0.19249068200588226,
    0.055593524128198624,
    0.0041967458091676235,
    0.0004060897626914084,
    6.601336281164549e-06,
)
_ERF_Q = (
    1.0,
    0.5039238333702087,
    0.11724251508712769,
    0.016218729317188263,
    0.001408433890901506,
    7.120186637621373e-05,
    2.4972578671622614e-07,
)
# Taylor: atanh(s) / s in s^2 (|s| <= 0.172) and exp(r) in r (|r| <= 0.347), in float64 for pow
_ATANH = tuple(1 / (2 * k + 1) for k in range(8))
_EXP64 = (1.0, 1.0, 1 / 2, 1 / 6, 1 / 24, 1 / 120, 1 / 720, 1 / 5040, 1 / 40320, 1 / 362880)


def _f32(value: float) -> Expr:
    return tirx.const(value, "float32")


def _i32(value: int) -> Expr:
    return tirx.const(value, "int32")


def let(value: Expr, body: Callable[[Expr], Expr]) -> Expr:
    """`body(v)` with `v` bound to `value`, so that `value` is computed once however often `body` uses it."""
    name = tirx.Var("t", value.ty)
    return tirx.Let(name, value, body(name))


def _poly(x: Expr, coefficients: Sequence[float], dtype: str = "float32") -> Expr:
    """Horner: c[0] + x (c[1] + x (c[2] + ...)); LLVM makes each step one FMA."""
    result = tirx.const(coefficients[-1], dtype)
    for c in reversed(coefficients[:-1]):
        result = result * x + tirx.const(c, dtype)
    return result


def _clamp(x: Expr, low: float, high: float, dtype: str = "float32") -> Expr:
    """NaN stays NaN: max(c, x) compares c > x and takes x where that is false."""
    return tirx.min(tirx.const(high, dtype), tirx.max(tirx.const(low, dtype), x))


def _bits(x: Expr) -> Expr:
    return tirx.reinterpret("int32", x)


def _power_of_two(n: Expr) -> Expr:
    """2**n for an int32 n in [-126, 127]."""
    return tirx.reinterpret("float32", (n + _i32(127)) << _i32(23))


def _reduced(x: Expr, body: Callable[[Expr, Expr], Expr]) -> Expr:
    """body(n, r) with x = n ln(2) + r, n an int32, |r| <= ln(2) / 2."""

    def split(rounded: Expr) -> Expr:
        return let(
            rounded - _f32(_MAGIC),
            lambda n: let(
                x - n * _f32(_LN2_HIGH) - n * _f32(_LN2_LOW),
                lambda r: let(_bits(rounded) - _i32(_MAGIC_BITS), lambda i: body(i, r)),
            ),
        )

    return let(x * _f32(_LOG2E) + _f32(_MAGIC), split)


def _float32_function(f: Callable[..., Expr], libm: Callable[..., Expr]) -> Callable[..., Expr]:
    """Lift a float32 function to the other floating types."""

    def lifted(*operands: Expr) -> Expr:
        args = [tirx.convert(a) for a in operands]  # elements of te tensors become expressions
        dtype = args[0].ty.dtype
        if dtype == "float64":
            return libm(*args)
        if dtype in ("float16", "bfloat16"):
            return tirx.Cast(dtype, f(*(tirx.Cast("float32", a) for a in args)))
        return f(*args)

    lifted.__name__ = f.__name__.lstrip("_")
    lifted.__doc__ = f.__doc__
    return lifted


def _exp(x: Expr) -> Expr:
    """e**x."""

    def scaled(n: Expr, r: Expr) -> Expr:
        grown = (r * r) * _poly(r, _EXP) + r + _f32(1.0)
        # two steps, so that 2**n may be a denormal or 2**128
        return let(n >> _i32(1), lambda half: grown * _power_of_two(half) * _power_of_two(n - half))

    return let(_clamp(x, -104.0, 89.0), lambda v: _reduced(v, scaled))


def _expm1(x: Expr) -> Expr:
    """e**x - 1, accurate near zero."""

    def scaled(n: Expr, r: Expr) -> Expr:
        return let(
            _power_of_two(n - _i32(1)),
            lambda half: ((r * r * _poly(r, _EXP) + r) * half + (half - _f32(0.5))) * _f32(2.0),
        )

    return let(_clamp(x, -25.0, 89.0), lambda v: _reduced(v, scaled))


def _log(x: Expr) -> Expr:
    """Natural logarithm: -inf at 0, NaN below."""

    def series(e: Expr, f: Expr) -> Expr:
        square = f * f
        tail = let(square, lambda s: (f * s) * _poly(f, _LOG) + e * _f32(_LN2_LOW) - s * _f32(0.5))
        return tail + f + e * _f32(_LN2_HIGH)

    def whole(v: Expr) -> Expr:
        small = v < _f32(2.0**-126)
        normal = tirx.Select(small, v * _f32(2.0**23), v)
        shift = tirx.Select(small, _f32(-23.0), _f32(0.0))
        value = let(
            _bits(normal) - _i32(_SQRT_HALF_BITS),
            lambda i: let(
                tirx.reinterpret("float32", (i & _i32(0x007FFFFF)) + _i32(_SQRT_HALF_BITS)) - _f32(1.0),
                lambda f: let(tirx.Cast("float32", i >> _i32(23)) + shift, lambda e: series(e, f)),
            ),
        )
        finite = tirx.Select(v < _f32(float("inf")), value, v)  # also NaN
        return tirx.Select(v > _f32(0.0), finite, tirx.Select(v == _f32(0.0), _f32(float("-inf")), _f32(float("nan"))))

    return let(x, whole)


def _log1p(x: Expr) -> Expr:
    """log(1 + x), accurate near zero: log(u) x / (u - 1) with u = 1 + x rounded (Kahan)."""

    def corrected(v: Expr, u: Expr) -> Expr:
        value = _log(u) * (v / (u - _f32(1.0)))
        return tirx.Select(tirx.Or(u == _f32(1.0), v == _f32(float("inf"))), v, value)

    return let(x, lambda v: let(v + _f32(1.0), lambda u: corrected(v, u)))


def _odd_rational(x: Expr, bound: float, p: Sequence[float], q: Sequence[float]) -> Expr:
    """x P(x^2) / Q(x^2) with x clamped to +-bound and the result to +-1."""
    value = let(_clamp(x, -bound, bound), lambda v: let(v * v, lambda s: v * _poly(s, p) / _poly(s, q)))
    return _clamp(value, -1.0, 1.0)


def _tanh(x: Expr) -> Expr:
    """Hyperbolic tangent."""
    return _odd_rational(x, 9.02, _TANH_P, _TANH_Q)


def _erf(x: Expr) -> Expr:
    """Error function."""
    return _odd_rational(x, 3.93, _ERF_P, _ERF_Q)


def _sigmoid(x: Expr) -> Expr:
    """1 / (1 + e**-x) = 2**(a - n) / (2**a e**r + 2**(a - n)), where e**-x = 2**n e**r, |r| <= ln(2) / 2, a = n // 2:
    neither power of two leaves the range of float32, however small the result is.

    With powers of 4 and |r| <= ln(2), two operations on integers are saved and one more coefficient is needed, which
    takes as long; but e**r near 1/2 loses a bit, and errors reach 3.1 units instead of 2.5.
    """
    one = _i32(0x3F800000)

    def divided(bits: Expr, r: Expr) -> Expr:  # the low bits of `bits` are n
        def by_powers(raised: Expr) -> Expr:
            more = tirx.reinterpret("float32", raised)
            return let(
                tirx.reinterpret("float32", raised - (bits << _i32(23))),
                lambda less: less / (_poly(r, (1.0, 1.0, *_EXP)) * more + less),
            )

        return let(one + ((bits >> _i32(1)) << _i32(23)), by_powers)

    def split(v: Expr, rounded: Expr) -> Expr:
        return let(
            rounded - _f32(_MAGIC),
            lambda n: let(
                _f32(0.0) - v - n * _f32(_LN2_HIGH) - n * _f32(_LN2_LOW),
                lambda r: let(_bits(rounded), lambda bits: divided(bits, r)),
            ),
        )

    return let(
        _clamp(x, -104.0, 104.0), lambda v: let(v * _f32(-_LOG2E) + _f32(_MAGIC), lambda rounded: split(v, rounded))
    )


def _f64(value: float) -> Expr:
    return tirx.const(value, "float64")


def _i64(value: int) -> Expr:
    return tirx.const(value, "int64")


def _log_f64(a: Expr) -> Expr:
    """log of a positive normal float64 to about 1e-12: 2 atanh((m - 1) / (m + 1)) + e ln(2)."""
    sqrt_half = 0x3FE6A09E667F3BCD

    def parts(i: Expr) -> Expr:
        mantissa = tirx.reinterpret("float64", (i & _i64((1 << 52) - 1)) + _i64(sqrt_half))
        exponent = tirx.Cast("float64", i >> _i64(52))
        return let(
            mantissa,
            lambda m: let(
                (m - _f64(1.0)) / (m + _f64(1.0)),
                lambda s: _poly(s * s, _ATANH, "float64") * (s * _f64(2.0)) + exponent * _f64(0.6931471805599453),
            ),
        )

    return let(tirx.reinterpret("int64", a) - _i64(sqrt_half), parts)


def _exp_f64(x: Expr) -> Expr:
    """e**x for float64 x in [-110, 90], to about 1e-11."""
    magic = 6755399441055744.0  # 1.5 * 2**52

    def scaled(rounded: Expr) -> Expr:
        n = rounded - _f64(magic)
        r = x - n * _f64(0.6931471805599453)
        power = tirx.reinterpret("float64", (tirx.reinterpret("int64", rounded) + _i64(1023)) << _i64(52))
        return let(r, lambda v: _poly(v, _EXP64, "float64") * power)

    return let(x * _f64(_LOG2E) + _f64(magic), scaled)


def _pow(x: Expr, y: Expr) -> Expr:
    """x**y with the special cases of IEEE 754; through float64, where log and exp need no extra care."""

    def whole(b: Expr, p: Expr) -> Expr:
        a = tirx.Cast("float64", tirx.abs(b))
        wide = tirx.Cast("float64", p)

        def exponent(v: Expr) -> Expr:
            logarithm = tirx.Select(v == _f64(0.0), _f64(float("-inf")), _log_f64(v))
            logarithm = tirx.Select(v < _f64(float("inf")), logarithm, v)  # also NaN
            return tirx.Select(v == _f64(1.0), _f64(0.0), wide * logarithm)

        size = let(_clamp(let(a, exponent), -110.0, 90.0, "float64"), lambda t: tirx.Cast("float32", _exp_f64(t)))
        integral = tirx.floor(p) == p
        odd = tirx.And(integral, tirx.floor(p * _f32(0.5)) * _f32(2.0) != p)
        signed = let(size, lambda s: tirx.Select(tirx.And(odd, _bits(b) < _i32(0)), -s, s))
        negative = tirx.And(b < _f32(0.0), b > _f32(float("-inf")))
        # not Not(integral): TVM makes that !=, which is false for NaN
        value = let(signed, lambda s: tirx.Select(integral, s, tirx.Select(negative, _f32(float("nan")), s)))
        return tirx.Select(p == _f32(0.0), _f32(1.0), value)

    return let(x, lambda b: let(y, lambda p: whole(b, p)))


def is_nan(x: Expr) -> Expr:
    """Whether a float is NaN, by its bits: `tirx.isnan` does not vectorise, and TVM takes x != x for false."""
    bits, infinity = {
        "float64": (64, 0x7FF << 52),
        "float32": (32, 0xFF << 23),
        "float16": (16, 0x1F << 10),
        "bfloat16": (16, 0xFF << 7),
    }[str(x.ty.dtype)]
    kind = f"int{bits}"
    return (tirx.reinterpret(kind, x) & tirx.const((1 << bits - 1) - 1, kind)) > tirx.const(infinity, kind)


exp = _float32_function(_exp, tirx.exp)
expm1 = _float32_function(_expm1, lambda x: tirx.exp(x) - tirx.const(1.0, "float64"))
log = _float32_function(_log, tirx.log)
log1p = _float32_function(_log1p, tirx.log1p)
tanh = _float32_function(_tanh, tirx.tanh)
erf = _float32_function(_erf, tirx.erf)
sigmoid = _float32_function(_sigmoid, tirx.sigmoid)
pow = _float32_function(_pow, tirx.power)
