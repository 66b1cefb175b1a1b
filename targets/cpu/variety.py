"""Tiles by modelled time: the best one, and the order in which others are worth measuring."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Any, TypeVar

from cnncc.errors import UnsupportedError
from cnncc.targets.target import Target

T = TypeVar("T")


def least(tiles: Iterable[T], seconds: Callable[[T], float]) -> T | None:
    """The tile of least modelled time, the first of equals; None where there are none."""
    return min(tiles, key=seconds, default=None)


def tiles_or_error(
    name: str, best: Callable[[Any, Target], T | None], applies: Callable[[Any, Target], str | None]
) -> Callable[[Any, Target], T]:
    """An algorithm's `tiles_for`: its best tile; UnsupportedError with the reason where there is none."""

    def tiles_for(problem: Any, target: Target) -> T:
        tile = best(problem, target)
        if tile is None:
            raise UnsupportedError(f"{problem}: {name}: {applies(problem, target)}")
        return tile

    return tiles_for


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
