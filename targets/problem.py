"""Problems: frozen one-line descriptors, all that crosses from the graph to a target.

The text of a problem is cache key, benchmark input, test name and bug report at once.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar

from cnncc.errors import GraphError

# The batch that decisions assume where it is symbolic: 1 to 64 then run at 93 percent of the fixed speed or more.
HINT = 4
_SPATIAL = {1: "w", 2: "hw", 3: "dhw"}


@dataclass(frozen=True)
class PoolBehind:
    """A max pool of a convolution's results, made in the same kernel: its window, steps, padding at the begin of each
    axis, and output sizes (which say how far it reaches at the end)."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    begin: tuple[int, ...]
    out: tuple[int, ...]

    def __str__(self) -> str:
        kernel, strides, begin, out = ("x".join(map(str, t)) for t in (self.kernel, self.strides, self.begin, self.out))
        return f"max{kernel}/{strides}-{begin}->{out}"

    @staticmethod
    def parse(text: str) -> PoolBehind:
        """Inverse of `str`. Raises ValueError where the text is not of that form."""
        parts = re.fullmatch(r"max([\dx]+)/([\dx]+)-([\dx]+)->([\dx]+)", text)
        if parts is None:
            raise ValueError(f"{text!r} is not a max pool")
        return PoolBehind(*(tuple(map(int, part.split("x"))) for part in parts.groups()))


@dataclass(frozen=True)
class ConvProblem:
    """A convolution of spatial rank 1 to 3. `n` is the name of a symbol where the batch is symbolic; then `hint` is
    the batch that decisions assume. `pads` are begin per spatial axis, then end per spatial axis. Cross-correlation.
    `behind`: the kernel's result is a max pool of the convolution's."""

    n: int | str
    ic: int
    oc: int
    size: tuple[int, ...]
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    pads: tuple[int, ...]
    dilations: tuple[int, ...]
    groups: int = 1
    dtype: str = "f32"
    hint: int = HINT
    behind: PoolBehind | None = None

    @property
    def rank(self) -> int:
        """Number of spatial axes."""
        return len(self.size)

    @property
    def batch(self) -> int:
        """The batch that decisions assume."""
        return self.n if isinstance(self.n, int) else self.hint

    @cached_property
    def out(self) -> tuple[int, ...]:
        """Spatial output sizes."""
        r = self.rank
        return tuple(
            (self.size[i] + self.pads[i] + self.pads[r + i] - self.dilations[i] * (self.kernel[i] - 1) - 1)
            // self.strides[i]
            + 1
            for i in range(r)
        )

    @property
    def macs(self) -> int:
        """Multiply-accumulates at the batch that decisions assume."""
        total = self.batch * self.oc * (self.ic // self.groups)
        for extent in (*self.out, *self.kernel):
            total *= extent
        return total

    def __str__(self) -> str:
        r = self.rank
        axes = _SPATIAL[r]
        size = " ".join(f"{a}{d}" for a, d in zip(axes, self.size, strict=True))
        begin, end = self.pads[:r], self.pads[r:]
        parts = [
            f"conv n{self.n} ic{self.ic} {size} oc{self.oc}",
            "k" + "x".join(map(str, self.kernel)),
            "s" + "x".join(map(str, self.strides)),
            "p" + "x".join(map(str, begin)) + ("" if begin == end else ":" + "x".join(map(str, end))),
        ]
        if any(d != 1 for d in self.dilations):
            parts.append("d" + "x".join(map(str, self.dilations)))
        if self.groups != 1:
            parts.append(f"g{self.groups}")
        if self.dtype != "f32":
            parts.append(self.dtype)
        if self.behind is not None:
            parts.append(str(self.behind))
        return " ".join(parts)

    @staticmethod
    def parse(text: str) -> ConvProblem:
        """Inverse of `str`. Raises GraphError where the text is not a convolution problem."""
        words = text.split()
        fields = {"s": "", "p": "", "k": "", "d": "", "g": "1"}
        numbers: dict[str, str] = {}
        dtype = "f32"
        if not words or words[0] != "conv":
            raise GraphError(f"a convolution problem starts with 'conv', got {text!r}")
        for word in words[1:]:
            if word in ("f32", "f64", "f16", "bf16"):
                dtype = word
            elif word.startswith("max"):
                fields["max"] = word
            elif word[:2] in ("ic", "oc"):
                numbers[word[:2]] = word[2:]
            elif word[0] in "nhw" or (word[0] == "d" and "k" not in numbers and not fields["k"]):
                numbers[word[0]] = word[1:]
            elif word[0] in fields:
                fields[word[0]] = word[1:]
            else:
                raise GraphError(f"unknown word {word!r} in problem {text!r}")
        try:
            size = tuple(int(numbers[a]) for a in "dhw" if a in numbers)
            r = len(size)
            begin, _, end = fields["p"].partition(":")
            pads = tuple(map(int, begin.split("x"))) + tuple(map(int, (end or begin).split("x")))
            n = numbers["n"]
            return ConvProblem(
                int(n) if n.isdigit() else n,
                int(numbers["ic"]),
                int(numbers["oc"]),
                size,
                tuple(map(int, fields["k"].split("x"))),
                tuple(map(int, fields["s"].split("x"))),
                pads,
                tuple(map(int, fields["d"].split("x"))) if fields["d"] else (1,) * r,
                int(fields["g"]),
                dtype,
                behind=PoolBehind.parse(fields["max"]) if "max" in fields else None,
            )
        except (KeyError, ValueError) as error:
            raise GraphError(f"not a convolution problem: {text!r} ({error})") from None


@dataclass(frozen=True)
class ConvDwProblem(ConvProblem):
    """The weight gradient of a convolution: its fields are those of the convolution that it belongs to."""

    def __str__(self) -> str:
        return super().__str__().replace("conv", "conv_dw", 1)


FUSED = "fused_pointwise"  # the algorithm for it, which passes/producers.py asks for


@dataclass(frozen=True)
class FusedProblem:
    """A 1x1 convolution and what is computed before it in the same kernel: a depthwise convolution, or (None)
    elementwise operations."""

    conv: ConvProblem
    before: ConvProblem | None = None
    hint: int = HINT

    @property
    def macs(self) -> int:
        """Multiply-accumulates of both at the batch that decisions assume."""
        return sum(replace(p, hint=self.hint).macs for p in (self.conv, self.before) if p is not None)

    def __str__(self) -> str:
        return f"{self.conv} behind {self.before or 'elementwise'}"


@dataclass(frozen=True)
class WinogradWeightsProblem:
    """Weights [oc, ic, *kernel] that are transformed at run time for tiles of `m` outputs."""

    oc: int
    ic: int
    kernel: tuple[int, ...]
    m: int
    dtype: str = "f32"

    def __str__(self) -> str:
        dtype = "" if self.dtype == "f32" else f" {self.dtype}"
        return f"winograd_weights oc{self.oc} ic{self.ic} k{'x'.join(map(str, self.kernel))} m{self.m}{dtype}"


@dataclass(frozen=True)
class MatmulProblem:
    """y[m, n] = sum_k x[m, k] * w[k, n] (or w[n, k] where `transposed`), `batch` times. `m` may be a symbol's name.
    `stacked`: the operands have batch axes, however many; `batch` is what decisions assume of their product."""

    m: int | str
    k: int
    n: int
    transposed: bool = False
    batch: int = 1
    dtype: str = "f32"
    hint: int = HINT
    stacked: bool = False

    @property
    def rows(self) -> int:
        """The number of rows that decisions assume."""
        return self.m if isinstance(self.m, int) else self.hint

    @property
    def macs(self) -> int:
        """Multiply-accumulates at the number of rows that decisions assume."""
        return self.batch * self.rows * self.k * self.n

    def __str__(self) -> str:
        batch = f" b{self.batch}" if self.batch != 1 else ""
        order = " nk" if self.transposed else " kn"
        dtype = "" if self.dtype == "f32" else f" {self.dtype}"
        stacked = " stacked" if self.stacked else ""
        return f"matmul{batch} m{self.m} k{self.k} n{self.n}{order}{dtype}{stacked}"

    @staticmethod
    def parse(text: str) -> MatmulProblem:
        """Inverse of `str`. Raises GraphError where the text is not a matrix product."""
        words = text.split()
        known = {"batch": "1", "dtype": "f32", "transposed": ""}
        names = {"b": "batch", "m": "m", "k": "k", "n": "n"}
        for word in words[1:]:
            if word in ("nk", "kn"):
                known["transposed"] = "yes" if word == "nk" else ""
            elif word == "stacked":
                known["stacked"] = "yes"
            elif word in ("f32", "f64", "f16", "bf16"):
                known["dtype"] = word
            elif word[0] in names:
                known[names[word[0]]] = word[1:]
            else:
                raise GraphError(f"unknown word {word!r} in problem {text!r}")
        try:
            m = known["m"]
            return MatmulProblem(
                int(m) if m.isdigit() else m, int(known["k"]), int(known["n"]), bool(known["transposed"]),
                int(known["batch"]), known["dtype"], stacked="stacked" in known,
            )  # fmt: skip
        except (KeyError, ValueError) as error:
            raise GraphError(f"not a matrix product: {text!r} ({error})") from None


@dataclass(frozen=True)
class MatmulDwProblem:
    """y[m, c] = sum_n a[n, m] * b[n, c]: the weight gradient of a product of matrices. `n` may be a symbol's name."""

    n: int | str
    m: int
    c: int
    dtype: str = "f32"
    hint: int = HINT

    @property
    def terms(self) -> int:
        """The number of terms that decisions assume."""
        return self.n if isinstance(self.n, int) else self.hint

    @property
    def macs(self) -> int:
        """Multiply-accumulates at the number of terms that decisions assume."""
        return self.terms * self.m * self.c

    def __str__(self) -> str:
        return f"matmul_dw n{self.n} m{self.m} c{self.c}" + ("" if self.dtype == "f32" else f" {self.dtype}")


@dataclass(frozen=True)
class PoolProblem:
    """A window reduction (max or average) over spatial axes; geometry as in ConvProblem."""

    KIND: ClassVar[str] = "pool"

    op: str  # "max" or "average"
    n: int | str
    c: int
    size: tuple[int, ...]
    out: tuple[int, ...]
    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    pads: tuple[int, ...]
    dilations: tuple[int, ...]
    include_pad: bool = False
    dtype: str = "f32"
    hint: int = HINT

    def __str__(self) -> str:
        def joined(numbers: tuple[int, ...]) -> str:
            return "x".join(map(str, numbers))

        parts = [
            f"{self.op}_{self.KIND} n{self.n} c{self.c} {joined(self.size)}->{joined(self.out)}",
            f"k{joined(self.kernel)} s{joined(self.strides)} p{joined(self.pads)} d{joined(self.dilations)}",
            *(["include_pad"] if self.include_pad else []),
            *([] if self.dtype == "f32" else [self.dtype]),
        ]
        return " ".join(parts)


@dataclass(frozen=True)
class PoolDxProblem(PoolProblem):
    """The data gradient of a pool: its fields are those of the pool that it belongs to."""

    KIND: ClassVar[str] = "pool_dx"
