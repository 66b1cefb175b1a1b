"""Lines of the tuning database, strictly checked.

A line is one JSON object. `setting` lines say, once, what measurements depend on besides the kernel: the machine, the
versions, the accuracy policy; the others name their setting by its digest. `trial` lines are single measurements (so
that tuning goes on where it was stopped), `verdict` lines what compilations look up: the last one of a kernel counts.
Every line ends with a digest of the rest.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any

from cnncc.errors import ModelFileError

FORMAT = 1
Pairs = tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class Setting:
    """What a measurement depends on besides the kernel."""

    machine: str
    versions: str
    accuracy: str

    @property
    def digest(self) -> str:
        """The name of the setting in other lines."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Choice:
    """An algorithm with a tile record (as pairs of a name and a value)."""

    algorithm: str
    tile: Pairs = ()

    def __str__(self) -> str:
        return " ".join([self.algorithm, *(f"{k}={_short(v)}" for k, v in self.tile)])


@dataclass(frozen=True)
class Trial:
    """One measurement: seconds, or the reason why there are none."""

    setting: str
    problem: str
    region: str
    choice: Choice
    seconds: float | None
    failure: str = ""


@dataclass(frozen=True)
class Measured:
    """An algorithm of a verdict, with its best tile. `modelled`: its seconds by the cost model. `gain`: how many times
    faster than the default it ran in turn with it, as (low, middle, high). `kept`: faster beyond noise."""

    choice: Choice
    seconds: float
    modelled: float
    gain: tuple[float, float, float]
    kept: bool


@dataclass(frozen=True)
class Verdict:
    """What tuning a kernel found: the default first, then other choices. `tried`: how many choices were measured."""

    setting: str
    problem: str
    region: str
    choices: tuple[Measured, ...]
    tried: int

    @property
    def default(self) -> Measured:
        """What compilations take without tuning."""
        return self.choices[0]

    def of(self, algorithm: str) -> Measured | None:
        """What is known of an algorithm: what was kept, else what was measured first."""
        found = [c for c in self.choices if c.choice.algorithm == algorithm]
        return min((c for c in found if c.kept), key=lambda c: c.seconds, default=found[0] if found else None)

    @property
    def best(self) -> Measured:
        """The fastest of what was kept, or the default."""
        return min((c for c in self.choices if c.kept), key=lambda c: c.seconds, default=self.default)


Record = Setting | Trial | Verdict


def encode(record: Record) -> str:
    """A record as a line, without its end."""
    data: dict[str, Any] = {"cnncc-tuning": FORMAT, "kind": type(record).__name__.lower(), **asdict(record)}
    text = json.dumps(data, separators=(",", ":"))
    return f'{text[:-1]},"check":"{_check(text)}"}}'


def decode(line: str) -> Record:
    """Inverse of `encode`. Raises ModelFileError saying what is wrong with the line."""
    try:
        data = json.loads(line)
    except ValueError:
        raise ModelFileError("it is not JSON") from None
    if not isinstance(data, dict):
        raise ModelFileError(f"it must be an object, got {type(data).__name__}")
    version = data.pop("cnncc-tuning", None)
    if version != FORMAT:
        raise ModelFileError(f"its version must be {FORMAT}, got {version!r}")
    head, mark, check = line.rpartition(',"check":"')
    if not mark or check != f'{_check(head + "}")}"}}':
        raise ModelFileError("its digest does not fit: it is damaged, or was changed by hand")
    data.pop("check")
    kind = data.pop("kind", None)
    try:
        record: Record = _READERS[kind](data)
        return record
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ModelFileError(f"it is not a {kind} record: {type(error).__name__}: {error}") from None


def _check(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _setting(data: dict[str, Any]) -> Setting:
    return Setting(**{name: _text(value) for name, value in data.items()})


def _trial(data: dict[str, Any]) -> Trial:
    seconds = data.pop("seconds")
    choice = _choice(data.pop("choice"))
    return Trial(choice=choice, seconds=None if seconds is None else _positive(seconds), **_texts(data))


def _verdict(data: dict[str, Any]) -> Verdict:
    choices = tuple(map(_measured, data.pop("choices")))
    tried = data.pop("tried")
    if not choices or type(tried) is not int or tried < 1:
        raise ValueError(f"there must be choices, got {len(choices)} of {tried!r} tried")
    return Verdict(choices=choices, tried=tried, **_texts(data))


def _measured(data: dict[str, Any]) -> Measured:
    low, middle, high = map(_positive, data.pop("gain"))
    kept = data.pop("kept")
    if type(kept) is not bool:
        raise ValueError(f"kept must be a truth value, got {kept!r}")
    return Measured(_choice(data.pop("choice")), gain=(low, middle, high), kept=kept, **_numbers(data))


def _choice(data: dict[str, Any]) -> Choice:
    pairs = []
    for name, value in data.pop("tile"):
        items = value if isinstance(value, list) else [value]
        if any(type(v) not in (int, str, bool) for v in items):
            raise ValueError(f"a tile holds numbers, texts and truth values, got {value!r}")
        pairs.append((_text(name), tuple(value) if isinstance(value, list) else value))
    return Choice(tile=tuple(pairs), **_texts(data))


def _texts(data: dict[str, Any]) -> dict[str, str]:
    return {name: _text(value) for name, value in data.items()}


def _numbers(data: dict[str, Any]) -> dict[str, float]:
    return {name: _positive(value) for name, value in data.items()}


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"expected a text, got {value!r}")
    return value


def _positive(value: Any) -> float:
    if type(value) not in (int, float) or not 0 < value < float("inf"):
        raise ValueError(f"expected a number above 0, got {value!r}")
    return float(value)


def _short(value: Any) -> str:
    return "x".join(map(str, value)) if isinstance(value, tuple) else str(value)


_READERS: dict[Any, Any] = {"setting": _setting, "trial": _trial, "verdict": _verdict}
