"""Every op on the emulated CUDA device: its definition scheduled by `schedule_generic`, against its reference.

By default the first sample of each op; with -m slow all samples, also with a symbolic batch, and nvcc compiles them.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cnncc.targets.cuda.build import CudaKernel, build, check_resources, compile_all
from cnncc.targets.cuda.generic import schedule_generic
from cnncc.targets.cuda.machine import cuda_target
from tests.ops.harness import Case, aligned, all_cases, batch_operands, prim_func, run_reference, symbolic
from tests.targets.cuda_device import Device, needs_gxx
from tests.tolerances import assert_close

TARGET = cuda_target("cuda:sm_90")
BATCH = 3
PARTS = 8  # in which all samples are run
SUMS = ("gather_dx", "gather_elements_dx")  # "exact" in the table of references, sums in another order here


def _empty(case: Case) -> bool:
    types = (*case.types, *case.op.infer_types(case.attrs, case.types))
    return any(t is not None and 0 in t.shape for t in types)


# to_layout's results are physical arrays, which the reference does not give; nothing is launched for empty results.
CASES = [case for case in all_cases() if case.op.name != "to_layout" and not _empty(case)]


class Launch:
    """A case as a kernel: static, or with a symbolic batch."""

    def __init__(self, case: Case, free: bool):
        self.case, self.free = case, free
        chosen = symbolic(case) if free else (case.attrs, case.types)
        assert chosen is not None
        func = prim_func(case.op, *chosen, case.op.infer_types(*chosen))
        scheduled, self.workspaces, self.recipe = schedule_generic(func, TARGET)
        name = f"{case}_{'free' if free else 'fixed'}".replace("-", "_")
        self.kernel: CudaKernel = build(scheduled, TARGET, name)

    def check(self, device: Device) -> None:
        """Both orders of threads give the reference's results."""
        case = self.case
        arrays = case.arrays(BATCH, batch_operands(case)) if self.free else case.arrays()
        with np.errstate(all="ignore"):
            expected = [np.asarray(e) for e in run_reference(case, arrays, self.free)]
        kind = "reduction" if case.op.name in SUMS else case.kind
        for backwards in (False, True):
            results = [aligned(np.zeros(e.shape, e.dtype)) for e in expected]
            scratch = [np.zeros([d if isinstance(d, int) else BATCH for d in s], t) for s, t in self.workspaces]
            operands = [aligned(a) for a in arrays if a is not None]
            device.run(self.kernel.symbol, *operands, *results, *scratch, backwards=backwards)
            for result, e in zip(results, expected, strict=True):
                assert_close(result, e, kind, case.dtype, label=self.kernel.symbol)


def failures(launches: list[Launch], device: Device) -> list[str]:
    """What went wrong, a line a launch, so that one run names all of them."""
    found = []
    for launch in launches:
        try:
            launch.check(device)
        except AssertionError as error:
            found.append(f"{launch.recipe}: {error}")
    return found


@needs_gxx
def test_the_first_sample_of_every_op(tmp_path: Path) -> None:
    launches = [Launch(case, False) for case in CASES if case.number == 0]
    assert not failures(launches, Device([launch.kernel for launch in launches], tmp_path))


@needs_gxx
@pytest.mark.slow
@pytest.mark.parametrize("part", range(PARTS))
def test_every_sample_of_every_op(part: int, tmp_path: Path) -> None:
    cases = CASES[part::PARTS]
    launches = [Launch(case, False) for case in cases]
    launches += [Launch(case, True) for case in cases if symbolic(case) is not None]
    kernels: list[Any] = [launch.kernel for launch in launches]
    assert not failures(launches, Device(kernels, tmp_path))
    if shutil.which("nvcc") is not None:
        check_resources((r for code in compile_all(kernels, TARGET) for r in code.resources), TARGET)
