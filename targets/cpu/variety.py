"""The order in which tiles are worth measuring."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def varied(tiles: Iterable[T], seconds: Callable[[T], float], kind: Callable[[T], Hashable]) -> Iterator[T]:
    """Tiles by modelled time: the best of every kind, then the second of every kind, and so on.

    The model errs alike on tiles of one kind, so the first of many kinds tell more than many of the first kind.
    """
    rank: dict[Hashable, int] = {}
    ordered: list[tuple[int, float, int, T]] = []
    for modelled, _, tile in sorted((seconds(tile), k, tile) for k, tile in enumerate(tiles)):
        place = rank[kind(tile)] = rank.get(kind(tile), -1) + 1
        ordered.append((place, modelled, len(ordered), tile))
    ordered.sort(key=lambda entry: entry[:3])
    return iter([tile for *_, tile in ordered])
