"""Where batches come from: arrays, folders of images, loaders and generators, all seen as one thing.

Which samples make batch k of epoch e depends on the seed, e and k alone, so a run that is resumed in the middle of an
epoch sees the batches that it would have seen.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from math import ceil
from typing import Any, Protocol

import numpy as np

from cnncc.errors import GraphError
from cnncc.runtime.arena import empty
from cnncc.train.augment import Transform, apply, describe

Batch = tuple[Any, Any]  # arrays; or tuples, dicts by name, None where a step takes them
SHUFFLE, AUGMENT = 0, 1  # streams of random numbers of one seed


class Data(Protocol):
    """Batches of an epoch. `length` batches and `samples` in total, None where that is not known beforehand."""

    length: int | None
    samples: int | None

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch (from 0), without the first `start` of them."""
        ...

    def describe(self) -> dict[str, Any]:
        """What must be equal for a run to be resumed with this data."""
        ...


class Samples(Protocol):
    """Numbered samples, such as an ImageFolder."""

    def __len__(self) -> int: ...

    def read(self, indices: np.ndarray) -> Batch:
        """The samples of these numbers, as fresh arrays x [n, ...] and y [n, ...]."""
        ...


class Arrays:
    """Samples in memory: x [n, ...] and y [n, ...]; each may be several arrays, as a tuple or a dict, y also None."""

    def __init__(self, x: Any, y: Any):
        self.x, self.y = _arrays(x, "x"), _arrays(y, "y")
        self._members = [*members(self.x), *members(self.y)]
        lengths = {a.shape[0] if a.ndim else None for a in self._members}
        if len(lengths) != 1 or None in lengths:
            shapes = " and ".join(str(a.shape) for a in self._members)
            raise GraphError(f"data: x and y must have as many samples, got shapes {shapes}")
        if not len(self):
            raise GraphError("data: there must be at least one sample, got none")

    def __len__(self) -> int:
        return len(self._members[0])

    def read(self, indices: np.ndarray) -> Batch:
        """Copies of some samples, aligned so that kernels read them in place."""
        return _each(self.x, lambda a: _take(a, indices)), _each(self.y, lambda a: _take(a, indices))

    def fingerprint(self) -> int:
        """Of shapes, types, and some samples: to notice that a run is resumed with other data."""
        places = np.linspace(0, len(self) - 1, min(len(self), 16)).astype(int)
        total = zlib.crc32(repr([(a.shape, a.dtype.str) for a in self._members]).encode())
        for array in self._members:
            total = zlib.crc32(array[places].tobytes(), total)
        return total

    def split(self, fraction: float, seed: int) -> tuple[Arrays, Arrays]:
        """The samples but a random `fraction` of them, and that fraction."""
        held = round(len(self) * fraction)
        if not 0 < held < len(self):
            raise GraphError(f"validation: a fraction must leave samples on both sides, got {fraction} of {len(self)}")
        order = np.random.default_rng([seed, SHUFFLE]).permutation(len(self))
        return self._part(order[held:]), self._part(order[:held])

    def _part(self, indices: np.ndarray) -> Arrays:
        return Arrays(*(_each(side, lambda a: a[indices]) for side in (self.x, self.y)))


class Indexed:
    """Batches of numbered samples, shuffled anew every epoch. The last batch may be smaller."""

    def __init__(
        self,
        source: Samples,
        batch: int,
        seed: int = 0,
        transforms: Sequence[Transform] = (),
        training: bool = True,
    ):
        if batch < 1:
            raise GraphError(f"batch must be at least 1, got {batch}")
        self.source, self.batch, self.seed = source, batch, seed
        self.transforms, self.training = transforms, training
        self.samples: int | None = len(source)
        self.length: int | None = ceil(len(source) / batch)

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """See Data. Validation data (`training` False) comes in its own order."""
        count = len(self.source)
        order = np.arange(count)
        if self.training:
            order = np.random.default_rng([self.seed, SHUFFLE, epoch]).permutation(count)
        for k in range(start, ceil(count / self.batch)):
            x, y = self.source.read(order[k * self.batch : (k + 1) * self.batch])
            yield apply(self.transforms, (self.seed, AUGMENT, epoch, k), self.training, x, y)

    def describe(self) -> dict[str, Any]:
        """See Data."""
        own = {"fingerprint": self.source.fingerprint()} if isinstance(self.source, Arrays) else {}
        settings = {"samples": self.samples, "batch": self.batch, "seed": self.seed}
        return {**settings, **own, "augment": describe(self.transforms)}


class Loader:
    """Batches of an iterable (a torch DataLoader, a list), or of a function epoch -> iterable.

    A resumed run skips the batches it has had, so the iterable must give the same ones again; a function of the epoch
    can. An iterator (a generator that was called already) gives one epoch only.
    """

    def __init__(
        self,
        source: Iterable[Any] | Callable[[int], Iterable[Any]],
        seed: int = 0,
        transforms: Sequence[Transform] = (),
        training: bool = True,
    ):
        self.source, self.seed, self.transforms, self.training = source, seed, transforms, training
        self.length: int | None = _length(source)
        self.samples: int | None = _length(getattr(source, "dataset", None))
        self._spent: int | None = None

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """See Data. Raises GraphError where the source is exhausted or gives something else than pairs."""
        if callable(self.source) and not hasattr(self.source, "__iter__"):
            found = iter(self.source(epoch))
        else:
            found = iter(self.source)
            if found is self.source:
                if self._spent not in (None, epoch):
                    raise GraphError(
                        "data: an iterator gives one epoch only; give a function epoch -> iterable, or a list"
                    )
                self._spent = epoch
        for k, pair in enumerate(islice(found, start, None), start):
            if not isinstance(pair, (tuple, list)) or len(pair) != 2:
                size = f" of {len(pair)}" if isinstance(pair, (tuple, list)) else ""
                raise GraphError(f"data: a batch must be a pair (x, y), got {type(pair).__name__}{size} at batch {k}")
            x, y = _arrays(pair[0], "x"), _arrays(pair[1], "y")
            yield apply(self.transforms, (self.seed, AUGMENT, epoch, k), self.training, x, y)

    def describe(self) -> dict[str, Any]:
        """See Data."""
        return {"batches": self.length, "seed": self.seed, "augment": describe(self.transforms)}


def as_data(given: Any, batch: int, seed: int = 0, transforms: Sequence[Transform] = (), training: bool = True) -> Data:
    """What `fit` was given as data --> batches. `batch` is for numbered samples; loaders have batches of their own.

    given: (x, y) arrays, an ImageFolder (or anything with len() and read(indices)), an iterable of (x, y) batches,
    or a function epoch -> such an iterable. Raises GraphError for anything else.
    """
    if isinstance(given, (Indexed, Loader)):
        return given
    if is_pair(given):
        given = Arrays(*given)
    if hasattr(given, "read") and hasattr(given, "__len__"):
        return Indexed(given, batch, seed, transforms, training)
    if callable(given) or hasattr(given, "__iter__"):
        return Loader(given, seed, transforms, training)
    raise GraphError(
        "data must be a pair of arrays (x, y), an ImageFolder, an iterable of batches (x, y) such as a torch "
        f"DataLoader, or a function epoch -> iterable, got {type(given).__name__}"
    )


def is_pair(given: Any) -> bool:
    """Whether data is (x, y) in memory: arrays, or a tuple or dict of them on a side.

    Two tuples are two batches, as in a list: where there are several inputs and several targets one must be a dict.
    """
    if not isinstance(given, (tuple, list)) or len(given) != 2:
        return False
    if all(isinstance(side, (tuple, list)) for side in given):
        return False
    first = members(given[0])
    return bool(first) and all(hasattr(a, "shape") for a in first)


def as_array(value: Any, what: str) -> np.ndarray:
    """An array of numpy, torch (on the CPU) or anything else numpy understands. Doubles of Python lists become f32."""
    if hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    listed = not hasattr(value, "dtype")
    array = np.asarray(value)
    if array.dtype.kind not in "fiub":
        raise GraphError(f"data: {what} must hold numbers, got {array.dtype}")
    return array.astype(np.float32) if listed and array.dtype == np.float64 else array


def _length(value: Any) -> int | None:
    try:
        return len(value)
    except TypeError:  # a torch DataLoader has __len__, which raises where its dataset has none
        return None


def _each(value: Any, change: Callable[[np.ndarray], np.ndarray]) -> Any:
    """One side of a batch with every array changed."""
    if value is None:
        return None
    if isinstance(value, Mapping):
        return {name: change(v) for name, v in value.items()}
    return tuple(map(change, value)) if isinstance(value, tuple) else change(value)


def _arrays(value: Any, what: str) -> Any:
    """One array, or several as a training step takes them."""
    if value is None:
        return None
    if isinstance(value, Mapping):
        return {name: as_array(v, what) for name, v in value.items()}
    if isinstance(value, (tuple, list)) and any(getattr(v, "ndim", 0) for v in value):
        return tuple(as_array(v, what) for v in value)
    return as_array(value, what)


def members(value: Any) -> list[np.ndarray]:
    """The arrays of one side of a batch."""
    if value is None:
        return []
    if isinstance(value, Mapping):
        return list(value.values())
    return list(value) if isinstance(value, tuple) else [value]


def count_samples(x: Any) -> int:
    """How many samples a batch has."""
    return len(members(x)[0])


def _take(array: np.ndarray, indices: np.ndarray) -> np.ndarray:
    out = empty((len(indices), *array.shape[1:]), array.dtype)
    np.take(array, indices, axis=0, out=out, mode="clip")  # the indices are in range; "raise" would copy twice
    return out
