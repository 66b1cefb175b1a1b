"""Names that are not taken yet."""

from __future__ import annotations


def unused_name(hint: str, taken: set[str]) -> str:
    """The hint, or the hint with a number; taken from now on."""
    name, k = hint, 1
    while name in taken:
        k += 1
        name = f"{hint}_{k}"
    taken.add(name)
    return name
