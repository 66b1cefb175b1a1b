"""The type of a value: element type, logical shape, physical layout."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from cnncc.ir.dims import Dim, Shape, is_static, product
from cnncc.ir.dtype import NUMPY, short_name
from cnncc.ir.layout import PLAIN, Layout


@dataclass(frozen=True)
class Type:
    """dtype is a short name (f32); shape is logical (NCHW order); layout says how the elements lie in memory."""

    dtype: str
    shape: Shape
    layout: Layout = PLAIN

    def __str__(self) -> str:
        text = f"{self.dtype}[{', '.join(map(str, self.shape))}]"
        return f"{text} {self.layout.tag(self.rank)}" if self.layout else text

    @property
    def rank(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def numpy(self) -> np.dtype:
        """The numpy dtype of the elements."""
        return NUMPY[self.dtype]

    @property
    def elements(self) -> Dim:
        """Number of logical elements."""
        return product(self.shape)

    @property
    def static(self) -> bool:
        """Whether the shape has no symbols."""
        return is_static(self.shape)

    @property
    def physical(self) -> Shape:
        """The shape in memory."""
        return self.layout.physical(self.shape)

    @property
    def nbytes(self) -> Dim:
        """Bytes in memory, padding of blocks included."""
        return product((*self.physical, self.numpy.itemsize))

    @property
    def plain(self) -> Type:
        """The same type in row-major layout."""
        return replace(self, layout=PLAIN) if self.layout else self

    def lies_as(self, layout: Layout) -> bool:
        """Whether the bytes in another layout would be the same, so that a change of layout moves nothing."""
        return self.layout == layout or self.layout.order(self.shape) == layout.order(self.shape)

    def with_(self, *, dtype: str | None = None, shape: Shape | None = None, layout: Layout | None = None) -> Type:
        """The type with some fields replaced."""
        return Type(
            self.dtype if dtype is None else dtype,
            self.shape if shape is None else shape,
            self.layout if layout is None else layout,
        )

    @staticmethod
    def of(array: np.ndarray) -> Type:
        """The type of a numpy array."""
        return Type(short_name(array.dtype), tuple(array.shape))
