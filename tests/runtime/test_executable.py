"""Running programs made by hand: sizes, state, views, inputs of every kind, errors."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace

import numpy as np
import pytest

from cnncc.errors import GraphError, RuntimeFault
from cnncc.runtime.arena import address, empty
from cnncc.runtime.executable import Argument, Executable
from cnncc.runtime.program import Buffer, Call, Port, Program
from tests.runtime import kernels as hand
from tests.runtime.kernels import N

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def residual() -> Executable:
    return Executable(hand.residual())


def data(rows: int) -> np.ndarray:
    return np.random.default_rng(rows).standard_normal((rows, 64)).astype(np.float32)


def same(result: np.ndarray, x: np.ndarray) -> None:
    np.testing.assert_allclose(result, hand.expected(np.asarray(x, np.float32)), rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("threads", [1, 2])
def test_symbolic_batch_runs_every_size(threads: int) -> None:
    executable = Executable(hand.residual(threads))
    for rows in (1, 64, 3, 7, 1, *range(1, 40)):  # more sizes than tables are kept for
        hand.run_one(executable, rows)


@pytest.mark.parametrize("threads", [1, 2])
def test_state_is_updated_in_place(threads: int) -> None:
    program = hand.counter(threads)
    executable = Executable(program)
    ones = np.ones((1, 64), np.float32)
    np.testing.assert_array_equal(executable(ones), np.zeros(64))
    np.testing.assert_array_equal(executable(ones), -np.ones(64))
    np.testing.assert_array_equal(executable.state["p"], -np.ones((1, 64)))
    np.testing.assert_array_equal(program.constants["p"], np.ones((1, 64)))
    executable.state["p"] = np.full((1, 64), 5, np.float32)
    np.testing.assert_array_equal(executable(ones), np.full(64, 4))


def test_state_reads_are_copies_and_writes_are_checked() -> None:
    state = Executable(hand.counter()).state
    state["p"][...] = 7
    assert state["p"].max() == 1
    with pytest.raises(GraphError, match=r"p: shape must be \(1, 64\), got \(64,\)"):
        state["p"] = np.zeros(64, np.float32)
    with pytest.raises(GraphError, match="p: dtype must be float32, got float64"):
        state["p"] = np.zeros((1, 64))
    with pytest.raises(GraphError, match="state must be one of p, got 'q'"):
        state["q"] = np.zeros((1, 64), np.float32)
    assert list(state) == ["p"]


def test_two_executables_share_state() -> None:
    one = Executable(hand.counter())
    two = Executable(hand.counter(), state=one.state)
    ones = np.ones((1, 64), np.float32)
    one(ones)
    np.testing.assert_array_equal(two(ones), -np.ones(64))
    with pytest.raises(GraphError, match="p: the shared state must have it as float32"):
        Executable(hand.counter(), state=Executable(hand.residual()).state)


def test_inputs_outputs_and_memory(residual: Executable) -> None:
    assert residual.inputs == (Argument("x", ("N", 64), "float32"),)
    assert residual.outputs == (Argument("y", ("N", 64), "float32"),)
    assert str(residual.memory["arena"]) == "512*N + 64"
    assert str(residual.peak_memory) == "1024*N + 320"
    assert Executable(hand.counter()).peak_memory == 3 * 256


ARRAYS = {
    "aligned": lambda x: _aligned(x),
    "misaligned": lambda x: _shifted(x),
    "strided": lambda x: np.repeat(x, 2, axis=0)[::2],
    "negative": lambda x: x[::-1, ::-1].copy()[::-1, ::-1],
    "fortran": np.asfortranarray,
    "transposed": lambda x: x.T.copy().T,
    "read-only": lambda x: _read_only(x),
    "broadcast": lambda x: np.broadcast_to(x[:1], x.shape),
    "list": lambda x: x.tolist(),
    "torch": torch.from_numpy,
    "torch strided": lambda x: torch.from_numpy(x.T.copy()).T,
    "torch grad": lambda x: torch.from_numpy(x).requires_grad_(),
    "dlpack": lambda x: _Dlpack(x),
    "array protocol": lambda x: _Array(x),
}


def _aligned(x: np.ndarray) -> np.ndarray:
    copy = empty(x.shape, x.dtype)
    copy[...] = x
    return copy


def _shifted(x: np.ndarray) -> np.ndarray:
    buffer = empty((x.size + 1,), x.dtype)
    shifted = buffer[1:].reshape(x.shape)
    shifted[...] = x
    assert address(shifted) % 64 == 4
    return shifted


def _read_only(x: np.ndarray) -> np.ndarray:
    copy = _aligned(x)
    copy.flags.writeable = False
    return copy


class _Dlpack:
    def __init__(self, x: np.ndarray) -> None:
        self.x = x

    def __dlpack__(self, **options: object) -> object:
        return self.x.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)


class _Array:
    def __init__(self, x: np.ndarray) -> None:
        self.x = x

    def __array__(self, dtype: object = None, copy: object = None) -> np.ndarray:
        return self.x


@pytest.mark.parametrize("kind", ARRAYS)
def test_every_kind_of_array(residual: Executable, kind: str) -> None:
    x = data(5)
    given = ARRAYS[kind](x)
    wanted = given.detach().numpy() if isinstance(given, torch.Tensor) else getattr(given, "x", given)
    before = np.array(wanted, copy=True)
    same(residual.run({"x": given})["y"], wanted)
    np.testing.assert_array_equal(wanted, before)


def test_results_belong_to_the_caller(residual: Executable) -> None:
    first = residual(data(4))
    kept = first.copy()
    residual(data(4) + 1)
    np.testing.assert_array_equal(first, kept)
    assert first.flags.writeable
    assert address(first) % 64 == 0


def test_torch_in_torch_out(residual: Executable) -> None:
    result = residual(torch.from_numpy(data(3)))
    assert isinstance(result, torch.Tensor)
    same(result.numpy(), data(3))
    assert isinstance(residual.run({"x": torch.from_numpy(data(3))})["y"], np.ndarray)


@pytest.mark.parametrize("kind", ["aligned", "misaligned", "strided", "fortran", "torch"])
def test_out_takes_the_result(residual: Executable, kind: str) -> None:
    out = ARRAYS[kind](np.zeros((3, 64), np.float32))
    assert residual(data(3), out=out) is out
    same(np.asarray(out), data(3))


def test_out_may_be_the_input(residual: Executable) -> None:
    x = _aligned(data(3))
    residual(x, out=x)
    same(x, data(3))


@pytest.mark.parametrize(
    ("out", "message"),
    [
        (np.zeros((3, 64)), "out for y: dtype must be float32, got float64"),
        (np.zeros((2, 64), np.float32), r"out for y: shape must be \(3, 64\), got \(2, 64\)"),
        (_read_only(np.zeros((3, 64), np.float32)), "out for y: the array must be writable"),
        ((), "out: there must be 1 arrays, got 0"),
        (3, "out for y: it must be an array, got int"),
    ],
)
def test_out_is_checked(residual: Executable, out: object, message: str) -> None:
    with pytest.raises(GraphError, match=message):
        residual(data(3), out=out)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.zeros((3, 64)), "x: dtype must be float32, got float64; convert it with .astype('float32')"),
        (np.zeros((3, 64), ">f4"), "x: dtype must be float32, got >f4"),
        (np.zeros((3, 64), np.int64), "x: dtype must be float32, got int64"),
        (np.zeros(64, np.float32), "x: rank must be 2 (shape (N, 64)), got 1 (shape (64,))"),
        (np.zeros((3, 63), np.float32), "x: dimension 1 must be 64, got 63 (shape (3, 63) for (N, 64))"),
        ("text", "x: it must be an array, got a str"),
        ([[1, "a"]], "x: it must be an array of float32, got a list"),
        ([[1], [1, 2]], "x: it must be an array of float32, got a list"),
        (None, "x: it must be an array, got a NoneType"),
        (torch.zeros(3, 64, dtype=torch.bfloat16), "x: it must be a dense tensor of float32, got torch.bfloat16"),
        (torch.zeros(3, 64, device="meta"), "x: it must lie in CPU memory, got a tensor on meta"),
        (torch.zeros(3, 64).to_sparse(), "x: it must be a dense tensor of float32"),
    ],
)
def test_wrong_inputs(residual: Executable, given: object, message: str) -> None:
    with pytest.raises(GraphError) as error:
        residual.run({"x": given})
    assert message in str(error.value)


def test_wrong_names_and_numbers(residual: Executable) -> None:
    with pytest.raises(GraphError, match="inputs must be 'x', got missing 'x' and unknown 'a', 'b'"):
        residual.run({"a": 1, "b": 2})
    with pytest.raises(GraphError, match="inputs must be 'x', got unknown 'z'"):
        residual.run({"x": data(1), "z": data(1)})
    with pytest.raises(GraphError, match="inputs: there must be 1, got 2"):
        residual(data(1), data(1))


def sum_of_two(*shapes: tuple[object, ...]) -> Program:
    """y = a + b; the buffers are [N, 64], the ports of the shapes given."""
    return Program(
        (
            Buffer("a", "float32", (N, 64), "input"),
            Buffer("b", "float32", (N, 64), "input"),
            Buffer("y", "float32", (N, 64), "output"),
        ),
        (Call("add", (0, 1, 2), "sum"),),
        inputs=tuple(Port(n, "float32", s, i) for i, (n, s) in enumerate(zip("ab", shapes))),  # noqa: B905
        outputs=(Port("y", "float32", (N, 64), 2),),
        kernels=hand.kernels(1, "add"),
        symbols=("N",),
    )


def test_contradicting_sizes_name_both_places() -> None:
    executable = Executable(sum_of_two((N, 64), (N, 64)))
    with pytest.raises(GraphError, match=r"b: dimension 0 must be N = 2 \(N = 2 from dimension 0 of a\), got 3"):
        executable(data(2), data(3))


def test_a_multiple_of_a_symbol_is_solved() -> None:
    executable = Executable(sum_of_two((N * 64,), (N, 64)))
    a, b = data(3), data(3) + 1
    np.testing.assert_allclose(executable(a.reshape(-1), b), a + b, rtol=1e-6)
    with pytest.raises(GraphError, match=r"a: dimension 0 must be of the form 64\*N, got 65"):
        executable(np.zeros(65, np.float32), b)


def test_zero_size_batch(residual: Executable) -> None:
    result = residual(np.zeros((0, 64), np.float32))
    assert result.shape == (0, 64)
    program = hand.residual()
    fixed = replace(program, outputs=(*program.outputs, Port("w", "float32", (64,), 1)))
    with pytest.raises(
        GraphError, match="N: a size must be at least 1 where results do not become empty with it, got 0"
    ):
        Executable(fixed)(np.zeros((0, 64), np.float32))


def test_outputs_that_no_kernel_writes_into() -> None:
    """An input, a constant, an arena buffer, and one output twice, as outputs."""
    program = hand.residual()
    ports = (
        Port("x_again", "float32", (N * 64,), 0),
        Port("weights", "float32", (8, 8), 1),
        Port("inner", "float32", (N, 8, 8), 2),
        *program.outputs,
        Port("y_again", "float32", (N, 64), 4),
    )
    x = data(4)
    results = Executable(replace(program, outputs=ports)).run({"x": x})
    np.testing.assert_array_equal(results["x_again"], x.reshape(-1))
    np.testing.assert_array_equal(results["weights"], hand.WEIGHTS.reshape(8, 8))
    np.testing.assert_allclose(results["inner"].reshape(4, 64), x * 2 + hand.WEIGHTS, rtol=1e-5, atol=1e-5)
    same(results["y"], x)
    np.testing.assert_array_equal(results["y"], results["y_again"])
    assert not np.shares_memory(results["y"], results["y_again"])


def test_views_of_an_output() -> None:
    """Two calls write the halves of one output (how members of a concat do)."""
    program = Program(
        (
            Buffer("x", "float32", (1, 64), "input"),
            Buffer("y", "float32", (2, 64), "output"),
            Buffer("top", "float32", (1, 64), "output", 0, base=1),
            Buffer("bottom", "float32", (1, 64), "output", 256, base=1),
        ),
        (Call("add", (0, 0, 2), "twice"), Call("add", (2, 0, 3), "thrice")),
        inputs=(Port("x", "float32", (1, 64), 0),),
        outputs=(Port("y", "float32", (2, 64), 1),),
        kernels=hand.kernels(1, "add"),
    )
    x = data(1)
    np.testing.assert_allclose(Executable(program)(x), np.concatenate([2 * x, 3 * x]), rtol=1e-6)


def test_no_calls_at_all() -> None:
    program = Program(
        (Buffer("x", "float32", (N, 4), "input"),),
        (),
        inputs=(Port("x", "float32", (N, 4), 0),),
        outputs=(Port("y", "float32", (N, 2, 2), 0),),
        kernels=hand.kernels(1),
        symbols=("N",),
    )
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    np.testing.assert_array_equal(Executable(program)(x), x.reshape(3, 2, 2))


@pytest.mark.parametrize("threads", [1, 2])
def test_a_kernel_that_refuses_is_named(threads: int) -> None:
    program = hand.residual(threads)
    narrow = replace(program.buffers[2], shape=(N, 32))
    broken = Executable(replace(program, buffers=(*program.buffers[:2], narrow, *program.buffers[3:])))
    for _ in range(2):
        with pytest.raises(
            RuntimeFault, match=r"first \(double_plus\): the kernel refused its arguments: .*shape\[1\]"
        ):
            broken(data(2))


def test_profile_times_each_call_and_keeps_state(residual: Executable) -> None:
    rows = residual.profile({"x": data(8)}, repeat=3)
    assert [(r.node, r.kernel) for r in rows] == [
        ("first", "double_plus"),
        ("second", "add"),
        ("third", "double_plus"),
        ("fourth", "add"),
    ]
    assert all(0 < r.least <= r.median for r in rows)
    counter = Executable(hand.counter())
    counter.profile({"g": np.ones((1, 64), np.float32)})
    np.testing.assert_array_equal(counter.state["p"], np.ones((1, 64)))


def test_memory_is_released_with_the_executable() -> None:
    executable = Executable(hand.residual(2))
    hand.run_one(executable, 3)
    engine = weakref.ref(executable._engine)
    del executable
    gc.collect()
    assert engine() is None


def test_features_of_the_machine_are_required() -> None:
    with pytest.raises(RuntimeFault, match="this model: it needs CPU features that this machine lacks: warp_drive"):
        Executable(replace(hand.residual(), features=("warp_drive",)))


def test_code_for_another_machine_is_refused() -> None:
    program = hand.residual()
    foreign = bytearray(program.kernels["add"])
    foreign[18] = 243  # RISC-V
    with pytest.raises(RuntimeFault, match="add: compiled for ELF machine 243, this machine is"):
        Executable(replace(program, kernels={**program.kernels, "add": bytes(foreign)}))
    with pytest.raises(RuntimeFault, match="add: kernels must be 64-bit ELF objects"):
        Executable(replace(program, kernels={**program.kernels, "add": b"MZ not an object at all"}))
