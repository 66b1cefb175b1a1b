"""The algorithms of CUDA targets, in the order in which reports list them."""

from __future__ import annotations

from cnncc.targets.algorithm import Algorithm
from cnncc.targets.cuda.conv import DIRECT, IMPLICIT_GEMM
from cnncc.targets.cuda.matmul import GEMM, GEMV
from cnncc.targets.cuda.pool import POOL

ALGORITHMS: tuple[Algorithm, ...] = (IMPLICIT_GEMM, DIRECT, GEMM, GEMV, POOL)
