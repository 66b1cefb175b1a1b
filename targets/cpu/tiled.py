"""What convolutions on register tiles declare alike: tile, candidates, time, scratch and recipe, by the model in
`tiling`; by `pooled` where a max pool is behind the convolution.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from cnncc.targets.algorithm import Algorithm, Cost
from cnncc.targets.cpu import common, pooled, tiling
from cnncc.targets.cpu.tiling import ConvTile, Reduction
from cnncc.targets.problem import ConvProblem
from cnncc.targets.target import Target


@dataclass(frozen=True)
class Tiled:
    """Of a problem and the channels of a block: `reduction`, what the tile search knows of the loops; `seen`, the
    convolution as its tasks see it, where that is another one."""

    reduction: Callable[[ConvProblem, int], Reduction]
    seen: Callable[[ConvProblem, int], ConvProblem] = lambda problem, block: problem

    def algorithm(self, name: str, **rest: Any) -> Algorithm:
        """The algorithm: what is not given is what this record says."""
        own = {
            "tiles_for": self.tiles_for,
            "candidates": self.candidates,
            "cost": self.cost,
            "scratch": self.scratch,
            "schedule": schedule,
        }
        return Algorithm(name=name, op="conv", **{**own, **rest})

    def tiles_for(self, problem: ConvProblem, target: Target) -> ConvTile:
        """The tile with the least modelled time."""
        choose = tiling.choose if problem.behind is None else pooled.choose
        return choose(self.seen(problem, target.block), target, self.reduction(problem, target.block))

    def candidates(self, problem: ConvProblem, target: Target) -> Iterator[ConvTile]:
        """Tiles worth measuring."""
        candidates = tiling.candidates if problem.behind is None else pooled.candidates
        return candidates(self.seen(problem, target.block), target, self.reduction(problem, target.block))

    def cost(self, problem: ConvProblem, target: Target, tile: ConvTile) -> Cost:
        """Time by the tile model."""
        reduction = self.reduction(problem, tile.block)
        if tile.rows:
            return pooled.cost(problem, target, reduction, tile)
        model = tiling.conv_cost(self.seen(problem, tile.block), target, reduction, tile)
        return replace(model, flops=2.0 * problem.macs)

    def scratch(self, problem: ConvProblem, target: Target, tile: ConvTile) -> int:
        """Bytes of the padded copy of a task's input, and of the rows that a pool behind is made from."""
        copied = tiling.copied(problem, tile.group, self.reduction(problem, tile.block).depth) if tile.copy else 0
        return copied + (pooled.kept(tile.group, tile.vectors, tile.block) if tile.rows else 0)

    def pooled(self, problem: ConvProblem, target: Target) -> str | None:
        """Why the max pool behind cannot be made in the same kernel, or None."""
        return pooled.applies(problem, target, self.reduction(problem, target.block))


def schedule(sch: Any, problem: ConvProblem, tile: ConvTile, target: Target) -> None:
    """Tasks, register tiles, reduction; see `common.schedule_tile`, and `pooled` with a pool behind."""
    (pooled.schedule if tile.rows else common.schedule_tile)(sch, problem, tile)
