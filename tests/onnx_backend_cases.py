"""Which of ONNX's own backend tests are ours: operators by name, and the cases left out, each with its reason."""

from __future__ import annotations

# A case is run if every operator of its model (bodies of If and Loop included) stands here.
_NAMES = """
Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization Cast CastLike Ceil Celu Clip
Col2Im Compress Concat Constant ConstantOfShape Conv ConvTranspose Cos Cosh CumSum DepthToSpace DequantizeLinear Div
Dropout Einsum Elu Equal Erf Exp Expand EyeLike Flatten Floor GRU Gather GatherElements GatherND Gelu Gemm
GlobalAveragePool GlobalLpPool GlobalMaxPool Greater GreaterOrEqual GridSample GroupNormalization HardSigmoid
HardSwish Hardmax Identity If InstanceNormalization IsInf IsNaN LRN LSTM LayerNormalization LeakyRelu Less LessOrEqual
Log LogSoftmax LpNormalization LpPool MatMul Max MaxPool MaxUnpool Mean MeanVarianceNormalization Min Mish Mod Mul Neg
Not OneHot Or PRelu Pad Pow QuantizeLinear RMSNormalization RNN Range Reciprocal ReduceL1 ReduceL2 ReduceLogSum
ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize Round Scatter
ScatterElements ScatterND Selu Shape Shrink Sigmoid Sign Sin Sinh Size Slice Softmax Softplus Softsign SpaceToDepth
Split Sqrt Squeeze Sub Sum Swish Tan Tanh ThresholdedRelu Tile TopK Transpose Trilu Unsqueeze Upsample Where Xor
"""
OPERATORS: frozenset[str] = frozenset(_NAMES.split())

# Patterns on test names (re.search) --> why they are skipped. A pattern that meets no case fails a test.
EXCLUDED: dict[str, str] = {
    r"FLOAT8|linear_e[45]m": "8-bit floats: the IR has no such element type",
    r"FLOAT4E2M1|linear_float4e2m1": "4-bit floats: the IR has no such element type",
    r"INT[24]_|linear_u?int[24]_cpu": "2-bit and 4-bit integers: the IR has no such element type",
    r"linear_blocked": "blocked quantisation is for language models",
    r"equal_string": "strings are no tensors of a CNN",
    r"identity_(sequence|opt)": "sequences and optionals are no tensors",
    r"training_dropout": "training is cnncc.train's: dropout of an ONNX file is the identity",
    r"einsum_batch_diagonal": "einsum with a letter twice in one operand (a diagonal) is not imported",
    r"maxpool_with_argmax_2d_precomputed_strides": "indices in column-major order (storage_order=1) are not imported",
    r"resize_.*_exclude_outside": "resize with exclude_outside is not imported",
    r"resize_tf_crop_and_resize": "resize of a region of interest is not imported",
    r"resize_.*_antialias": "resize with antialiasing is not imported",
    r"resize_downsample_scales_(linear|cubic)_align_corners": "the case aligns the corners of a fractional length "
    "(2.4 pixels); ONNX Runtime, too, aligns those of the output that there is",
    r"gridsample_(bicubic|reflection|volumetric)": "cubic, reflected and volumetric grid samples are not imported",
    r"scatter.*_(add|multiply|mul|max|min|duplicate)": "scatters that reduce are not imported",
    r"causal_conv_with_state_silu_fp16|attention_.*_fp16_expanded": "a float16 result one unit in the last place away "
    "is more than rtol 1e-3",
    r"PReLU_[123]d_multiparam": "opset 6 broadcasts slopes along channels; onnx's version converter leaves them so",
}
