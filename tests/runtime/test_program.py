"""Programs as data: affine sizes, the JSON form, consistency."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from cnncc.errors import GraphError
from cnncc.runtime.program import RUN_LOOP, Affine, Buffer, Call, Dim, Port, Program

N = Affine.symbol("N")


def program(**changes: object) -> Program:
    made = Program(
        buffers=(
            Buffer("x", "float32", (N, 4), "input"),
            Buffer("w", "float32", (4,), "constant"),
            Buffer("t", "float32", (N * 4,), "arena", N * 64 + 128),
            Buffer("v", "float32", (N, 2, 2), "arena", 0, base=2),
            Buffer("y", "float32", (N, 4), "output"),
        ),
        calls=(Call("k", (0, 1, 2), "a"), Call("k", (3, 4), "b")),
        inputs=(Port("x", "float32", (N, 4), 0),),
        outputs=(Port("y", "float32", (N, 4), 4),),
        kernels={"k": b"", RUN_LOOP: b""},
        constants={"w": np.ones(4, np.float32)},
        symbols=("N",),
        arena=N * 80 + 256,
        threads=2,
        target={"name": "test"},
        features=("avx2",),
        notes={"calls": [1, 2]},
    )
    return replace(made, **changes)


@pytest.mark.parametrize(
    ("dim", "text", "at3"),
    [
        (N, "N", 3),
        (N * 49, "49*N", 147),
        (N * 49 + 1, "49*N + 1", 148),
        (N + N, "2*N", 6),
        (N + Affine.symbol("M") * 2, "2*M + N", 13),
        (N + N * -1 + 5, "5", 5),
        (N * 0, "0", 0),
    ],
)
def test_affine(dim: Dim, text: str, at3: int) -> None:
    assert str(dim) == text
    assert (dim if isinstance(dim, int) else dim.at({"N": 3, "M": 5})) == at3


def test_affine_without_symbols_is_an_integer() -> None:
    assert N * 0 == 0
    assert N + N * -1 == 0


def test_json_round_trip() -> None:
    one = program()
    two = Program.from_json(json.loads(json.dumps(one.to_json())), one.kernels, one.constants)
    assert two == one


def test_root_of_a_view() -> None:
    assert program().root(3) == 2
    assert program().root(2) == 2


BUFFERS = program().buffers


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kernels": {RUN_LOOP: b""}}, "a: its kernel must be among the kernels, got 'k'"),
        ({"calls": (Call("k", (0, 9), "a"),)}, "a: buffers must be 0 to 4, got (0, 9)"),
        ({"constants": {}}, "buffer 1 (w): its array must be float32(4,), got none"),
        ({"constants": {"w": np.ones(3, np.float32)}}, "float32(4,), got float32(3,)"),
        ({"symbols": ()}, "buffer 0 (x): symbols must be declared, got N"),
        ({"symbols": ("N", "M")}, "symbols must follow from the inputs' shapes, got M"),
        ({"inputs": (Port("x", "float32", (N, 4), 4),)}, "x: an input's buffer must be of kind input"),
        ({"inputs": (Port("x", "float32", (N, N), 0),)}, "x: at most one extent may be symbolic, got (N, N)"),
        ({"kernels": {"k": b""}}, "the kernels must include the run loop 'cnncc_run_calls', got k"),
        ({"threads": 0}, "threads must be at least 1, got 0"),
        (
            {"arena": 64},
            "buffer 2 (t): its memory must lie within the arena of 64 bytes, got 16 bytes of shape (4,) at 192",
        ),
        (
            {"buffers": (*BUFFERS[:3], replace(BUFFERS[3], shape=(N, 9)), BUFFERS[4])},
            "buffer 3 (v): its memory must lie within buffer 2 of 16 bytes, got 36 bytes of shape (1, 9) at 0",
        ),
        (
            {"outputs": (Port("y", "float32", (N, 5), 4),)},
            "y: its buffer must hold float32(N, 5), got float32(N, 4)",
        ),
        ({"inputs": (Port("x", "int32", (N, 4), 0),)}, "x: its buffer must hold int32(N, 4), got float32(N, 4)"),
        ({"outputs": ()}, "buffer 4 (y): it is of kind output, so an output must name it"),
        ({"outputs": (Port("y", "float32", (N, 4), 5),)}, "y: its buffer must be 0 to 4, got 5"),
        (
            {"buffers": (*BUFFERS[:2], replace(BUFFERS[2], offset=N * 32), *BUFFERS[3:])},
            "buffer 2 (t): offset must be a multiple of 64 bytes for every size, got 32*N",
        ),
        ({"buffers": (*BUFFERS[:3], replace(BUFFERS[3], base=4), BUFFERS[4])}, "a view must follow its base"),
        ({"buffers": (*BUFFERS[:3], replace(BUFFERS[3], base=0), BUFFERS[4])}, "be of its kind, got base 0, arena"),
    ],
)
def test_check_names_what_is_wrong(changes: dict[str, object], message: str) -> None:
    with pytest.raises(GraphError) as error:
        program(**changes).check()
    assert message in str(error.value)


def test_check_gives_itself() -> None:
    one = program()
    assert one.check() is one
