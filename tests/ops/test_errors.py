"""Wrong operands and attributes: each error names the rule and the numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cnncc.builder import Builder
from cnncc.errors import GraphError

Shape = tuple[Any, ...]

BAD: list[tuple[str, list[tuple[Shape, str]], dict[str, Any], str]] = [
    ("conv", [((1, 3, 8, 8), "f32"), ((4, 2, 3, 3), "f32")], {}, r"channels of w .* must be 3, got 2"),
    ("conv", [((1, 3, 2, 2), "f32"), ((4, 3, 3, 3), "f32")], {}, r"the window must fit .* axis 0 has 2 \+ 0 \+ 0 < 3"),
    ("conv", [((1, 3, 8), "f32"), ((4, 3, 3, 3), "f32")], {}, "x and w must have one rank from 3 .* got 3 and 4"),
    ("conv", [((1, 3, 8, 8), "i32"), ((4, 3, 3, 3), "i32")], {}, "one floating-point dtype, got i32 and i32"),
    ("conv", [((1, 3, 8, 8), "f32"), ((4, 1, 3, 3), "f32")], {"groups": 2}, "groups must divide .* got 2 groups and 3"),
    (
        "max_pool",
        [((1, 3, 8, 8), "f32")],
        {"kernel": (3,)},
        r"kernel must have 2 numbers for 2 spatial axes, got \(3,\)",
    ),
    ("max_pool", [((1, 3), "f32")], {"kernel": ()}, "x must have rank 3 to 5, got 2: 1x3"),
    ("average_pool", [((1, 3, 8), "i32")], {"kernel": (3,)}, "x must have one floating-point dtype, got i32"),
    ("max_pool_dx", [((1, 3, 8), "f32"), ((1, 3, 7), "f32")], {"kernel": (3,)}, "dy must have shape 1x3x6, got 1x3x7"),
    ("adaptive_average_pool", [((1, 3, 8, 8), "f32")], {"size": (0, 2)}, "size must be 2 positive numbers, got 0x2"),
    (
        "batch_norm",
        [((1, 3, 8), "f32"), *[((4,), "f32")] * 4],
        {},
        "gamma must have shape 3, one number per channel, got 4",
    ),
    ("batch_norm_train", [((3,), "f32"), *[((3,), "f32")] * 2], {}, "x must have rank at least 2, got 1"),
    ("layer_norm", [((2, 8), "f32"), ((7,), "f32")], {}, "shapes must broadcast .* got 8 and 7"),
    ("layer_norm", [((2, 8), "f32"), ((2, 8), "f32")], {}, "gamma must broadcast to 8, got 2x8"),
    ("group_norm", [((1, 6, 4), "f32"), ((6,), "f32"), ((6,), "f32")], {"groups": 4}, "got 4 groups and 6 channels"),
    ("lrn", [((1, 6, 4), "f32")], {"size": 0}, "size must be positive, got 0"),
    ("matmul", [((2, 3), "f32"), ((4, 5), "f32")], {}, "columns of x must equal rows of w, got 3 and 4"),
    ("matmul", [((3,), "f32"), ((3, 5), "f32")], {"transpose_x": True}, "a vector cannot be transposed"),
    ("matmul", [((2, 3), "f32"), ((3, 5), "f64")], {}, "x, w must have one floating-point dtype, got f32 and f64"),
    ("add", [((2, 3), "f32"), ((2, 3), "f64")], {}, "operands must have one dtype, got f32 and f64; insert a cast"),
    ("add", [((2, 3), "f32"), ((2, 4), "f32")], {}, "shapes must broadcast .* got 2x3 and 2x4"),
    ("add", [(("N", 3), "f32"), (("M", 3), "f32")], {}, "shapes must broadcast .* got Nx3 and Mx3"),
    ("sigmoid", [((2,), "i32")], {}, "operands must be floating point, got i32"),
    ("and", [((2,), "f32"), ((2,), "f32")], {}, "operands must be bool, got f32"),
    ("where", [((2,), "f32"), ((2,), "f32"), ((2,), "f32")], {}, r"where takes \(bool, T, T\)"),
    ("prelu", [((2, 3), "f32"), ((4, 2, 3), "f32")], {}, "slope must broadcast to the shape of x"),
    ("softmax", [((2, 3), "f32")], {"axis": 2}, "axis must be from -2 to 1 for rank 2, got 2"),
    ("reduce_sum", [((2, 3), "f32")], {"axes": (0, -2)}, r"axes must differ, got \(0, -2\) for rank 2"),
    ("reduce_sum", [((2, 3), "bool")], {}, "x must be a number type, got bool; insert a cast"),
    ("reduce_max", [((2, 0), "f32")], {"axes": (1,)}, "an empty axis has no largest or smallest element, got axis 1"),
    ("argmax", [((2, 0), "f32")], {"axis": 1}, "not empty along axis 1"),
    ("cumsum", [((2, 3), "f32")], {"axis": 5}, "axis must be from -2 to 1"),
    ("reshape", [((2, 3), "f32")], {"shape": (4, 2)}, r"as many elements, got 2x3 \(6\) and 4x2 \(8\)"),
    ("reshape", [((2, 3), "f32")], {"shape": (-1, 4)}, "cannot resolve -1: 6 elements do not divide by 4"),
    ("reshape", [((2, 3), "f32")], {"shape": (-1, -1)}, "dimensions must not be negative"),
    ("transpose", [((2, 3), "f32")], {"perm": (0, 0)}, r"perm must hold each axis from 0 to 1 once, got \(0, 0\)"),
    ("expand", [((2, 3), "f32")], {"shape": (4, 3)}, "shapes must broadcast .* got 2x3 and 4x3"),
    ("concat", [((2, 3), "f32"), ((2, 4), "f32")], {"axis": 0}, "must agree in dtype and on every axis but 0"),
    ("concat", [], {}, "concat needs at least one operand"),
    ("tile", [((2, 3), "f32")], {"repeats": (2,)}, "repeats must be 2 numbers, one per axis"),
    ("slice", [((2, 3), "f32")], {"starts": (0,), "ends": (1, 2)}, "must be equally many"),
    ("slice", [((2, 3), "f32")], {"starts": (0,), "ends": (1,), "steps": (0,)}, "steps must not be 0"),
    (
        "slice",
        [(("N", 3), "f32")],
        {"starts": (4,), "ends": (0,), "steps": (-1,)},
        "a negative step needs a known size, got N",
    ),
    ("pad", [((2, 3), "f32")], {"pads": (1, 1)}, r"pads must have 4 numbers .* got \(1, 1\)"),
    ("pad", [((2, 3), "f32")], {"pads": (0, 1, 0, 1), "mode": "mirror"}, "mode must be one of .* got 'mirror'"),
    ("pad", [((2, 3), "f32")], {"pads": (0, 3, 0, 0), "mode": "reflect"}, "'reflect' has 2 elements to copy on axis 1"),
    ("pad", [((2, 3), "f32")], {"pads": (0, -2, 0, -2)}, "axis 1 must not become negative, got 3 with pads -2 and -2"),
    ("gather", [((4, 3), "f32"), ((2,), "f32")], {}, "indices must be i32 or i64, got f32; insert a cast"),
    ("gather", [((0, 3), "f32"), ((2,), "i64")], {}, "axis 0 must not be empty, got 0x3"),
    ("gather_elements", [((4, 3), "f32"), ((2, 5), "i64")], {}, "fit on every axis but 0, got 2x5 for 4x3"),
    ("one_hot", [((4,), "i64")], {"depth": 0}, "depth must be positive"),
    ("resize", [((1, 2, 4, 4), "f32")], {"size": (8, 8), "mode": "area"}, "mode must be one of .* got 'area'"),
    ("resize", [((1, 2, 4, 4), "i32")], {"size": (8, 8), "mode": "linear"}, "floating-point dtype, got i32"),
    ("resize", [((1, 2, 4, 4), "f32")], {"size": (0, 8)}, "sizes must be positive"),
    ("locally_connected", [((1, 2, 6), "f32"), ((5, 3, 2, 3), "f32")], {}, "filters for 4 places, got 5"),
    ("cast", [((2,), "f32")], {"dtype": "float"}, "dtype must be one of .* got 'float'"),
]


@pytest.mark.parametrize(
    ("op", "operands", "attributes", "message"), BAD, ids=[f"{b[0]}-{k}" for k, b in enumerate(BAD)]
)
def test_message(op: str, operands: list[tuple[Shape, str]], attributes: dict[str, Any], message: str):
    b = Builder()
    values = [b.input(f"x{k}", shape, dtype) for k, (shape, dtype) in enumerate(operands)]
    with pytest.raises(GraphError, match=message) as caught:
        b.op(op, *values, source="layer1.0", **attributes)
    assert str(caught.value).startswith(f"{op} 'layer1.0': "), "the node is named"


def test_operands_are_counted():
    b = Builder()
    x = b.input("x", (2,))
    with pytest.raises(GraphError, match=r"add takes operands \(x, y\), got 1"):
        b.add(x)
    with pytest.raises(GraphError, match=r"relu takes operands \(x\), got 2"):
        b.relu(x, x)
    with pytest.raises(GraphError, match="layer_norm needs operand gamma, got none"):
        b.layer_norm(x, None, np.ones(2, np.float32))
