"""Graph --> graph rewrites. The two lists below are the whole order of things."""

from __future__ import annotations

from cnncc.passes.batchnorm import fold_batchnorm
from cnncc.passes.canonicalize import canonicalize
from cnncc.passes.choose import choose
from cnncc.passes.constants import fold_constants
from cnncc.passes.conv_transpose import lower_conv_transpose
from cnncc.passes.dilation import lower_dilation
from cnncc.passes.duplicates import merge_duplicates
from cnncc.passes.folds import split_folds
from cnncc.passes.gates import gate_weights
from cnncc.passes.layouts import lay_out
from cnncc.passes.manager import Context, Pass, Step, run_passes
from cnncc.passes.outputs import separate_outputs
from cnncc.passes.pads import fold_pad
from cnncc.passes.pool_behind import fuse_pools
from cnncc.passes.pooling import order_pools
from cnncc.passes.producers import fuse_producers
from cnncc.passes.products import flatten_matmul, turn_weights
from cnncc.passes.regions import propose_kernels
from cnncc.passes.repeats import repeat_chains
from cnncc.passes.resizing import split_resize
from cnncc.passes.statistics import split_batchnorm
from cnncc.passes.stop_gradient import remove_stop_gradients
from cnncc.passes.strides import split_strides
from cnncc.passes.tiles import choose_tiles
from cnncc.passes.transposes import sink_transposes

REMOVE_STOP_GRADIENTS = Step("remove-stop-gradients", remove_stop_gradients)
CANONICALIZE = Step("canonicalize", canonicalize)
FOLD_CONSTANTS = Step("fold-constants", fold_constants)
FOLD_PAD = Step("fold-pad", fold_pad)
FOLD_BATCHNORM = Step("fold-batchnorm", fold_batchnorm)
SINK_TRANSPOSES = Step("sink-transposes", sink_transposes)
LOWER_DILATION = Step("lower-dilation", lower_dilation)
SPLIT_STRIDES = Step("split-strides", split_strides)
GATE_WEIGHTS = Step("gate-weights", gate_weights)
ORDER_POOLS = Step("order-pools", order_pools)
FLATTEN_MATMUL = Step("flatten-matmul", flatten_matmul)
TURN_WEIGHTS = Step("turn-weights", turn_weights)
LOWER_CONV_TRANSPOSE = Step("lower-conv-transpose", lower_conv_transpose)
SPLIT_FOLDS = Step("split-folds", split_folds)
SPLIT_RESIZE = Step("split-resize", split_resize)
MERGE_DUPLICATES = Step("merge-duplicates", merge_duplicates)
REMOVE_DEAD = Step("remove-dead", lambda graph, context: graph.tidy())
SPLIT_BATCHNORM = Step("split-batchnorm", split_batchnorm)
REPEAT_CHAINS = Step("repeat-chains", repeat_chains)
SEPARATE_OUTPUTS = Step("separate-outputs", separate_outputs)
PROPOSE_KERNELS = Step("propose-kernels", propose_kernels)
CHOOSE = Step("choose", choose)
FUSE_POOLS = Step("fuse-pools", fuse_pools)
FUSE_PRODUCERS = Step("fuse-producers", fuse_producers)
LAY_OUT = Step("lay-out", lay_out)
CHOOSE_TILES = Step("choose-tiles", choose_tiles)

LOWERING: tuple[Pass, ...] = (
    SEPARATE_OUTPUTS, PROPOSE_KERNELS, CHOOSE, FUSE_POOLS, FUSE_PRODUCERS, LAY_OUT, CHOOSE_TILES
)  # fmt: skip
INFERENCE: tuple[Pass, ...] = (
    REMOVE_STOP_GRADIENTS,
    CANONICALIZE,
    FOLD_CONSTANTS,
    SINK_TRANSPOSES,
    CANONICALIZE,
    FOLD_PAD,
    FOLD_BATCHNORM,
    SPLIT_BATCHNORM,
    ORDER_POOLS,
    GATE_WEIGHTS,
    LOWER_CONV_TRANSPOSE,
    LOWER_DILATION,
    SPLIT_STRIDES,
    SPLIT_FOLDS,
    SPLIT_RESIZE,
    FLATTEN_MATMUL,
    CANONICALIZE,
    FOLD_CONSTANTS,
    TURN_WEIGHTS,
    MERGE_DUPLICATES,
    REMOVE_DEAD,
    *LOWERING,
)
TRAINING: tuple[Pass, ...] = (
    REMOVE_STOP_GRADIENTS,
    CANONICALIZE,
    FOLD_CONSTANTS,
    SINK_TRANSPOSES,
    CANONICALIZE,
    FOLD_PAD,
    ORDER_POOLS,
    SPLIT_BATCHNORM,
    LOWER_CONV_TRANSPOSE,
    SPLIT_FOLDS,
    SPLIT_RESIZE,
    FLATTEN_MATMUL,
    CANONICALIZE,
    FOLD_CONSTANTS,
    MERGE_DUPLICATES,
    REMOVE_DEAD,
    REPEAT_CHAINS,
    *LOWERING,
)

PASSES: dict[str, Pass] = {p.name: p for p in (*INFERENCE, *TRAINING)}

__all__ = ["INFERENCE", "LOWERING", "PASSES", "TRAINING", "Context", "Pass", "Step", "run_passes"]
