"""Half precision: float16 and bfloat16 are storage. Ops read them as float32, compute, and round the result once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cnncc.ir.dtype import NUMPY
from cnncc.ir.types import Type

if TYPE_CHECKING:
    from cnncc.ops.lowering import Lowering, Operand

HALF = ("f16", "bf16")
WIDE = "f32"


def widened(compute: Callable[..., Any]) -> Callable[..., Any]:
    """An op's te definition, computed in float32 where operands or results are half precision."""

    def run(c: Lowering, attrs: Any, outs: Sequence[Type], xs: Sequence[Operand | None]) -> Any:
        if not any(t.dtype in HALF for t in (*outs, *(x.type for x in xs if x is not None))):
            return compute(c, attrs, outs, xs)
        inner = [t.plain.with_(dtype=WIDE) if t.dtype in HALF else t for t in outs]
        made = compute(c, attrs, inner, [None if x is None else wide_operand(c, x) for x in xs])
        results = made if isinstance(made, tuple) else (made,)
        narrow = tuple(_narrowed(c, r, t) for r, t in zip(results, outs, strict=True))
        return narrow if isinstance(made, tuple) else narrow[0]

    return run


def _narrowed(c: Lowering, result: Operand, type: Type) -> Operand:
    if type.dtype not in HALF:
        return result
    return c.stage(type, lambda *index: c.math.cast(result(*index), type.dtype), "narrow")


def wide_operand(c: Lowering, x: Operand) -> Operand:
    """An operand read as float32 where it is half precision."""
    from cnncc.ops.lowering import Operand

    if x.type.dtype not in HALF:
        return x
    return Operand(x.type.with_(dtype=WIDE), lambda *index: c.math.cast(x(*index), WIDE))


def wide_array(array: np.ndarray | None) -> np.ndarray | None:
    """An array of half precision as float32, others as they are."""
    if array is None or array.dtype not in (NUMPY["f16"], NUMPY["bf16"]):
        return array
    return array.astype(np.float32)
