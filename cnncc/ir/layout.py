"""Physical layouts: which axes of a value are split into blocks that lie innermost.

A type keeps its logical shape; the layout says how the elements lie in memory. Layouts print as oneDNN's neutral
tags: axes are the letters a, b, c, ... in order, an upper-case letter is a blocked axis, and the blocks follow,
outermost first. NCHW16c is ``aBcd16b``; OIHW16i16o is ``ABcd16b16a``. Blocked axes are padded with zeros up to a
whole number of blocks.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cnncc.errors import GraphError

_BLOCK = re.compile(r"(\d+)([a-z])")


@dataclass(frozen=True)
class Layout:
    """Blocks as (axis, factor), outermost first; an axis is blocked at most once. No blocks: row-major."""

    blocks: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        if len({axis for axis, _ in self.blocks}) != len(self.blocks) or any(f < 2 for _, f in self.blocks):
            raise GraphError(f"a layout blocks each axis at most once, by at least 2, got {self.blocks}")

    def __bool__(self) -> bool:
        return bool(self.blocks)

    def factor(self, axis: int) -> int:
        """The block of an axis, 1 where it is not blocked."""
        return dict(self.blocks).get(axis, 1)

    def physical(self, shape: Sequence[Any]) -> tuple[Any, ...]:
        """Logical shape --> shape in memory: outer extents (blocked axes divided, rounded up), then the blocks."""
        outer = [-(-d // self.factor(a)) if self.factor(a) > 1 else d for a, d in enumerate(shape)]
        return (*outer, *(f for _, f in self.blocks))

    def order(self, shape: Sequence[Any]) -> tuple[tuple[int, Any], ...]:
        """What the memory runs through, outermost first, as (axis, extent): layouts of one order differ in no byte.

        (n, 32, 1, 1) has one order as NCHW and as NCHW16c: ((0, n), (1, 32)).
        """
        axes = (*range(len(shape)), *(axis for axis, _ in self.blocks))
        runs: list[tuple[int, Any]] = []
        for axis, extent in zip(axes, self.physical(shape), strict=True):
            if runs and runs[-1][0] == axis:
                runs[-1] = (axis, runs[-1][1] * extent)
            elif extent != 1:
                runs.append((axis, extent))
        return tuple(runs)

    def index(self, logical: Sequence[Any]) -> tuple[Any, ...]:
        """Logical index --> index in memory; works on Python integers and on symbolic (TVM) expressions."""
        outer = [i // self.factor(a) if self.factor(a) > 1 else i for a, i in enumerate(logical)]
        return (*outer, *(logical[a] % f for a, f in self.blocks))

    def logical(self, physical: Sequence[Any], rank: int) -> tuple[Any, ...]:
        """Index in memory --> logical index, the inverse of `index` (it may fall into the padding)."""
        inner = {axis: physical[rank + k] for k, (axis, _) in enumerate(self.blocks)}
        return tuple(physical[a] * self.factor(a) + inner[a] if a in inner else physical[a] for a in range(rank))

    def pack(self, array: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """Array of the logical shape --> contiguous array of the physical shape, padding filled with zeros.

        `out` takes the result; left out, it is a fresh array, or the given one where that is packed already.
        """
        if out is None:
            if not self.blocks:
                return np.asarray(array, order="C")
            out = np.empty(self.physical(array.shape), array.dtype)
        pad = [(0, -extent % self.factor(a)) for a, extent in enumerate(array.shape)]
        if any(p for _, p in pad):
            array = np.pad(array, pad)
        split: list[int] = []
        at: dict[int, int] = {}
        outer: list[int] = []
        for axis, extent in enumerate(array.shape):
            outer.append(len(split))
            f = self.factor(axis)
            split.append(extent // f)
            if f > 1:
                at[axis] = len(split)
                split.append(f)
        order = [*outer, *(at[a] for a, _ in self.blocks)]
        out[...] = array.reshape(split).transpose(order)
        return out

    def unpack(self, array: np.ndarray, shape: Sequence[int]) -> np.ndarray:
        """Inverse of `pack`: physical array --> array of the given logical shape."""
        if not self.blocks:
            return array.reshape(shape)
        rank = len(shape)
        place = {axis: rank + k for k, (axis, _) in enumerate(self.blocks)}
        order = [p for a in range(rank) for p in ((a, place[a]) if a in place else (a,))]
        padded = [array.shape[a] * self.factor(a) for a in range(rank)]
        whole = array.transpose(order).reshape(padded)
        return np.ascontiguousarray(whole[tuple(slice(0, d) for d in shape)])

    def tag(self, rank: int) -> str:
        """The layout as text, e.g. ``aBcd16b`` for rank 4."""
        blocked = {a for a, _ in self.blocks}
        letters = "".join(chr(ord("A" if a in blocked else "a") + a) for a in range(rank))
        return letters + "".join(f"{f}{chr(ord('a') + a)}" for a, f in self.blocks)

    @staticmethod
    def parse(tag: str) -> Layout:
        """Inverse of `tag`. Raises GraphError where the text is not a tag."""
        match = re.fullmatch(r"([A-Za-z]+?)((?:\d+[a-z])*)", tag)
        blocks = (
            tuple((ord(letter) - ord("a"), int(f)) for f, letter in _BLOCK.findall(match.group(2))) if match else ()
        )
        layout = Layout(blocks)
        if match is None or layout.tag(len(match.group(1))) != tag:
            raise GraphError(f"layout tag must look like aBcd16b (axes in order, blocked ones upper-case), got {tag!r}")
        return layout


PLAIN = Layout()


def channels(block: int) -> Layout:
    """Activations with axis 1 in blocks: NCHW{block}c."""
    return Layout(((1, block),)) if block > 1 else PLAIN
