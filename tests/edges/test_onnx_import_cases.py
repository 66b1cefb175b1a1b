"""ONNX import on the node cases of the onnx package: imported and interpreted, or refused with a reason."""

from __future__ import annotations

import functools
import warnings

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.backend.test.case.node import collect_testcases

from cnncc.edges.onnx_import import UnsupportedOperators, load_onnx
from cnncc.errors import CnnccError, UnsupportedError
from cnncc.interpret import interpret
from cnncc.onnx_backend import needed_inputs
from tests import zoo
from tests.tolerances import assert_close

_MISSING = """
AffineGrid Attention Bernoulli BitCast BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor BlackmanWindow
CausalConvWithState ConcatFromSequence ConvInteger CumProd DFT DeformConv Det DynamicQuantizeLinear
HammingWindow HannWindow ImageDecoder LinearAttention Loop MatMulInteger MaxRoiPool
MelWeightMatrix Multinomial NonMaxSuppression NonZero Optional OptionalGetElement OptionalHasElement QLinearConv
QLinearMatMul RandomNormal RandomNormalLike RandomUniform RandomUniformLike RegexFullMatch ReverseSequence RoiAlign
RotaryEmbedding STFT Scan SequenceAt SequenceConstruct SequenceEmpty SequenceErase
SequenceInsert SequenceLength SequenceMap SplitToSequence StringConcat StringNormalizer StringSplit TensorScatter
TfIdfVectorizer Unique
"""
MISSING = frozenset(_MISSING.split())

# Cases of operators that we have, left out: beginning of the name --> a part of the message that refuses it.
LEFT_OUT = {
    "test_training_dropout": "training_mode",
    "test_einsum_batch_diagonal": "a diagonal",
    "test_if_seq": "SequenceConstruct|sequence|SEQUENCE",
    "test_if_opt": "optional|Optional|OPTIONAL",
    "test_maxpool_with_argmax_2d_precomputed_strides": "column-major",
    "test_quantizelinear_blocked": "quantisation",
    "test_dequantizelinear_blocked": "quantisation",
    "test_resize_": "exclude_outside=1|tf_crop_and_resize|antialias=1",
    "test_gridsample_": "mode=cubic|padding_mode=reflection|rank 5",
    "test_scatter": "reduction=",
}
# ONNX Runtime, too, aligns the corners of the output that there is, not of a fractional one (2.4 pixels).
DIFFERENT = {"test_resize_downsample_scales_linear_align_corners", "test_resize_downsample_scales_cubic_align_corners"}
OTHER_TYPES = "element type|inputs must be tensors|opset must be at least"


@functools.cache
def cases():
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        return collect_testcases(None)


def array(x):
    return numpy_helper.to_array(x) if isinstance(x, onnx.TensorProto) else np.asarray(x)


def import_case(case):
    """The graph; inputs that must be known at import are given as constants."""
    names = [i.name for i in case.model.graph.input]
    values = dict(zip(names, case.data_sets[0][0], strict=False))
    constants = {}
    while True:
        try:
            return load_onnx(case.model, constants=constants)
        except UnsupportedOperators as error:
            more = {n: array(values[n]) for n in needed_inputs(error) if n not in constants}
            if not more:
                raise
            constants |= more


def run_case(case):
    """Raises AssertionError where a result differs, UnsupportedError where the case cannot be imported."""
    graph = import_case(case)
    names = [i.name for i in case.model.graph.input]
    for inputs, outputs in case.data_sets:
        feeds = {n: array(x) for n, x in zip(names, inputs, strict=True)}
        results = interpret(graph, {v.name: feeds[v.name] for v in graph.inputs})
        for expected, name in zip(outputs, (o.name for o in case.model.graph.output), strict=True):
            e, a = array(expected), results[name]
            assert (a.dtype, a.shape) == (e.dtype, e.shape)
            if a.dtype.kind in "fV":
                loose = 1 if a.dtype.itemsize > 2 else 20
                np.testing.assert_allclose(
                    *(a.astype(np.float64), e.astype(np.float64)), rtol=loose * max(case.rtol, 1e-3), atol=loose * 1e-6
                )
            else:
                np.testing.assert_array_equal(a, e)


def refusal_is_expected(case, error):
    text = str(error)
    for start, reason in LEFT_OUT.items():
        if case.name.startswith(start):
            return any(part in text for part in reason.split("|"))
    if any(part in text for part in OTHER_TYPES.split("|")):
        return True
    records = getattr(error, "records", ())
    return bool(records) and all(r.op in MISSING or (r.domain and not r.reason) for r in records)


def test_cases_of_onnx():
    """Every case of an operator that we have, through the interpreter."""
    wrong, passed = [], 0
    for case in cases():
        if case.name in DIFFERENT:
            continue
        try:
            run_case(case)
            passed += 1
        except UnsupportedError as error:
            if not refusal_is_expected(case, error):
                wrong.append(f"{case.name}: {error}")
        except (AssertionError, CnnccError) as error:
            wrong.append(f"{case.name}: {str(error).strip()[:300]}")
    assert not wrong, "\n".join(wrong)
    assert passed > 1000


def test_two_cases_differ_as_they_do_in_onnxruntime():
    for case in cases():
        if case.name in DIFFERENT:
            feeds = {i.name: array(x) for i, x in zip(case.model.graph.input, case.data_sets[0][0], strict=True)}
            expected = zoo.reference(case.model, feeds)
            graph = import_case(case)
            results = interpret(graph, {v.name: feeds[v.name] for v in graph.inputs})
            for name, e in expected.items():
                assert_close(results[name], e, "conv", label=case.name)
