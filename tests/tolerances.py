"""How far results may be from a reference: one table for all tests.

    assert_close(actual, expected, "conv")

`rtol` is relative to each element, `atol` to the largest magnitude of the reference:
|a - e| <= rtol * |e| + atol * max|e|.
Sums of floats in another order differ by amounts that follow the largest terms, not the result, so atol carries
networks and convolutions, rtol elementwise functions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Tolerance:
    """rtol of the element, atol of the largest magnitude, and why these."""

    rtol: float
    atol: float
    reason: str


# Machine epsilon: f32 1.2e-7, f64 2.2e-16, f16 9.8e-4, bf16 7.8e-3.
TOLERANCES: dict[tuple[str, str], Tolerance] = {
    ("exact", "*"): Tolerance(0, 0, "moving, comparing and selecting values computes nothing"),
    ("elementwise", "f32"): Tolerance(
        2e-6, 1e-7, "polynomials of exp, log, tanh, erf: a few units in the last place, twice"
    ),
    ("elementwise", "f64"): Tolerance(
        1e-12, 1e-13, "the same in float64; transcendental functions of libm differ by an ulp or two"
    ),
    ("elementwise", "f16"): Tolerance(2e-3, 1e-3, "one rounding of the result each way"),
    ("elementwise", "bf16"): Tolerance(1.6e-2, 8e-3, "one rounding of the result each way"),
    ("reduction", "f32"): Tolerance(
        1e-5, 2e-6, "sums of up to 1e5 terms in another order: sqrt(n) * eps of the largest partial sum"
    ),
    ("reduction", "f64"): Tolerance(1e-11, 1e-12, "the same in float64"),
    ("reduction", "f16"): Tolerance(5e-3, 2e-3, "summed in float32, rounded once each way"),
    ("softmax", "f32"): Tolerance(1e-5, 1e-6, "an exp of differences and a sum of up to 1e3 terms"),
    ("conv", "f32"): Tolerance(0, 1e-5, "up to 5e3 products in another order, FMA or not: sqrt(5e3) * eps = 8e-6"),
    ("conv", "f64"): Tolerance(0, 1e-12, "the same in float64"),
    ("conv", "f16"): Tolerance(0, 4e-3, "summed in float32, rounded once each way; inputs are shared"),
    ("winograd", "f32"): Tolerance(
        0, 5e-5, "the bound that accuracy='default' takes an algorithm with is 3e-5 of a layer's own result"
    ),
    ("network", "f32"): Tolerance(
        *(0, 5e-4),
        "default accuracy: dozens of layers, Winograd in most; between references alone 6e-5 is seen (Inception-v3)",
    ),
    ("network-strict", "f32"): Tolerance(0, 1e-4, "no Winograd; between references alone 6e-5 is seen (Inception-v3)"),
    ("probabilities", "f32"): Tolerance(
        0, 2e-3, "softmax turns an absolute error of a logit (|logit| to 10) into a relative one"
    ),
    ("gradient", "f32"): Tolerance(0, 1e-4, "weight gradients sum batch * height * width products, up to 1e5 terms"),
    ("gradient-network", "f32"): Tolerance(
        0, 2e-3, "two passes over dozens of layers; ReLU and max-pool ties may flip"
    ),
    ("finite-difference", "f64"): Tolerance(
        1e-5, 1e-6, "central differences with step 1e-6 in float64: truncation 1e-12, rounding 1e-10 of the loss"
    ),
    ("training-step", "f32"): Tolerance(
        0, 1e-4, "parameters after an update: the gradient's error times the learning rate"
    ),
    ("trajectory", "f32"): Tolerance(
        *(1e-4, 1e-3),
        "losses of 20 steps; where the parameters end, as a part of their way: a ReLU that flips moves that by 1e-4, "
        "also between PyTorch in float32 and in float64",
    ),
    ("trajectory", "f64"): Tolerance(
        1e-12, 1e-11, "the same in float64, where 20 steps multiply rounding by up to 1e4"
    ),
    ("loss", "f32"): Tolerance(1e-4, 0, "a mean over the batch of one network's errors"),
    ("onnx-backend", "*"): Tolerance(1e-3, 1e-6, "ONNX's own tests ask for rtol 1e-3; atol covers elements near zero"),
}


def tolerance(kind: str, dtype: str = "f32") -> Tolerance:
    """The row of a kind and dtype."""
    return TOLERANCES[(kind, dtype)] if (kind, dtype) in TOLERANCES else TOLERANCES[(kind, "*")]


def assert_close(actual: object, expected: object, kind: str, dtype: str = "f32", label: str = "") -> None:
    """Fails with the largest difference, where it is, and the row that it breaks. Shapes must be equal; NaN is NaN."""
    a, e = np.asarray(actual), np.asarray(expected)
    assert a.shape == e.shape, f"{label}: shape {a.shape}, expected {e.shape}"
    if not a.size:
        return
    equal = a == e  # before integers lose digits
    a, e = a.astype(np.float64), e.astype(np.float64)
    row = tolerance(kind, dtype)
    largest = np.abs(e[np.isfinite(e)]).max(initial=0.0)
    allowed = row.rtol * np.abs(np.where(np.isfinite(e), e, 0.0)) + row.atol * largest
    same = equal | (np.isnan(a) & np.isnan(e))
    with np.errstate(invalid="ignore"):
        off = np.where(same, 0.0, np.abs(a - e))
    bad = ~(off <= allowed) if row.rtol or row.atol else ~same
    if bad.any():
        worst = np.unravel_index(np.argmax(np.where(np.isnan(off), np.inf, off)), off.shape)
        raise AssertionError(
            f"{label or kind}: {int(bad.sum())} of {a.size} elements beyond {kind} {dtype} (rtol {row.rtol:g}, "
            f"atol {row.atol:g} of {largest:.4g}); worst at {tuple(map(int, worst))}: {a[worst]:.8g}, "
            f"expected {e[worst]:.8g}"
        )
