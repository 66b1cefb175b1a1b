"""Values and gradients of the ops that PyTorch has, against PyTorch, in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from cnncc.autodiff import vjp
from cnncc.builder import Builder
from cnncc.interpret import interpret
from tests.ops.harness import Case, all_cases
from tests.tolerances import assert_close

torch = pytest.importorskip("torch")
F = torch.nn.functional


def _window(a: Any, rank: int) -> dict[str, Any]:
    return {"stride": a.strides or 1, "dilation": a.dilations or 1}


def _pads(a: Any, rank: int) -> tuple[int, ...]:
    """Pads in F.pad's order: last axis first, begin and end side by side."""
    pads = a.pads or (0,) * (2 * rank)
    return tuple(p for axis in reversed(range(rank)) for p in (pads[axis], pads[rank + axis]))


def _symmetric(a: Any, rank: int) -> tuple[int, ...] | None:
    pads = a.pads or (0,) * (2 * rank)
    return pads[:rank] if pads[:rank] == pads[rank:] else None


def _conv(a: Any, x: Any, w: Any) -> Any:
    r = x.ndim - 2
    conv = (F.conv1d, F.conv2d, F.conv3d)[r - 1]
    return conv(F.pad(x, _pads(a, r)), w, groups=a.groups, **_window(a, r))


def _conv_transpose(a: Any, x: Any, w: Any) -> Any:
    r = x.ndim - 2
    function = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[r - 1]
    return function(x, w, padding=_symmetric(a, r), output_padding=a.output_padding or 0, groups=a.groups,
                    **_window(a, r))  # fmt: skip


def _max_pool(a: Any, x: Any, indices: bool = False) -> Any:
    r = x.ndim - 2
    pads = _symmetric(a, r)
    if pads is None or any(2 * p > k for p, k in zip(pads, a.kernel, strict=True)):
        return None
    if indices and r > 1 and x.shape[0] * x.shape[1] > 1:
        return None  # PyTorch counts within a channel
    function = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[r - 1]
    return function(x, a.kernel, padding=pads, ceil_mode=a.ceil, **_window(a, r))


def _average_pool(a: Any, x: Any) -> Any:
    r = x.ndim - 2
    pads = _symmetric(a, r)
    if pads is None or a.dilations or any(2 * p > k for p, k in zip(pads, a.kernel, strict=True)):
        return None
    function = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[r - 1]
    return function(x, a.kernel, a.strides or 1, pads, a.ceil, a.count_include_pad)


def _adaptive(kind: str) -> Callable[..., Any]:
    def run(a: Any, x: Any) -> Any:
        return getattr(F, f"adaptive_{kind}_pool{x.ndim - 2}d")(x, a.size)

    return run


def _reduce(name: str) -> Callable[..., Any]:
    def run(a: Any, x: Any) -> Any:
        axes = a.axes or tuple(range(x.ndim))
        if name != "prod":
            return getattr(torch, name)(x, axes, keepdim=a.keepdims)
        for axis in reversed(axes):
            x = torch.prod(x, axis, keepdim=a.keepdims)
        return x

    return run


def _resize(a: Any, x: Any) -> Any:
    mode = {1: "linear", 2: "bilinear", 3: "trilinear"}.get(len(a.size), "")
    if a.scales or len(a.size) != x.ndim - 2:
        return None
    if (a.mode, a.coordinates, a.nearest) == ("nearest", "asymmetric", "floor"):
        return F.interpolate(x, a.size, mode="nearest")
    if a.mode == "linear" and a.coordinates in ("half_pixel", "align_corners"):
        return F.interpolate(x, a.size, mode=mode, align_corners=a.coordinates == "align_corners")
    if a.mode == "cubic" and a.coordinates in ("half_pixel", "align_corners"):
        return F.interpolate(x, a.size, mode="bicubic", align_corners=a.coordinates == "align_corners")
    return None


def _pad(a: Any, x: Any) -> Any:
    mode = {"constant": "constant", "reflect": "reflect", "edge": "replicate", "wrap": "circular"}[a.mode]
    if a.mode == "constant":
        return F.pad(x, _pads(a, x.ndim), value=a.value)
    return F.pad(x, _pads(a, x.ndim)[:-2], mode=mode) if a.pads[0] == a.pads[x.ndim] == 0 else None


def _slice(a: Any, x: Any) -> Any:
    if any(s < 0 for s in a.steps):
        return None
    steps = a.steps or (1,) * x.ndim
    return x[tuple(slice(*t) for t in zip(a.starts, a.ends, steps, strict=True))]


def _matmul(a: Any, x: Any, w: Any) -> Any:
    return torch.matmul(x.mT if a.transpose_x else x, w.mT if a.transpose_w else w)


def _cumsum(a: Any, x: Any) -> Any:
    y = x.flip(a.axis) if a.reverse else x
    total = torch.cumsum(y, a.axis)
    total = total - y if a.exclusive else total
    return total.flip(a.axis) if a.reverse else total


def _batch_train(a: Any, x: Any, gamma: Any, beta: Any) -> Any:
    axes = [k for k in range(x.ndim) if k != 1]
    y = F.batch_norm(x, None, None, gamma, beta, training=True, eps=a.eps)
    return y, x.mean(axes), x.var(axes, unbiased=False)


def _batch_norm(a: Any, x: Any, *vectors: Any) -> Any:
    """By hand: F.batch_norm has no gradient of mean and var."""
    gamma, beta, mean, var = (v.reshape(-1, *(1,) * (x.ndim - 2)) for v in vectors)
    return (x - mean) * torch.rsqrt(var + a.eps) * gamma + beta


def _gather(a: Any, x: Any, i: Any) -> Any:
    i = torch.where(i < 0, i + x.shape[a.axis], i).long()
    if i.min() < 0 or i.max() >= x.shape[a.axis]:
        return None
    return torch.index_select(x, a.axis, i.reshape(-1)).reshape(*x.shape[: a.axis], *i.shape, *x.shape[a.axis + 1 :])


def _local(a: Any, x: Any, w: Any) -> Any:
    r = x.ndim - 2
    if r != 2:
        return None
    out, kernel = w.shape[:2], tuple(w.shape[4:])
    columns = F.unfold(F.pad(x, _pads(a, 2)), kernel, dilation=a.dilations or 1, stride=a.strides or 1)
    y = torch.einsum("nip,pmi->nmp", columns, w.reshape(out[0] * out[1], w.shape[2], -1))
    return y.reshape(x.shape[0], -1, *out)


def _same(name: str) -> Callable[..., Any]:
    return lambda a, x: getattr(torch, name)(x)


TORCH: dict[str, Callable[..., Any]] = {
    "conv": _conv,
    "conv_transpose": _conv_transpose,
    "max_pool": _max_pool,
    "average_pool": _average_pool,
    "adaptive_average_pool": _adaptive("avg"),
    "adaptive_max_pool": _adaptive("max"),
    "batch_norm": _batch_norm,
    "batch_norm_train": _batch_train,
    "layer_norm": lambda a, x, g, b=None: F.layer_norm(x, x.shape[a.axis :], g, b, a.eps),
    "instance_norm": lambda a, x, g, b: F.instance_norm(x, weight=g, bias=b, eps=a.eps),
    "group_norm": lambda a, x, g, b: F.group_norm(x, a.groups, g, b, a.eps),
    "lrn": lambda a, x: F.local_response_norm(x, a.size, a.alpha, a.beta, a.bias) if a.size % 2 else None,
    "matmul": _matmul,
    "locally_connected": _local,
    "relu": lambda a, x: F.relu(x),
    "clip": lambda a, x: torch.clamp(x, a.low, a.high),
    "leaky_relu": lambda a, x: F.leaky_relu(x, a.alpha),
    "sigmoid": lambda a, x: torch.sigmoid(x),
    "tanh": lambda a, x: torch.tanh(x),
    "hard_swish": lambda a, x: F.hardswish(x),
    "hard_sigmoid": lambda a, x: F.hardsigmoid(x) if (a.alpha, a.beta) == (1 / 6, 0.5) else None,
    "silu": lambda a, x: F.silu(x),
    "gelu": lambda a, x: F.gelu(x, approximate="tanh" if a.approximate else "none"),
    "prelu": lambda a, x, s: torch.where(x > 0, x, x * s),
    "elu": lambda a, x: F.elu(x, a.alpha),
    "selu": lambda a, x: F.selu(x) if a.alpha < 2 else None,
    "celu": lambda a, x: F.celu(x, a.alpha),
    "softplus": lambda a, x: F.softplus(x),
    "softsign": lambda a, x: F.softsign(x),
    "mish": lambda a, x: F.mish(x),
    "thresholded_relu": lambda a, x: F.threshold(x, a.alpha, 0.0),
    "softmax": lambda a, x: torch.softmax(x, a.axis),
    "log_softmax": lambda a, x: torch.log_softmax(x, a.axis),
    "reduce_sum": _reduce("sum"),
    "reduce_mean": _reduce("mean"),
    "reduce_max": _reduce("amax"),
    "reduce_min": _reduce("amin"),
    "reduce_prod": _reduce("prod"),
    "argmax": lambda a, x: torch.argmax(x, a.axis, a.keepdims) if not a.select_last and x.is_floating_point() else None,
    "argmin": lambda a, x: torch.argmin(x, a.axis, a.keepdims) if not a.select_last and x.is_floating_point() else None,
    "cumsum": _cumsum,
    "reshape": lambda a, x: x.reshape(a.shape),
    "transpose": lambda a, x: x.permute(a.perm),
    "expand": lambda a, x: x.expand(a.shape),
    "flip": lambda a, x: x.flip(a.axes),
    "concat": lambda a, *xs: torch.cat(xs, a.axis),
    "tile": lambda a, x: x.tile(a.repeats),
    "slice": _slice,
    "pad": _pad,
    "gather": _gather,
    "gather_elements": lambda a, x, i: torch.gather(x, a.axis, torch.where(i < 0, i + x.shape[a.axis], i).long()),
    "resize": _resize,
    "where": lambda a, c, x, y: torch.where(c, x, y),
    "add": lambda a, x, y: x + y,
    "sub": lambda a, x, y: x - y,
    "mul": lambda a, x, y: x * y,
    "div": lambda a, x, y: x / y,
    "pow": lambda a, x, y: x**y,
    "max": lambda a, x, y: torch.maximum(x, y) if not torch.equal(x, y) else None,
    "min": lambda a, x, y: torch.minimum(x, y) if not torch.equal(x, y) else None,
    "mod": lambda a, x, y: torch.fmod(x, y) if a.fmod else torch.remainder(x, y),
}
for _name in (
    "neg", "abs", "exp", "log", "sqrt", "sin", "cos", "erf", "floor", "ceil", "round", "sign", "isnan", "isinf",
    "reciprocal", "square", "log1p", "expm1", "tan", "asin", "acos", "atan", "sinh", "cosh", "asinh", "acosh", "atanh",
):  # fmt: skip
    TORCH[_name] = _same(_name)

CASES = [c for c in all_cases() if c.op.name in TORCH]


def _arrays(case: Case) -> list[np.ndarray | None]:
    return [a.astype(np.float64) if a is not None and a.dtype == np.float32 else a for a in case.arrays()]


def _row(case: Case, dtype: str) -> tuple[str, str]:
    """Of the tolerance table. PyTorch keeps some constants of activations in float32."""
    if dtype != "f64":
        return "exact", dtype
    return ("elementwise", "f32") if case.op.elementwise else ("conv", "f64")


@pytest.mark.parametrize("case", CASES, ids=str)
def test_value_and_gradient(case: Case):
    arrays = _arrays(case)
    if any(a is not None and a.dtype.kind in "iu" for a in arrays) and case.op.name in ("mod", "div"):
        pytest.skip("PyTorch raises on integers divided by zero")
    tensors = [None if a is None else torch.tensor(a, requires_grad=a.dtype == np.float64) for a in arrays]
    wanted = TORCH[case.op.name](case.attrs, *(t for t in tensors if t is not None))
    if wanted is None:
        pytest.skip("PyTorch does not have these attributes")
    wanted = wanted if isinstance(wanted, tuple) else (wanted,)

    b = Builder()
    operands = [None if a is None else b.constant(a, f"x{k}") for k, a in enumerate(arrays)]
    attributes = {n: getattr(case.attrs, n) for n in case.attrs.__dataclass_fields__}
    results = b.op(case.op.name, *operands, **attributes)
    results = results if isinstance(results, tuple) else (results,)
    for k, value in enumerate(results):
        b.output(value, f"y{k}")
    graph = b.finish()
    for actual, expected in zip(interpret(graph, {}).values(), wanted, strict=True):
        dtype = "f64" if actual.dtype == np.float64 else "f32"
        assert_close(actual, expected.detach().numpy(), *_row(case, dtype), str(case))

    names = [f"x{k}" for k, t in enumerate(tensors) if t is not None and t.requires_grad]
    if case.op.grad is None or not names or not wanted[0].is_floating_point() or not case.sample.smooth:
        return
    rng = np.random.default_rng(5)
    seeds = {f"d_y{k}": rng.standard_normal(w.shape) for k, w in enumerate(wanted)}
    torch.autograd.backward(wanted, [torch.tensor(s) for s in seeds.values()])
    grads = interpret(vjp(graph, names), seeds)
    for name in names:
        expected = tensors[int(name[1:])].grad
        assert_close(grads[f"grad_{name}"], expected.numpy(), *_row(case, "f64"), f"{case} d{name}")
