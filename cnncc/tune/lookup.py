"""What passes ask of the tuning database: how long an algorithm takes for a kernel, and its tile record."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from statistics import median
from typing import Any

from cnncc.errors import ModelFileError
from cnncc.ir.graph import Graph
from cnncc.passes.tiles import tile_pairs
from cnncc.targets.algorithm import Algorithm
from cnncc.targets.table import registered
from cnncc.targets.target import Target
from cnncc.tune.database import Contents, Database, default_path, find_setting
from cnncc.tune.records import Measured, Pairs, Verdict
from cnncc.tune.region import kernel_name

_log = logging.getLogger("cnncc")
WORSE = 1.001  # times the default: what counts as slower than it


class Tuning:
    """The verdicts of one setting. Compilations with equal contents decide alike."""

    def __init__(self, contents: Contents) -> None:
        self._verdicts = contents.verdicts
        ratios = [v.default.seconds / v.default.modelled for v in contents.verdicts.values()]
        self._scale = median(ratios) if ratios else 1.0

    def known(self, body: Graph) -> bool:
        """Whether a kernel was tuned (it may have kept its default)."""
        return kernel_name(body) in self._verdicts

    def seconds(self, body: Graph, algorithm: str, modelled: float) -> float:
        """The time of a kernel with an algorithm: measured where it was, else modelled.

        It is in the cost model's measure: divided by how much slower than modelled this machine runs kernels, so that
        it stands beside the modelled times of other kernels and of layout changes. What did not beat the default beyond
        noise counts as slower than that; what was not measured is to the default as the model says.
        """
        verdict = self._verdict(body)
        if verdict is None:
            return modelled
        default, found = verdict.default, verdict.of(algorithm)
        if found is None:
            return modelled * default.seconds / default.modelled / self._scale
        worse = found is not default and not found.kept
        return max(found.seconds, WORSE * default.seconds if worse else 0.0) / self._scale

    def tile(self, body: Graph, algorithm: Algorithm, problem: Any, target: Target) -> Pairs | None:
        """The tile record that a kernel was tuned to, None where the default's stays.

        A record that is no tile of the algorithm is reported and not used.
        """
        verdict = self._verdict(body)
        found = verdict.of(algorithm.name) if verdict is not None else None
        return _checked(found, algorithm, problem, target) if found is not None and found.kept else None

    def _verdict(self, body: Graph) -> Verdict | None:
        name = kernel_name(body)
        return None if name is None else self._verdicts.get(name)


def _checked(found: Measured, algorithm: Algorithm, problem: Any, target: Target) -> Pairs | None:
    """The tile of a record, if it is a tile of the algorithm.

    A record is for these very sources, so its form tells; those of algorithms from outside may have changed since.
    """
    pairs = found.choice.tile
    default = tile_pairs(algorithm.tiles_for(problem, target))
    fits = _form(pairs) == _form(default)
    if fits and pairs != default and algorithm in registered():
        tiles = algorithm.candidates(problem, target) if algorithm.candidates is not None else iter(())
        fits = any(pairs == tile_pairs(tile) for tile in tiles)
    if not fits:
        _log.warning("tuning database: %s has no tile %s; the default is used", problem, found.choice)
    return pairs if fits else None


def _form(pairs: Pairs) -> list[Any]:
    """Names and types of a tile record's fields, with the lengths of tuples."""
    return [(name, [type(v) for v in value] if isinstance(value, tuple) else type(value)) for name, value in pairs]


def find_tuning(tuning: str | os.PathLike[str] | None, target: Target, accuracy: str) -> Tuning | None:
    """The lookup that a compilation asks for: None is the user's database where there is one, "off" is none, anything
    else a file, which must exist.

    Raises ModelFileError where that file does not exist or cannot be read.
    """
    if tuning == "off" or target.kind != "cpu":
        return None
    path = default_path() if tuning is None else Path(tuning)
    if path is None or not path.is_file():
        if tuning is not None:
            raise ModelFileError(f"{path}: there is no such tuning database")
        return None
    try:
        return Tuning(Database(path).read(find_setting(target, accuracy), trials=False))
    except ModelFileError as error:
        if tuning is not None:
            raise
        _log.warning("%s; compiling without it", error)
        return None
