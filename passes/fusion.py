"""The kinds of fusion by name: `cnncc.compile(..., without=...)` switches them off, benchmarks measure each alone."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from cnncc.errors import UnsupportedError
from cnncc.ir.graph import Node, Value

KINDS: dict[str, str] = {
    "bias": "a constant per channel, added behind an anchor",
    "batch-norm": "batch norm in the weights and the bias of the convolution before it",
    "activation": "formulas of the anchor's result alone: ReLU, SiLU, clip, ...",
    "residual": "a computed tensor, added to the anchor's result (or multiplied with it)",
    "scale": "a product with constants behind an anchor",
    "gate": "a product with a computed number per channel (squeeze-and-excitation), behind an anchor, inside of the "
    "1x1 convolution behind it, or in that one's weights",
    "depthwise": "a depthwise convolution, inside of the 1x1 convolution behind it",
    "pre-activation": "other elementwise operations, inside of the 1x1 convolution behind them (DenseNet)",
    "reduction": "what is computed for a reduction or a pool alone, inside of it",
    "concat": "members of a concat, written in place",
    "pool": "a max pool in the kernel of the convolution before it",
    "pool-order": "an average pool and the 1x1 convolution beside it, in the order that is less work",
}


def check_kinds(without: Iterable[str]) -> frozenset[str]:
    """The kinds as a set. Raises UnsupportedError for a name that is none."""
    kinds = frozenset([without] if isinstance(without, str) else without)
    unknown = sorted(kinds - set(KINDS))
    if unknown:
        raise UnsupportedError(f"without: the kinds of fusion are {', '.join(KINDS)}, got {', '.join(unknown)}")
    return kinds


def switched_off(kind: str, without: Collection[str]) -> str:
    """The reason why a kind of fusion does not happen, empty where it may."""
    return f"fusion of kind {kind!r} is switched off" if kind in without else ""


def per_channel(value: Value) -> bool:
    """Whether a value is computed and has one number per channel."""
    shape = value.type.shape
    return value.data is None and len(shape) > 2 and all(d == 1 for d in shape[2:])


def kind_of(node: Node, inside: Collection[Value]) -> str:
    """The kind of an elementwise operation behind an anchor, of whose region `inside` are the values."""
    others = [v for v in node.operands() if v not in inside]
    if node.op not in ("add", "sub", "mul", "div") or not others:
        return "activation"
    (other,) = others
    added = node.op in ("add", "sub")
    if other.data is not None:
        return ("bias" if other.data.size > 1 else "activation") if added else "scale"
    return "gate" if per_channel(other) and not added else "residual"
