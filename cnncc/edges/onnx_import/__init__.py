"""ONNX --> Graph. One import function per ONNX operator, by family; see table.py."""

from __future__ import annotations

from cnncc.edges.onnx_import.load import ImportResult, UnsupportedOperators, import_model, load_onnx
from cnncc.edges.onnx_import.table import register

__all__ = ["ImportResult", "UnsupportedOperators", "import_model", "load_onnx", "register"]
