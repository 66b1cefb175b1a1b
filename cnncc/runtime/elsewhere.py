"""What stands behind an executable that was compiled for a machine other than this one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from cnncc.errors import RuntimeFault
from cnncc.runtime.calltable import CallTable
from cnncc.runtime.program import Program
from cnncc.runtime.signature import Sizes
from cnncc.runtime.state import State


class Elsewhere:
    """Keeps the state, so that the model can be saved; a run says why there is none here."""

    def __init__(self, program: Program, state: State | None, reason: str) -> None:
        own = [b.name for b in program.buffers if b.kind == "state" and b.base is None]
        self.state = State({name: program.constants[name] for name in own}) if state is None else state
        self._reason = reason

    def execute(
        self,
        arrays: Sequence[np.ndarray],
        sizes: Sizes,
        results: Sequence[np.ndarray],
        action: Callable[[CallTable], None],
    ) -> None:
        """Raises RuntimeFault."""
        raise RuntimeFault(f"{self._reason}; the model can be saved here, and loaded there")
