"""Innermost loops in the assembly of a kernel, and what stands in them. For x86-64 (AT&T syntax) and aarch64."""

from __future__ import annotations

import re
from dataclasses import dataclass

_LABEL = re.compile(r"^(\.LBB\w+):")
_JUMP = re.compile(r"^\s+(?:j\w+\s+|b(?:\.\w+)?\s+|cbn?z\s+\w+,\s*|tbn?z\s+\w+,\s*#?\w+,\s*)(\.LBB\w+)")
_FUSED = re.compile(r"^\s+(?:vfn?m(?:add|sub)\w+p[sd]|fml[as])\s")
_MULTIPLY = re.compile(r"^\s+(?:v?mulps|fmul(?=\s+v)|vfn?m(?:add|sub)\w+ps|fml[as])\s")
_SCALAR = re.compile(r"^\s+(?:v?mulss|vfn?m(?:add|sub)\w+ss|fmadd|fmul\s+s\d)")
# At a constant offset from the stack pointer: where LLVM keeps what no register is free for. Scratch is indexed.
_STACK = re.compile(r"(?<![\w)])-?\d*\(%rsp\)|\[sp(?:, #-?\d+)?\]")
# One element for all lanes, from memory; constants are read relative to the instruction pointer.
_BROADCAST = re.compile(
    r"vbroadcastss\s+-?\w*\(%(?!rip|rsp\))|\{1to\d+\}|\sshufps\s+\$0|\spshufd\s+\$0|\sld1r|\.s\[\d\]|dup\s+v\d+\.4s"
)


@dataclass(frozen=True)
class Loop:
    """An innermost loop: its vector multiplications by register kind, how many of them add too, scalar
    multiplications, elements broadcast from memory, and accesses to the stack's spill slots."""

    multiplies: dict[str, int]
    fused: int
    scalar: int
    broadcasts: int
    spills: int
    lines: tuple[str, ...]

    @property
    def total(self) -> int:
        """Vector multiplications."""
        return sum(self.multiplies.values())


def inner_loops(assembly: str) -> list[Loop]:
    """The loops that hold no other loop, in order."""
    lines = assembly.splitlines()
    labels = {m.group(1): k for k, line in enumerate(lines) if (m := _LABEL.match(line))}
    jumps = [(labels.get(m.group(1), len(lines)), k) for k, line in enumerate(lines) if (m := _JUMP.match(line))]
    back = sorted({(first, last) for first, last in jumps if first <= last})
    inner = [a for a in back if not any(a != b and a[0] <= b[0] and b[1] <= a[1] for b in back)]
    return [_read(tuple(lines[first : last + 1])) for first, last in inner]


def _read(lines: tuple[str, ...]) -> Loop:
    multiplies = [line for line in lines if _MULTIPLY.match(line)]
    kinds = {kind: sum(kind in line for line in multiplies) for kind in ("zmm", "ymm", "xmm", ".4s")}

    def count(pattern: re.Pattern[str]) -> int:
        return sum(bool(pattern.search(line)) for line in lines)

    return Loop(
        {kind: n for kind, n in kinds.items() if n},
        count(_FUSED),
        count(_SCALAR),
        count(_BROADCAST),
        count(_STACK),
        lines,
    )
