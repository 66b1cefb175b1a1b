"""Single layers in oneDNN, called through PyTorch: the near end for benchmarks/kernels.py, and the process itself.

Two forms of a convolution with bias and ReLU: "eager" (functions of torch, the input channels-last), and "packed"
(weights reordered into oneDNN's own layout beforehand, bias and ReLU inside the call), which is what torch.compile with
frozen weights arrives at.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from cnncc.bench.client import Client
from cnncc.bench.worker import main
from cnncc.targets.problem import ConvProblem, MatmulProblem

Problem = ConvProblem | MatmulProblem


def parse(text: str) -> Problem:
    """A problem from its text."""
    return MatmulProblem.parse(text) if text.startswith("matmul") else ConvProblem.parse(text)


class Peer:
    """A process with torch in it. A context manager."""

    def __init__(self, threads: int) -> None:
        self._client = Client(threads, "benchmarks.onednn")
        self._threads = threads

    def open(self, problem: Problem) -> tuple[str, ...]:
        """Prepares a problem; the names of the forms that it has here. Raises RuntimeError where torch is not there."""
        return tuple(self._ask("open", problem=str(problem), threads=self._threads)["forms"])

    def round(self, form: str, seconds: float) -> float:
        """The least seconds of a call, over so many seconds."""
        return float(self._ask("round", form=form, seconds=seconds)["least"])

    def version(self) -> str:
        """torch's version and oneDNN's."""
        return str(self._ask("version")["version"])

    def _ask(self, do: str, **request: Any) -> dict[str, Any]:
        reply = self._client.ask(do, **request)
        if not reply["ok"]:
            raise RuntimeError(reply["reason"])
        return reply

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *exception: object) -> None:
        self._client.__exit__(*exception)


class Worker:
    """The far end: holds the forms of one problem."""

    def __init__(self) -> None:
        self.forms: dict[str, Callable[[], Any]] = {}
        self.threads = 1

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """The reply to one request; what torch raises becomes a reply too."""
        try:
            return {"ok": True, **getattr(self, f"do_{request.pop('do')}")(**request)}
        except (ImportError, RuntimeError, ValueError, TypeError, NotImplementedError) as error:
            return {"ok": False, "reason": f"{type(error).__name__}: {str(error).partition(chr(10))[0][:300]}"}

    def do_version(self) -> dict[str, Any]:
        """torch and what it was built with."""
        import torch

        built = [line.strip(" -") for line in torch.__config__.show().splitlines() if "DNN" in line and " v" in line]
        return {"version": f"torch {torch.__version__}" + (f", {built[0].partition(' (')[0]}" if built else "")}

    def do_open(self, problem: str, threads: int) -> dict[str, Any]:
        """Makes operands, and the forms that work."""
        import torch

        torch.set_num_threads(threads)
        self.threads = threads
        made = parse(problem)
        self.forms = forms_of(made)
        return {"forms": list(self.forms)}

    def do_round(self, form: str, seconds: float) -> dict[str, Any]:
        """The least time of a call; of one thread its processor time, so that other processes disturb less."""
        import torch

        clock = time.thread_time if self.threads == 1 else time.perf_counter
        run, least, end = self.forms[form], float("inf"), time.perf_counter() + seconds
        with torch.inference_mode():
            run()
            while time.perf_counter() < end:
                start = clock()
                run()
                took = clock() - start
                least = min(least, took) if took > 0 else least  # (a virtual machine's clock may stand still)
        return {"least": least}


def forms_of(problem: Problem, seed: int = 0) -> dict[str, Callable[[], Any]]:
    """Functions that compute relu(op(x, w) + bias) on seeded operands, by the name of the form."""
    import torch

    torch.manual_seed(seed)
    with torch.inference_mode():
        return _conv(problem) if isinstance(problem, ConvProblem) else _matmul(problem)


def _conv(problem: ConvProblem) -> dict[str, Callable[[], Any]]:
    import torch
    from torch.nn import functional

    rank = problem.rank
    begin, end = problem.pads[:rank], problem.pads[rank:]
    batch = problem.n if isinstance(problem.n, int) else 1
    x = torch.randn(batch, problem.ic, *problem.size)
    w = torch.randn(problem.oc, problem.ic // problem.groups, *problem.kernel)
    b = torch.randn(problem.oc)
    if begin != end:  # torch pads both sides alike; the difference is padded beforehand, outside of what is timed
        more = [max(0, e - s) for s, e in zip(begin, end, strict=True)]
        before = [max(0, s - e) for s, e in zip(begin, end, strict=True)]
        x = functional.pad(x, [p for pair in zip(before[::-1], more[::-1], strict=True) for p in pair])
    pads = [min(s, e) for s, e in zip(begin, end, strict=True)]
    places = [pads, list(problem.strides), list(problem.dilations), problem.groups]
    convolve = (functional.conv1d, functional.conv2d, functional.conv3d)[rank - 1]
    layout = {2: torch.channels_last, 3: torch.channels_last_3d}.get(rank, torch.contiguous_format)
    x, w = x.contiguous(memory_format=layout), w.contiguous(memory_format=layout)

    def eager() -> Any:
        return functional.relu_(convolve(x, w, b, problem.strides, pads, problem.dilations, problem.groups))

    forms: dict[str, Callable[[], Any]] = {"eager": eager}
    if rank > 1 and torch.backends.mkldnn.is_available():
        packed = torch.ops.mkldnn._reorder_convolution_weight(w, *places, list(x.shape))
        call = torch.ops.mkldnn._convolution_pointwise
        forms["packed"] = lambda: call(x, packed, b, *places, "relu", [], "")
    return forms


def _matmul(problem: MatmulProblem) -> dict[str, Callable[[], Any]]:
    import torch
    from torch.nn import functional

    rows = problem.m if isinstance(problem.m, int) else 1
    b = torch.randn(problem.n)
    if problem.batch > 1 or problem.stacked:
        xs, ws = torch.randn(problem.batch, rows, problem.k), torch.randn(problem.batch, problem.k, problem.n)
        return {"eager": lambda: functional.relu_(torch.bmm(xs, ws).add_(b))}
    x, w = torch.randn(rows, problem.k), torch.randn(problem.n, problem.k)
    return {"eager": lambda: functional.relu_(functional.linear(x, w, b))}


if __name__ == "__main__":
    main(Worker().answer)
