"""Einsum of one or two operands (more: from the left), as sums, transposes and one matmul."""

from __future__ import annotations

from collections.abc import Sequence

from cnncc.edges.onnx_import.context import Call, Results
from cnncc.ir.dims import Dim, product
from cnncc.ir.graph import Value


def einsum(n: Call) -> Results:
    """Einsum without repeated letters in one operand (diagonals)."""
    values = n.values()
    inputs, output = _parse(n, n.attr_str("equation"), [v.type.rank for v in values])
    sizes: dict[str, Dim] = {}
    for letters, v in zip(inputs, values, strict=True):
        if len(set(letters)) != len(letters):
            n.unsupported("a letter twice in one operand (a diagonal)")
        for letter, d in zip(letters, v.type.shape, strict=True):
            n.equate(sizes.setdefault(letter, d), d, f"sizes of '{letter}'")
    total, letters = values[0], inputs[0]
    for i, (value, theirs) in enumerate(zip(values[1:], inputs[1:], strict=True)):
        needed = set(output).union(*inputs[i + 2 :])
        total, letters = _pair(n, total, letters, value, theirs, needed, sizes)
    total, letters = _sum_away(n, total, letters, set(output))
    return n.transpose(total, [letters.index(c) for c in output])


def _parse(n: Call, equation: str, ranks: Sequence[int]) -> tuple[list[str], str]:
    """Letters of each operand and of the result; an ellipsis becomes capital Greek letters."""
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    if len(terms) != len(ranks):
        n.fail(f"the equation must have {len(ranks)} operands, got {equation!r}")
    counts = [rank - len(t.replace("...", "")) if "..." in t else 0 for t, rank in zip(terms, ranks, strict=True)]
    hidden = "".join(chr(0x391 + i) for i in range(max(counts, default=0)))
    if any(c < 0 for c in counts) or len({c for c, t in zip(counts, terms, strict=True) if "..." in t}) > 1:
        n.unsupported(f"the equation {equation!r}: ellipses of different ranks")
    terms = [t.replace("...", hidden) for t in terms]
    if any(len(t) != rank for t, rank in zip(terms, ranks, strict=True)):
        n.fail(f"the equation must name every axis, got {equation!r} for ranks {tuple(ranks)}")
    letters = "".join(terms)
    if arrow:
        output = right.replace("...", hidden)
    else:
        output = hidden + "".join(sorted(c for c in set(letters) - set(hidden) if letters.count(c) == 1))
    if set(output) - set(letters) or len(set(output)) != len(output):
        n.fail(f"letters of the result must occur in the operands, each once, got {equation!r}")
    return terms, output


def _sum_away(n: Call, x: Value, letters: str, keep: set[str]) -> tuple[Value, str]:
    axes = tuple(i for i, c in enumerate(letters) if c not in keep)
    if not axes:
        return x, letters
    return n.op("reduce_sum", x, axes=axes, keepdims=False), "".join(c for c in letters if c in keep)


def _pair(n: Call, x: Value, a: str, y: Value, b: str, needed: set[str], sizes: dict[str, Dim]) -> tuple[Value, str]:
    """One product: letters in both are batch axes if they are needed later, otherwise summed over."""
    x, a = _sum_away(n, x, a, needed | set(b))
    y, b = _sum_away(n, y, b, needed | set(a))
    batch = [c for c in a if c in b and c in needed]
    inner = [c for c in a if c in b and c not in needed]
    rows, columns = [c for c in a if c not in b], [c for c in b if c not in a]

    def arrange(v: Value, letters: str, groups: Sequence[Sequence[str]]) -> Value:
        order = [c for g in groups for c in g]
        moved = n.transpose(v, [letters.index(c) for c in order])
        return n.reshape(moved, (*(sizes[c] for c in groups[0]), *(product(sizes[c] for c in g) for g in groups[1:])))

    left, right = arrange(x, a, (batch, rows, inner)), arrange(y, b, (batch, inner, columns))
    result = n.op("matmul", left, right) if inner else n.op("mul", left, right)
    order = [*batch, *rows, *columns]
    return n.reshape(result, tuple(sizes[c] for c in order)), "".join(order)
