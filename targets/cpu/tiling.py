"""Tiles of the dense convolutions, chosen by a model of what bounds the innermost loop. Pure: imports no TVM.

A register tile of P pixels and V vectors of output channels does P * V multiply-adds a step, for P broadcasts and V
loads. Its time is that of the slower, plus what a tile costs once (clearing, epilogue, stores). The last tiles of an
axis are narrower where tiles do not divide it. Times are in units of a vector multiply-add until `Cost`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache, lru_cache, partial
from itertools import product

from cnncc.targets.algorithm import Cost
from cnncc.targets.cpu.variety import varied
from cnncc.targets.problem import ConvProblem
from cnncc.targets.target import Target

SCRATCH = 384 << 10  # bytes of stack a thread may use for its copy of the input
LATENCY = 8.8  # multiply-adds that must be independent to keep the pipelines full; a soft limit
BROADCAST = 0.75  # of a vector load: a scalar that fills a register
PER_TILE = 2.0  # multiply-adds that clearing, finishing and storing one accumulator take the time of
PER_STEP = 0.2  # of one step's counter and addresses
PER_LOOP = 3.0  # of one run of the innermost loop: its mispredicted exit, the next one's addresses
PER_COPY = 4.0  # of copying one vector of input
FROM_L2, FROM_L3 = 24.0, 8.0  # bytes of weights that arrive in a multiply-add's time
EXPOSED = 0.02  # multiply-adds that a byte from the third-level cache costs although it is fetched ahead
FAR = 4  # times the second-level cache, from which a group's input makes its passes slow
KINDS = 10  # register tiles among the candidates
IDLE = 1.1  # of a thread's equal share of the work: where one has more, others wait
ONE_CORE = 0.6  # of the machine's memory bandwidth that one of several cores can use
STREAMED = 1.5  # times faster are weights, read in order and never written
IN_CACHE = 3.0  # times faster than memory is the third-level cache
PER_TASK = 300.0  # of starting a task
FORK_SECONDS = 1.5e-6  # of a kernel that the threads share: they wait for the last
SHARED = 4.0  # times that long takes a kernel for which tiles are sought that give all threads work


@dataclass(frozen=True)
class ConvTile:
    """How a convolution is cut. `pixels`: output pixels of the register tile per spatial axis; `vectors`: its blocks
    of output channels. `group`: output pixels of a task per spatial axis; `chunk`: its blocks of output channels, a
    multiple of `vectors`. `block`: channels in a block. `copy`: a task copies its input into scratch, padded.
    `parallel`: tasks run on the threads.

    `rows`: a task makes so many rows of the max pool behind the convolution (0: there is none), the group being what
    those need, columns rounded up to whole register tiles.

    `half`: what is called a block of output channels here is half of one. One register tile has them all, and does not
    compute the last, which is padding.

    Groups divide the output; a group may end in narrower register tiles."""

    pixels: tuple[int, ...]
    vectors: int
    group: tuple[int, ...]
    chunk: int
    block: int
    copy: bool
    parallel: bool
    rows: int = 0
    half: bool = False

    @property
    def width(self) -> int:
        """Output channels of what is a block of them here."""
        return self.block // 2 if self.half else self.block


@dataclass(frozen=True)
class Filling:
    """An input that a task computes into its scratch: the multiply-adds that take the time of one vector of it; the
    pixels that a group must have, or be a multiple of; the bytes that all of it is computed from."""

    per_vector: float
    unit: int
    source: float


@dataclass(frozen=True)
class Reduction:
    """What the tile search knows of the loops inside a register tile: the steps of the innermost loop and how often it
    is run; the input channels that a pixel holds in memory; the blocks of output channels that share an input. At most
    so many accumulators, and blocks of output channels, make a register tile. `undivided`: a task makes all blocks.
    `lanes`: channels of what is a block here, 0 for the target's; `together`: blocks that read the same, 0 for all.
    `filling`: the input is computed first. `half`: the last block of output channels is at least half padding, and
    tiles may be in half blocks. `idle`: blocks at the end that are not computed, and no tile is without."""

    inner: int
    outer: int
    depth: int
    blocks: int
    accumulators: int = 32
    widest: int = 32
    undivided: bool = False
    lanes: int = 0
    together: int = 0
    filling: Filling | None = None
    half: bool = False
    idle: int = 0

    @property
    def steps(self) -> int:
        """Multiply-adds that one output sums."""
        return self.inner * self.outer

    def halves(self, block: int) -> Reduction:
        """The same in half blocks."""
        return replace(self, blocks=2 * self.blocks, lanes=block // 2, half=False, idle=1)


@cache
def divisors(n: int) -> tuple[int, ...]:
    """The divisors of n, ascending."""
    return tuple(d for d in range(1, n + 1) if n % d == 0)


def ceil_div(a: int, b: int) -> int:
    """a / b, rounded up."""
    return -(-a // b)


def covered(problem: ConvProblem, out: tuple[int, ...]) -> tuple[int, ...]:
    """Input extents that output extents read, per spatial axis."""
    return tuple(
        (o - 1) * s + d * (k - 1) + 1
        for o, s, d, k in zip(out, problem.strides, problem.dilations, problem.kernel, strict=True)
    )


def registers(pixels: int, vectors: int, target: Target) -> int:
    """Vector registers of a tile: accumulators, the weights of a step, a broadcast pixel. Where instructions broadcast
    (AVX-512), a tile of one vector takes the pixel as the memory operand of the multiply-add. Without a multiply-add,
    products in flight have registers of their own, more where instructions write over an operand (SSE)."""
    if not target.fma:
        return pixels * vectors + 1 + (4 if target.vector_bits > 128 else 6)
    if target.vector_bits == 128:  # NEON multiplies by an element: each pixel has a register with several channels
        return pixels * vectors + vectors + pixels + 4
    folded = vectors == 1 and target.vector_bits >= 512
    return pixels * vectors + vectors + (not folded)


def copied(problem: ConvProblem, group: tuple[int, ...], depth: int) -> int:
    """Bytes of the input of a group of pixels."""
    return 4 * depth * math.prod(covered(problem, group))


def unfit(problem: ConvProblem, depth: int) -> str | None:
    """Why the input of a pixel, so many channels of it, does not fit the scratch, or None."""
    least = copied(problem, (1,) * problem.rank, depth)
    return f"the input of a pixel must fit {SCRATCH} bytes of scratch, got {least}" if least > SCRATCH else None


@lru_cache(maxsize=4096)
def choose(problem: ConvProblem, target: Target, reduction: Reduction) -> ConvTile:
    """The tile with the least modelled time: the register tile first, then what a task does; where its tasks leave
    threads without work, other register tiles too. Ties go to the first."""
    found = [_choose(problem, target, way) for way in _ways(problem, target, reduction)]
    return min(found, key=lambda tile: conv_cost(problem, target, reduction, tile).seconds)


def _ways(problem: ConvProblem, target: Target, reduction: Reduction) -> Iterator[Reduction]:
    """The reduction as it is, and in half blocks where that is possible."""
    yield reduction
    if reduction.half and fits(problem, target, reduction.halves(target.block)):
        yield reduction.halves(target.block)


def _choose(problem: ConvProblem, target: Target, reduction: Reduction) -> ConvTile:
    """Of the register tile that computes fastest. Where it divides no part of an axis (6 pixels of 1,024), and a group
    would be so large that each pass over its input comes from far, also of the fastest that has groups nearby. Where
    tasks leave threads without work, of other register tiles too."""
    tiles = list(register_tiles(problem, target, reduction))
    sizes = [tile for tile in tiles if _any_group(problem, reduction, tile[0])] or tiles
    covering = _covering(problem, target, reduction)
    best = [min(sizes, key=covering)]
    again = best[0][1] < reduction.blocks
    if again and _least_input(problem, reduction, best[0][0]) > FAR * target.l2:
        near = [tile for tile in sizes if _least_input(problem, reduction, tile[0]) <= target.l2 // 2]
        best += [min(near, key=covering)] if near else []

    def least(sizes: list[tuple[tuple[int, ...], int]]) -> ConvTile:
        tasks = [task for size in sizes for task in _tasks(problem, target, reduction, *size)]
        return min(tasks, key=lambda tile: conv_cost(problem, target, reduction, tile).seconds)

    tile = least(best)
    tasks, rounds = _rounds(problem, target, reduction, tile)
    idle = rounds * target.threads > IDLE * tasks
    large = idle and conv_cost(problem, target, reduction, tile).seconds > SHARED * FORK_SECONDS
    return least(sorted(sizes, key=covering)[:KINDS]) if large else tile


def _least_input(problem: ConvProblem, reduction: Reduction, pixels: tuple[int, ...]) -> int:
    """Bytes of the input of the smallest group of pixels."""
    return copied(problem, tuple(ends[0] for ends in _ends(problem, pixels)), reduction.depth)


def fits(problem: ConvProblem, target: Target, reduction: Reduction) -> bool:
    """Whether there is a tile."""
    return any(_any_group(problem, reduction, pixels) for pixels, _ in register_tiles(problem, target, reduction))


def candidates(problem: ConvProblem, target: Target, reduction: Reduction) -> Iterator[ConvTile]:
    """Tiles worth measuring: those of the register tiles with the least modelled time, each in several tasks."""
    tiles: list[ConvTile] = []
    for way in _ways(problem, target, reduction):
        sizes = [tile for tile in register_tiles(problem, target, way) if _any_group(problem, way, tile[0])]
        sizes.sort(key=_covering(problem, target, way))
        tiles += [tile for size in sizes[:KINDS] for tile in _tasks(problem, target, way, *size)]
    return varied(
        tiles,
        seconds=lambda tile: conv_cost(problem, target, reduction, tile).seconds,
        kind=lambda tile: (tile.pixels, tile.vectors, tile.half),
    )


def _tasks(
    problem: ConvProblem, target: Target, reduction: Reduction, pixels: tuple[int, ...], vectors: int
) -> Iterator[ConvTile]:
    """The ways to cut a problem into tasks for a register tile."""
    copy = any(problem.pads) or reduction.filling is not None
    for group in _groups(problem, reduction, pixels):
        for chunk in (vectors * d for d in divisors(reduction.blocks // vectors)):
            if chunk == reduction.blocks or not reduction.undivided:
                for parallel in (False, True) if target.threads > 1 else (False,):
                    half = reduction.idle > 0
                    yield ConvTile(pixels, vectors, group, chunk, target.block, copy, parallel, half=half)


def register_tiles(problem: ConvProblem, target: Target, reduction: Reduction) -> Iterator[tuple[tuple[int, ...], int]]:
    """Register tiles (pixels, vectors) that need no more registers than the target has."""
    per_block = _registers_of(target, reduction)[0]
    rows = range(1, min(4, problem.out[-2]) + 1) if problem.rank > 1 else [1]
    columns = range(1, min(target.vector_registers, problem.out[-1]) + 1)
    several = [d for d in divisors(reduction.blocks) if d <= reduction.widest and not reduction.together % d]
    for vectors in [reduction.blocks] if reduction.idle else several:
        for row, column in product(rows, columns):
            size = row * column, (vectors - reduction.idle) * per_block
            if registers(*size, target) <= target.vector_registers and math.prod(size) <= reduction.accumulators:
                yield ((1,) * (problem.rank - 2) + (row, column))[-problem.rank :], vectors


def _covering(
    problem: ConvProblem, target: Target, reduction: Reduction
) -> Callable[[tuple[tuple[int, ...], int]], float]:
    """From a register tile to the time of those that cover the result, whose weights must first arrive, for one of its
    vectors."""
    time = cache(partial(tile_time, target, reduction))  # of tiles of one size only the narrow ends differ

    def covering(tile: tuple[tuple[int, ...], int]) -> float:
        pixels, vectors = tile
        arrival = _arrival(target, reduction, time(math.prod(pixels), vectors), vectors)
        return (_pixels_time(time, problem.out, pixels, vectors) + arrival) / vectors

    return covering


def _arrival(target: Target, reduction: Reduction, first: float, vectors: int) -> float:
    """Time that the first register tile, which takes so long, waits for weights: they come from the third-level cache,
    since nothing else in a network's run leaves them nearer."""
    per_block, lanes = _registers_of(target, reduction)
    return max(0.0, 4 * lanes * vectors * per_block * reduction.steps / FROM_L3 - first)


def _registers_of(target: Target, reduction: Reduction) -> tuple[int, int]:
    """Vectors of a block, and the lanes of each."""
    block = reduction.lanes or target.block
    lanes = min(block, target.lanes())
    return block // lanes, lanes


def _pixels_time(
    time: Callable[[int, int], float], out: tuple[int, ...], pixels: tuple[int, ...], vectors: int
) -> float:
    """Time of the register tiles that cover output pixels, with the narrower ones at the ends of the axes; `time`: of
    one of so many pixels and vectors."""
    shapes = [(1, 1)]
    for extent, pixel in zip(out, pixels, strict=True):
        whole, rest = divmod(extent, pixel)
        shapes = [
            (count * many, size * wide)
            for count, size in shapes
            for many, wide in ((whole, pixel), (1, rest))
            if many and wide
        ]
    return sum(count * time(size, vectors) for count, size in shapes)


def memory_seconds(target: Target, moved: float, share: float = 1.0) -> float:
    """Time to move so many bytes, of which the busiest core moves a share: one of several cannot use all bandwidth."""
    rate = target.gbytes_per_second * 1e9 * (1.0 if moved > target.l3 // 2 else IN_CACHE)
    return max(moved, share * moved / ONE_CORE if target.threads > 1 else 0.0) / rate


def step_time(pixels: int, vectors: int) -> float:
    """Time of one step of a register tile, its operands at hand."""
    busy = max(pixels * vectors, BROADCAST * pixels + vectors)
    return math.pow(busy**8 + LATENCY**8, 0.125) + 0.01 * (pixels + vectors) + PER_STEP


def tile_time(target: Target, reduction: Reduction, pixels: int, vectors: int) -> float:
    """Time of one register tile's whole reduction and epilogue."""
    per_block, lanes = _registers_of(target, reduction)
    v = (vectors - reduction.idle) * per_block
    step = step_time(pixels, v)
    loaded = 4 * lanes * v
    if loaded * reduction.steps > target.l2 // 2:
        step = max(step, loaded / FROM_L3)
    elif loaded * reduction.steps > target.l1 // 2:
        step = max(step, loaded / FROM_L2)
    return reduction.steps * step + reduction.outer * PER_LOOP + PER_TILE * pixels * v


def _groups(problem: ConvProblem, reduction: Reduction, pixels: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Groups of pixels for a task, of which a padded or computed copy fits the scratch.

    Only a group that ends where its axis ends may end in a narrower tile: the tile's store knows the bound of the axis,
    not that of the group, and would write over the next group, which another thread may have finished.
    """
    groups = sorted(product(*_ends(problem, pixels)), key=math.prod, reverse=True)
    if reduction.filling is not None:
        groups = [g for g in groups if math.prod(g) % reduction.filling.unit == 0]
    elif not any(problem.pads):
        return groups
    return [g for g in groups if copied(problem, g, reduction.depth) <= SCRATCH]


def _any_group(problem: ConvProblem, reduction: Reduction, pixels: tuple[int, ...]) -> bool:
    """Whether there is a group: if the smallest does not fit, no other does."""
    if reduction.filling is not None:
        return bool(_groups(problem, reduction, pixels))
    return not any(problem.pads) or _least_input(problem, reduction, pixels) <= SCRATCH


def _ends(problem: ConvProblem, pixels: tuple[int, ...]) -> list[list[int]]:
    """The extents of groups along each axis, ascending."""
    return [[g for g in divisors(o) if g == o or g % q == 0] for o, q in zip(problem.out, pixels, strict=True)]


def pieces_of(tile: ConvTile) -> int:
    """The pieces of a task, rows of register tiles along its first axis: the threads share these out, and a task of
    one chunk may be of two threads. Where a task has several chunks, or rows of a pool, it is one piece."""
    return ceil_div(tile.group[0], tile.pixels[0]) if tile.chunk == tile.vectors and not tile.rows else 1


def _rounds(problem: ConvProblem, target: Target, reduction: Reduction, tile: ConvTile) -> tuple[int, float]:
    """The tasks, and how many of them the busiest thread does."""
    groups = math.prod(o // g for o, g in zip(problem.out, tile.group, strict=True))
    tasks = problem.batch * groups * (problem.groups * reduction.blocks // tile.chunk)
    pieces = 1 if tasks == 1 and tile.copy else pieces_of(tile)  # what one task copies, one thread has
    return tasks, ceil_div(tasks * pieces, target.threads) / pieces if tile.parallel else tasks


def conv_cost(
    problem: ConvProblem, target: Target, reduction: Reduction, tile: ConvTile, written: float | None = None
) -> Cost:
    """Time of a tiled convolution: the threads' register tiles and copies, or memory where that is slower. `written`:
    bytes of results, where not those of the whole output."""
    if tile.half and reduction.half:
        reduction = reduction.halves(tile.block)
    tasks, rounds = _rounds(problem, target, reduction, tile)
    passes = tile.chunk // tile.vectors
    work = passes * _pixels_time(partial(tile_time, target, reduction), tile.group, tile.pixels, tile.vectors)
    per_block, lanes = _registers_of(target, reduction)
    weights = 4.0 * per_block * lanes * tile.chunk * reduction.steps
    if weights > target.l2 // 2:  # then each task brings them from the third-level cache again
        work = max(work, weights / FROM_L3) + EXPOSED * weights
    w = 4.0 * problem.oc * (problem.ic // problem.groups) * math.prod(problem.kernel)
    chunks = problem.groups * reduction.blocks // tile.chunk
    afresh = 1.0 if w > target.l2 // 2 else chunks / tasks  # otherwise the first task leaves them in L2
    first = tile_time(target, reduction, math.prod(tile.pixels), tile.vectors)
    work += afresh * passes * _arrival(target, reduction, first, tile.vectors)
    pixels = copied(problem, tile.group, reduction.depth)
    if pixels > target.l2 // 2:  # then each pass over them does
        work += EXPOSED * pixels * passes
    filling, start = reduction.filling, PER_TASK
    if tile.copy:
        start += pixels / (4 * lanes) * (PER_COPY if filling is None else filling.per_vector)
    unit = lanes * 2 / (target.rate(lanes) * 1e9)
    # both threads that share a task start it
    busy = (rounds * work + math.ceil(rounds) * start) * unit + (FORK_SECONDS if tile.parallel else 0.0)
    x = 4.0 * problem.batch * problem.ic * math.prod(problem.size) if filling is None else filling.source
    y = 4.0 * problem.batch * problem.oc * math.prod(problem.out) if written is None else written
    total = x + w + y
    return Cost(max(busy, memory_seconds(target, total, rounds / tasks)), 2.0 * problem.macs, total)
