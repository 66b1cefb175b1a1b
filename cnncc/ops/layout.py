"""Changes of physical layout, logically the identity; the pass lay-out inserts them, folding packs constants."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cnncc.ir.graph import Value
from cnncc.ir.layout import PLAIN, Layout
from cnncc.ir.types import Type
from cnncc.ops.lowering import Lowering, Operand
from cnncc.ops.registry import Arg, Sample, define


@dataclass(frozen=True)
class ToLayoutAttrs:
    """tag: the new layout (``aBcd16b``), empty for row-major."""

    tag: str = ""

    @property
    def layout(self) -> Layout:
        """The layout that the tag names."""
        return Layout.parse(self.tag) if self.tag else PLAIN


def _infer(attrs: ToLayoutAttrs, x: Type) -> Type:
    return x.with_(layout=attrs.layout)


def _reference(attrs: ToLayoutAttrs, x: np.ndarray) -> np.ndarray:
    return x


def _grad(g: Any) -> Sequence[Value | None]:
    """y = x in another layout; dx = dy."""
    return (g.dy,)


def _element(c: Lowering, attrs: ToLayoutAttrs, out: Type, xs: Sequence[Operand], index: tuple[Any, ...]) -> Any:
    """Blocks are padded with zeros."""
    from tvm import tirx

    value = xs[0](*index)
    for axis, factor in attrs.layout.blocks:
        extent = out.shape[axis]
        if not isinstance(extent, int) or extent % factor:
            value = c.guard(index[axis] < c.dim(extent), value, tirx.const(0, value.ty.dtype))
    return value


to_layout = define(
    "to_layout",
    ("x",),
    attrs=ToLayoutAttrs,
    infer=_infer,
    reference=_reference,
    numpy=lambda s: s[0],
    grad=_grad,
    element=_element,
    samples=(
        Sample((Arg((2, 5, 3, 4)),), ToLayoutAttrs("aBcd4b")),
        Sample((Arg((10, 6, 3, 3)),), ToLayoutAttrs("ABcd4b4a")),
    ),
    doc="The same values in another physical layout.",
)
