"""cnncc verify MODEL: does the compiled model compute what the model says?"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import click
import numpy as np

from cnncc.cli.common import (
    compile_options,
    console,
    json_option,
    model_argument,
    open_model,
    print_json,
    random_inputs,
    read_arrays,
)


@click.command("verify")
@model_argument
@compile_options
@click.option("-i", "--input", "inputs", multiple=True, help="NAME=file.npy, or a .npz file.  [default: random arrays]")
@click.option(
    "--reference", type=click.Choice(["auto", "interpreter", "onnxruntime"]), default="auto", show_default=True
)
@click.option("--batch", type=click.IntRange(1), default=1, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--rtol", type=float, default=5e-4, show_default=True, help="Relative to the largest magnitude.")
@json_option
def command(
    model: Path,
    shapes: Any,
    target: str,
    threads: int | None,
    accuracy: Any,
    inputs: tuple[str, ...],
    reference: str,
    batch: int,
    seed: int,
    rtol: float,
    as_json: bool,
) -> None:
    """Compile MODEL and compare its results with ONNX Runtime's, or with the numpy interpreter's.

    Exit code 1 where the largest error of an output exceeds --rtol times its largest magnitude.
    """
    exe = open_model(model, target, threads, shapes, accuracy)
    feeds = read_arrays(inputs) if inputs else random_inputs(exe.inputs, seed, batch)
    if reference == "auto":
        reference = "onnxruntime" if importlib.util.find_spec("onnxruntime") else "interpreter"
    expected = _runtime(model, feeds) if reference == "onnxruntime" else _interpreter(model, feeds, shapes)
    rows = [compare(name, array, expected[name], rtol) for name, array in exe.run(feeds).items()]
    good = all(r["ok"] for r in rows)
    if as_json:
        print_json({"reference": reference, "rtol": rtol, "ok": good, "outputs": rows})
    else:
        out = console()
        for r in rows:
            verdict = "ok" if r["ok"] else "DIFFERS"
            place = f"at {r['where']}: {r['actual']:.6g} against {r['expected']:.6g} by {reference}"
            error = (
                f"largest error {r['max_abs']:.3g} ({r['relative']:.3g} of the largest magnitude {r['magnitude']:.4g})"
            )
            out.print(f"{r['name']}: {verdict}  {error} {place}", markup=False)
    sys.exit(0 if good else 1)


def compare(name: str, actual: np.ndarray, expected: np.ndarray, rtol: float) -> dict[str, Any]:
    """The largest error of an output, where it is, and whether it is within rtol of the largest magnitude."""
    a, e = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    if a.shape != e.shape:
        return {"name": name, "ok": False, "max_abs": np.inf, "relative": np.inf, "magnitude": 0.0, "where": (),
                "actual": np.nan, "expected": np.nan}  # fmt: skip
    same = (a == e) | (np.isnan(a) & np.isnan(e))
    error = np.where(same, 0.0, np.abs(a - e))
    error = np.where(np.isnan(error), np.inf, error)
    where = np.unravel_index(int(error.argmax()), error.shape) if error.size else ()
    finite = np.abs(e[np.isfinite(e)])
    magnitude = float(finite.max()) if finite.size else 0.0
    worst = float(error.max()) if error.size else 0.0
    relative = worst / magnitude if magnitude else worst
    return {
        "name": name,
        "ok": relative <= rtol,
        "max_abs": worst,
        "relative": relative,
        "magnitude": magnitude,
        "where": tuple(map(int, where)),
        "actual": float(a[where]) if a.size else np.nan,
        "expected": float(e[where]) if e.size else np.nan,
    }


def _runtime(model: Path, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


def _interpreter(model: Path, feeds: dict[str, np.ndarray], shapes: Any) -> dict[str, np.ndarray]:
    import cnncc
    from cnncc.interpret import interpret

    return interpret(cnncc.load_onnx(model, {k: v.shape for k, v in feeds.items()}), feeds)
