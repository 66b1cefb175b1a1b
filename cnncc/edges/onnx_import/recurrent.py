"""LSTM, GRU and RNN over a sequence of known length: one step after the other.

The products of all inputs with W are one matrix product before the first step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cnncc.edges.onnx_import.context import Call, Result, Results
from cnncc.ir.dims import Dim, normal
from cnncc.ir.graph import Value

MOST_STEPS = 512
_ACTIVATIONS = {"sigmoid": "sigmoid", "tanh": "tanh", "relu": "relu", "softsign": "softsign", "softplus": "softplus"}


@dataclass(frozen=True)
class _Layer:
    """One direction. weights r [gates * hidden, hidden]; rb its bias or None; first, second, third: activations."""

    n: Call
    hidden: int
    r: Value
    rb: Value | None
    peephole: Value | None
    activations: tuple[str, ...]

    def recur(self, h: Value | None, start: int, end: int) -> Value | None:
        """h R^T for some gates (as numbers of gates); None where h is zero."""
        if h is None:
            return None
        rows = self.n.op("slice", self.r, starts=(start * self.hidden,), ends=(end * self.hidden,), axes=(0,))
        return self.n.op("matmul", h, rows, transpose_w=True)

    def part(self, x: Value, gate: int) -> Value:
        """The columns of one gate."""
        return self.n.op("slice", x, starts=(gate * self.hidden,), ends=((gate + 1) * self.hidden,), axes=(1,))

    def act(self, index: int, x: Value) -> Value:
        """An activation."""
        return self.n.op(self.activations[index], x)

    def add(self, x: Value, y: Value | None) -> Value:
        """x + y, where None is zero."""
        return x if y is None else self.n.op("add", x, y)

    def peep(self, x: Value, c: Value | None, index: int) -> Value:
        """x + p c for a peephole."""
        if self.peephole is None or c is None:
            return x
        row = self.n.op(
            "slice", self.peephole, starts=(index * self.hidden,), ends=((index + 1) * self.hidden,), axes=(0,)
        )
        return self.n.op("add", x, self.n.op("mul", c, row))


State = tuple["Value | None", "Value | None"]


def _lstm_step(a: _Layer, x: Value, state: State) -> tuple[Value, Value]:
    """Gates i, o, f, c."""
    h, c = state
    gates = a.add(x, a.recur(h, 0, 4))
    i = a.act(0, a.peep(a.part(gates, 0), c, 0))
    fresh = a.n.op("mul", i, a.act(1, a.part(gates, 3)))
    if c is not None:
        f = a.act(0, a.peep(a.part(gates, 2), c, 2))
        fresh = a.n.op("add", a.n.op("mul", f, c), fresh)
    o = a.act(0, a.peep(a.part(gates, 1), fresh, 1))
    return a.n.op("mul", o, a.act(2, fresh)), fresh


def _gru_step(a: _Layer, x: Value, state: State) -> tuple[Value, None]:
    """Gates z, r, h."""
    h, _ = state
    first = a.recur(h, 0, 2)
    z_in, r_in, h_in = (a.part(x, k) for k in range(3))
    z = a.act(0, z_in if first is None else a.n.op("add", z_in, a.part(first, 0)))
    r = a.act(0, r_in if first is None else a.n.op("add", r_in, a.part(first, 1)))
    bias = None if a.rb is None else a.n.op("slice", a.rb, starts=(2 * a.hidden,), ends=(3 * a.hidden,), axes=(0,))
    if a.n.attr_int("linear_before_reset"):
        inner = a.recur(h, 2, 3)
        inner = bias if inner is None else a.add(inner, bias)
        fresh = a.add(h_in, None if inner is None else a.n.op("mul", r, inner))
    else:
        reset = None if h is None else a.n.op("mul", r, h)
        fresh = a.add(a.add(h_in, bias), a.recur(reset, 2, 3))
    fresh = a.act(1, fresh)
    kept = a.n.op("mul", a.n.op("sub", 1.0, z), fresh)
    return (kept if h is None else a.n.op("add", kept, a.n.op("mul", z, h))), None


def _rnn_step(a: _Layer, x: Value, state: State) -> tuple[Value, None]:
    return a.act(0, a.add(x, a.recur(state[0], 0, 1))), None


_KINDS: dict[str, tuple[int, tuple[str, ...], Callable[..., tuple[Value, Value | None]]]] = {
    "LSTM": (4, ("sigmoid", "tanh", "tanh"), _lstm_step),
    "GRU": (3, ("sigmoid", "tanh"), _gru_step),
    "RNN": (1, ("tanh",), _rnn_step),
}


def recurrent(n: Call) -> Results:
    """LSTM, GRU or RNN: all hidden states, the last ones, the last cell states."""
    gates, defaults, step = _KINDS[n.op_type]
    batch_first = bool(n.attr_int("layout"))
    x, w, r = (n.need_float(i, 3) for i in range(3))
    if batch_first:
        x = n.transpose(x, (1, 0, 2))
    length, batch, width = x.type.shape
    directions, hidden = w.type.shape[0], n.attr_int("hidden_size") or r.type.shape[-1]
    _check(n, length, hidden)
    if not isinstance(length, int) or directions not in (1, 2):
        n.fail(f"W must have 1 or 2 directions, got {directions}")
    assert isinstance(directions, int)
    names = [a.decode() for a in n.attributes["activations"].strings] if "activations" in n.attributes else []
    states: list[list[Value]] = [[], []]
    every: list[list[Value]] = []
    for d in range(directions):
        chosen = tuple(_activation(n, a) for a in names[d * len(defaults) : (d + 1) * len(defaults)]) or defaults
        bias = _row(n, 3, d)
        wb = None if bias is None else n.op("slice", bias, starts=(0,), ends=(gates * hidden,), axes=(0,))
        rb = (
            None
            if bias is None
            else n.op("slice", bias, starts=(gates * hidden,), ends=(2 * gates * hidden,), axes=(0,))
        )
        layer = _Layer(n, int(hidden), _of(n, r, d), rb, _row(n, 7, d), chosen)
        flat = n.op("matmul", n.reshape(x, (normal(length * batch), width)), _of(n, w, d), transpose_w=True)
        flat = layer.add(flat, _common_bias(n, wb, rb, int(hidden), gates))
        steps = n.reshape(flat, (length, batch, gates * hidden))
        h, c = _row(n, 5, d, batch_first), _row(n, 6, d, batch_first)
        backward = n.attr_str("direction", "forward").lower() == "reverse" or d == 1
        outputs: list[Value] = []
        for t in reversed(range(length)) if backward else range(length):
            now = n.reshape(n.op("slice", steps, starts=(t,), ends=(t + 1,), axes=(0,)), (batch, gates * hidden))
            h, c = step(layer, now, (h, c))
            outputs.append(h)
        every.append(outputs[::-1] if backward else outputs)
        assert h is not None
        states[0].append(h)
        if c is not None:
            states[1].append(c)
    return _results(n, every, states, batch_first, (batch, int(hidden)))


def _check(n: Call, length: Dim, hidden: Dim) -> None:
    if not isinstance(length, int) or not isinstance(hidden, int):
        n.unsupported(f"a sequence of symbolic length {length}; fix the shapes (shapes=...)")
    if not 1 <= length <= MOST_STEPS:
        n.unsupported(f"a sequence of {length} steps; at most {MOST_STEPS} are written out")
    if n.has(4) and set(n.ints(4, "sequence_lens")) != {length}:
        n.unsupported("sequences of different lengths (sequence_lens)")
    for name in ("clip", "input_forget", "activation_alpha", "activation_beta"):
        if name in n.attributes and (name != "input_forget" or n.attr_int(name)):
            n.unsupported(f"the attribute {name}")


def _activation(n: Call, name: str) -> str:
    if name.lower() not in _ACTIVATIONS:
        n.unsupported(f"the activation {name}")
    return _ACTIVATIONS[name.lower()]


def _of(n: Call, v: Value, d: int) -> Value:
    """v[d] of a stack of directions."""
    return n.reshape(n.op("slice", v, starts=(d,), ends=(d + 1,), axes=(0,)), v.type.shape[1:])


def _row(n: Call, index: int, d: int, batch_first: bool = False) -> Value | None:
    """Direction d of an optional input."""
    if not n.has(index):
        return None
    v = n.value(index)
    return _of(n, n.transpose(v, (1, 0, 2)) if batch_first else v, d)


def _common_bias(n: Call, wb: Value | None, rb: Value | None, hidden: int, gates: int) -> Value | None:
    """What is added to every step at once. The recurrent bias of GRU's last gate is added where the reset acts."""
    if wb is None or rb is None or n.op_type != "GRU":
        return wb if wb is None or rb is None else n.op("add", wb, rb)
    end = (gates - 1) * hidden
    early = n.op("add", *(n.op("slice", v, starts=(0,), ends=(end,), axes=(0,)) for v in (wb, rb)))
    return n.op("concat", early, n.op("slice", wb, starts=(end,), ends=(gates * hidden,), axes=(0,)), axis=0)


def _results(
    n: Call, every: list[list[Value]], states: list[list[Value]], batch_first: bool, shape: tuple[Dim, int]
) -> tuple[Result, ...]:
    batch, hidden = shape
    results: list[Result] = [None, None, None]
    if n.wants(0):
        rows = [n.reshape(h, (1, 1, batch, hidden)) for steps in zip(*every, strict=True) for h in steps]
        length, directions = len(every[0]), len(every)
        y = n.reshape(n.op("concat", *rows, axis=0), (length, directions, batch, hidden))
        results[0] = n.transpose(y, (2, 0, 1, 3)) if batch_first else y
    for k in (1, 2):
        if n.wants(k) and states[k - 1]:
            stacked = n.op("concat", *(n.reshape(h, (1, batch, hidden)) for h in states[k - 1]), axis=0)
            results[k] = n.transpose(stacked, (1, 0, 2)) if batch_first else stacked
    return tuple(results)


TABLE: dict[str, Callable[[Call], Results]] = {"LSTM": recurrent, "GRU": recurrent, "RNN": recurrent}
