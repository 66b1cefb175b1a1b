"""ONNX's own backend tests through cnncc.onnx_backend.Backend."""

from __future__ import annotations

import re
import unittest
import warnings
from typing import Any

import numpy as np
import onnx
import onnx.backend.test
import pytest
from onnx.backend.test.loader import load_model_tests
from onnx.version_converter import convert_version

from cnncc.edges.onnx_import.table import STANDARD
from cnncc.onnx_backend import Backend
from tests.onnx_backend_cases import EXCLUDED, OPERATORS

OLD, RAISED = 7, 9
KINDS = ("node", "simple", "pytorch-converted", "pytorch-operator")


class _RaisingBackend(Backend):
    """The backend, with models of opset 1 to 6 (PyTorch's cases) raised by onnx's version converter."""

    @classmethod
    def is_compatible(cls, model: onnx.ModelProto, device: str = "CPU", **kwargs: Any) -> bool:
        """Always: a case that the backend declines would pass unseen."""
        return True

    @classmethod
    def prepare(cls, model: onnx.ModelProto, device: str = "CPU", **kwargs: Any) -> Any:
        if all(opset.version < OLD for opset in model.opset_import if opset.domain in ("", "ai.onnx")):
            model = convert_version(model, RAISED)
        return super().prepare(model, device, **kwargs)


def _operators(graph: onnx.GraphProto) -> set[str]:
    """Operators of a graph and of the graphs in its attributes, with their domain where it is not ONNX's."""
    found = set()
    for node in graph.node:
        found.add(node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}")
        for attribute in node.attribute:
            for body in (attribute.g, *attribute.graphs):
                found |= _operators(body)
    return found


def _included() -> set[str]:
    """Names of the cases whose operators are all ours."""
    names = set()
    for kind in KINDS:
        for case in load_model_tests(kind=kind):
            model = case.model if case.model is not None else onnx.load(f"{case.model_dir}/model.onnx")
            if _operators(model.graph) <= OPERATORS:
                names.add(f"{case.name}_cpu")
    return names


def _test_cases() -> dict[str, type[unittest.TestCase]]:
    """The test classes, without cases of other operators and devices; excluded ones are skipped with their reason."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # the generators divide by zero on purpose
        included = _included()
        classes = onnx.backend.test.BackendTest(_RaisingBackend, __name__).test_cases
    for class_ in classes.values():
        for name in [name for name in vars(class_) if name.startswith("test_")]:
            if name not in included:
                delattr(class_, name)
                continue
            reason = next((why for pattern, why in EXCLUDED.items() if re.search(pattern, name)), None)
            if reason:
                setattr(class_, name, unittest.skip(reason)(getattr(class_, name)))
            elif "_expanded" in name:  # an operator's own definition by others: mostly attention, slow to compile
                setattr(class_, name, pytest.mark.slow(getattr(class_, name)))
    return {name: class_ for name, class_ in classes.items() if any(key.startswith("test_") for key in vars(class_))}


CASES = _test_cases()
globals().update(CASES)


def test_all_operators_that_are_imported_are_tested():
    assert set(STANDARD) == OPERATORS


def test_exclusions_meet_cases():
    names = [name for class_ in CASES.values() for name in vars(class_) if name.startswith("test_")]
    idle = [pattern for pattern in EXCLUDED if not any(re.search(pattern, name) for name in names)]
    assert not idle, f"no case has such a name: {idle}"
    assert len(names) > 1400
