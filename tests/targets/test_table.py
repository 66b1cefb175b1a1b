"""Algorithms from outside the package: registration, and what the kernel cache knows of their code."""

from __future__ import annotations

import dataclasses
import sys
import types
from pathlib import Path

import pytest

import cnncc
from cnncc.errors import ScheduleError
from cnncc.ir.layout import PLAIN
from cnncc.passes import LOWERING, Context, run_passes
from cnncc.targets import table
from cnncc.targets.algorithm import Algorithm, Cost, Layouts
from cnncc.targets.lower import kernel_key
from cnncc.targets.machine import AVX512
from cnncc.targets.table import algorithms, find_algorithm, register_algorithm, registered


@dataclasses.dataclass(frozen=True)
class Tile:
    lanes: int = 8


def make(name: str = "mine", seconds: float = 1e-9, schedule=lambda *a: None) -> Algorithm:
    return Algorithm(
        name=name, op="matmul", applies=lambda p, t: None if p.k == 7 else f"k must be 7, got {p.k}",
        layouts=lambda p, t: Layouts(w=PLAIN), tiles_for=lambda p, t: Tile(),
        cost=lambda p, t, tile: Cost(seconds), define=lambda *a: None, schedule=schedule,
    )  # fmt: skip


@pytest.fixture
def clean(monkeypatch):
    """The table without what other tests registered."""
    monkeypatch.setattr(table, "_REGISTERED", {"cpu": [], "cuda": []})


def chosen(k: int, context: Context | None = None):
    b = cnncc.Builder()
    b.output(b.matmul(b.input("x", (4, k)), b.input("w", (k, 5))))
    (node,) = run_passes(b.finish(), LOWERING, context or Context(AVX512)).nodes
    return node


@pytest.mark.usefixtures("clean")
def test_choose_takes_it_where_it_applies_and_is_fastest():
    register_algorithm("cpu", make())
    context = Context(AVX512)
    assert chosen(7).attrs.algorithm == "mine"
    assert chosen(7).attrs.tile == (("lanes", 8),)
    assert chosen(8, context).attrs.algorithm != "mine"
    assert ("choose mine", "k must be 7, got 8") in [(d.rule, d.reason) for d in context.declined]
    assert find_algorithm(AVX512, "mine") in algorithms(AVX512, "matmul")


@pytest.mark.usefixtures("clean")
def test_slow_ones_are_left_alone():
    register_algorithm("cpu", make(seconds=1.0))
    assert chosen(7).attrs.algorithm != "mine"


@pytest.mark.usefixtures("clean")
def test_kinds_are_apart():
    register_algorithm("cuda", make())
    assert "mine" not in [a.name for a in algorithms(AVX512)]
    assert [a.name for a in registered()] == ["mine"]


@pytest.mark.usefixtures("clean")
@pytest.mark.parametrize("name", ["generic", "fallback", "direct", "mine"])
def test_names_are_taken_once(name):
    register_algorithm("cpu", make())
    with pytest.raises(ScheduleError, match=f"an algorithm called '{name}' for cpu already"):
        register_algorithm("cpu", make(name))


def test_kinds_have_names():
    with pytest.raises(ScheduleError, match="for cpu or cuda, got 'fpga'"):
        register_algorithm("fpga", make())


def module_with(path: Path, text: str) -> types.ModuleType:
    path.write_text(text)
    module = types.ModuleType(path.stem)
    sys.modules[path.stem] = module
    exec(compile(text, str(path), "exec"), module.__dict__)
    return module


@pytest.mark.usefixtures("clean")
def test_the_cache_key_changes_with_code_outside(tmp_path, monkeypatch):
    """Two versions of an algorithm of one name must not share cached kernels."""
    plain = kernel_key(chosen(8))
    keys = []
    for k in range(2):
        outside = module_with(tmp_path / f"outside{k}.py", f"def schedule(*a):\n    return {k}\n")
        monkeypatch.setattr(table, "_REGISTERED", {"cpu": [make(schedule=outside.schedule)], "cuda": []})
        keys.append(kernel_key(chosen(7)))
        assert kernel_key(chosen(7)) == keys[-1]
        assert kernel_key(chosen(8)) == plain
        del sys.modules[f"outside{k}"]
    assert keys[0] != keys[1]


@pytest.mark.usefixtures("clean")
def test_code_without_a_file_is_not_shared_between_processes(monkeypatch):
    from cnncc.targets import outside

    space: dict = {"__name__": "notebook"}
    exec("def schedule(*a): pass", space)
    register_algorithm("cpu", make(schedule=space["schedule"]))
    before = kernel_key(chosen(7))
    assert kernel_key(chosen(7)) == before
    monkeypatch.setattr(outside, "_PROCESS", "another process")
    assert kernel_key(chosen(7)) != before
