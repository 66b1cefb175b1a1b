"""From scheduled blocks to packed functions: TVM's passes for one CPU function, written out.

They are those of `tvm.s_tir.pipeline` without the ones for accelerators, and loops are partitioned before indices are
narrowed to 32 bits: narrowing renames the loops' variables, and then the hints name none.
"""

from __future__ import annotations

from typing import Any


def lower(team: bool, ahead: bool) -> tuple[Any, Any, Any]:
    """The passes on the module, and those that finish host and device functions. `team`: loops are shared out.
    `ahead`: large weights are fetched ahead."""
    import tvm
    from tvm.s_tir import transform as s
    from tvm.s_tir.pipeline import finalize_device_passes, finalize_host_passes
    from tvm.tirx import transform as t

    lets = tvm.transform.module_pass(_store_lets, opt_level=0, name="cnncc.StoreLets")
    guards = tvm.transform.module_pass(_branch_around, opt_level=0, name="cnncc.BranchAround")
    straight = tvm.transform.module_pass(_straighten, opt_level=0, name="cnncc.Straighten")
    prefetch = tvm.transform.module_pass(_fetch_ahead, opt_level=0, name="cnncc.FetchAhead")
    partition = tvm.transform.module_pass(_partition, opt_level=0, name="cnncc.Partition")
    share = tvm.transform.module_pass(_share_out if team else _outermost, opt_level=0, name="cnncc.ShareOut")
    blocks_to_loops = [
        s.ConvertSSA(),  # partitioned loops and inlined stages repeat expressions with their variables
        s.CanonicalizeLoop(),
        s.LowerInitBlock(),
        s.PlanAndUpdateBufferAllocationLocation(),
        s.ConvertBlocksToOpaque(),
        s.CompactBufferAllocation(),
        s.LowerMatchBuffer(),
        s.StmtSimplify(),
        s.LowerOpaqueBlock(),
        lets,
        t.FlattenBuffer(),
        straight,
        guards,
        t.BF16ComputeLegalize(),
    ]
    loops = [
        partition,
        t.NarrowDataType(32),
        t.VectorizeLoop(True),
        t.StorageRewrite(),
        s.HoistIfThenElse(),
        t.UnrollLoop(),
        *([prefetch] if ahead else []),
        s.RenormalizeSplitPattern(),
        t.StmtSimplify(),
        t.RemoveNoOp(),
        s.RewriteUnsafeSelect(),
        t.CommonSubexprElim(),
    ]
    functions = [
        share,
        t.FP8ComputeLegalize(),
        t.VerifyMemory(),
        t.AnnotateEntryFunc(),
        t.SplitHostDevice(),
        t.MakePackedAPI(),
        t.FP8StorageLegalize(),
        t.BF16StorageLegalize(),
    ]
    passes = tvm.transform.Sequential([*blocks_to_loops, *loops, *functions])
    return passes, finalize_host_passes, finalize_device_passes


def _store_lets(module: Any, _context: Any) -> Any:
    import tvm

    from cnncc.targets.cpu.lets import store_lets

    return tvm.IRModule({name: store_lets(func) for name, func in module.functions.items()}, attrs=module.attrs)


def _straighten(module: Any, _context: Any) -> Any:
    import tvm

    from cnncc.targets.cpu.straighten import straighten_offsets

    functions = {name: straighten_offsets(func) for name, func in module.functions.items()}
    return tvm.IRModule(functions, attrs=module.attrs)


def _branch_around(module: Any, _context: Any) -> Any:
    import tvm

    from cnncc.targets.cpu.guards import branch_around

    return tvm.IRModule({name: branch_around(func) for name, func in module.functions.items()}, attrs=module.attrs)


def _partition(module: Any, _context: Any) -> Any:
    """TVM's LoopPartition; parts of one iteration stay loops where parallel loops are parted, which are shared out."""
    import tvm
    from tvm.s_tir.transform import LoopPartition

    from cnncc.targets.cpu.team import nested

    keep = any(nested(func) for func in module.functions.values())
    with tvm.transform.PassContext(config={"s_tir.LoopPartition": {"no_unroll_loop_with_extent_one": keep}}):
        return LoopPartition()(module)


def _fetch_ahead(module: Any, _context: Any) -> Any:
    import tvm

    from cnncc.targets.cpu.prefetch import fetch_ahead

    return tvm.IRModule({name: fetch_ahead(func) for name, func in module.functions.items()}, attrs=module.attrs)


def _share_out(module: Any, _context: Any) -> Any:
    import tvm

    from cnncc.targets.cpu.team import share_out

    return tvm.IRModule({name: share_out(func) for name, func in module.functions.items()}, attrs=module.attrs)


def _outermost(module: Any, _context: Any) -> Any:
    import tvm

    from cnncc.targets.cpu.team import outermost

    return tvm.IRModule({name: outermost(func) for name, func in module.functions.items()}, attrs=module.attrs)
