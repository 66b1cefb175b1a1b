"""Artifacts: saved, loaded in a process without compiler, torch or onnx; damaged, foreign and hostile files."""

from __future__ import annotations

import importlib.metadata
import json
import os
import stat
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cnncc.errors import CnnccError, ModelFileError, RuntimeFault
from cnncc.runtime import artifact
from cnncc.runtime.arena import address
from cnncc.runtime.artifact import load
from cnncc.runtime.executable import Executable
from tests.runtime import kernels as hand

ROOT = Path(__file__).parents[2]


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "model.cnncc"
    Executable(hand.residual(2)).save(path)
    return path


def test_a_loaded_model_runs_and_says_the_same(saved: Path) -> None:
    loaded = load(saved)
    one = Executable(hand.residual(2))
    assert (loaded.inputs, loaded.outputs, loaded.peak_memory) == (one.inputs, one.outputs, one.peak_memory)
    for rows in (1, 9):
        hand.run_one(loaded, rows)


def test_saving_twice_gives_the_same_file(saved: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.cnncc"
    load(saved).save(again)
    assert again.read_bytes() == saved.read_bytes()


def test_weights_are_mapped_in_place(saved: Path) -> None:
    weights = load(saved).program.constants["w"]
    assert not weights.flags.owndata
    assert not weights.flags.writeable
    assert address(weights) % 64 == 0
    with zipfile.ZipFile(saved) as archive:
        assert archive.testzip() is None


def test_state_is_saved_as_it_is_now(tmp_path: Path) -> None:
    one = Executable(hand.counter())
    ones = np.ones((1, 64), np.float32)
    one(ones)
    one(ones)
    one.save(tmp_path / "trained")
    two = load(tmp_path / "trained")
    np.testing.assert_array_equal(two(ones), np.full(64, -2))
    np.testing.assert_array_equal(one.state["p"], np.full((1, 64), -1))


FRESH = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "onnx", "onnxruntime"):
            raise ImportError("blocked: " + name)
sys.meta_path.insert(0, Block())
import numpy as np
from cnncc.runtime.artifact import load
model = load(sys.argv[1])
x = np.linspace(-1, 1, 3 * 64, dtype=np.float32).reshape(3, 64)
np.save(sys.argv[2], model.run({"x": x})["y"])
loaded = {m.partition(".")[0] for m in sys.modules}
print(sorted(loaded & {"tvm", "torch", "onnx", "sympy", "networkx", "rich", "click"}))
print(any("libtvm_compiler" in line for line in open("/proc/self/maps")))
"""


def test_a_new_process_needs_no_compiler(saved: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FRESH, str(saved), str(tmp_path / "y.npy")],
        cwd=tmp_path,
        env={"PATH": "", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[]\nFalse\n"
    x = np.linspace(-1, 1, 3 * 64, dtype=np.float32).reshape(3, 64)
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), hand.expected(x), rtol=1e-6, atol=1e-5)


def rewrite(path: Path, change: Callable[[dict[str, Any], dict[str, bytes]], None]) -> None:
    """The file with its manifest and entries changed."""
    with zipfile.ZipFile(path) as archive:
        entries = {n: archive.read(n) for n in archive.namelist()}
    manifest = json.loads(entries.pop("manifest.json"))
    change(manifest, entries)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("manifest.json", json.dumps(manifest))
        for name, data in entries.items():
            archive.writestr(name, data)


def flip(path: Path, entry: str) -> None:
    """One bit of an entry, changed in place."""
    with zipfile.ZipFile(path) as archive:
        data = archive.read(entry)
    whole = bytearray(path.read_bytes())
    whole[whole.index(data) + len(data) // 2] ^= 1
    path.write_bytes(whole)


def test_a_flipped_bit_is_found(saved: Path) -> None:
    before = saved.read_bytes()
    flip(saved, "constants/0")
    with pytest.raises(ModelFileError, match="w is damaged: its checksum does not match"):
        load(saved)
    load(saved, verify=False)
    saved.write_bytes(before)
    flip(saved, "kernels/1.o")
    for verify in (True, False):
        with pytest.raises(ModelFileError, match="add is damaged: its checksum does not match"):
            load(saved, verify)
    saved.write_bytes(before)
    flip(saved, "manifest.json")
    with pytest.raises(ModelFileError, match="not a compiled model, or truncated: Bad CRC"):
        load(saved)


def test_a_truncated_file_is_refused_at_every_length(saved: Path) -> None:
    data = saved.read_bytes()
    for length in (0, 1, 30, 100, 2000, len(data) // 2, len(data) - 23, len(data) - 1):
        saved.write_bytes(data[:length])
        with pytest.raises(ModelFileError, match="not a compiled model, or truncated"):
            load(saved)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"this is text", "not a compiled model, or truncated: File is not a zip file"),
        (b"\x08\x07\x12\x07pytorch", "not a compiled model"),
    ],
)
def test_another_kind_of_file(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "model"
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match=message):
        load(path)


def test_another_zip_file(tmp_path: Path) -> None:
    np.savez(tmp_path / "arrays.npz", a=np.zeros(3))
    with pytest.raises(ModelFileError, match="not a compiled model"):
        load(tmp_path / "arrays.npz")


def test_files_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"the file cannot be read: .*No such file"):
        load(tmp_path / "missing")
    with pytest.raises(ModelFileError, match=r"the file cannot be read: .*Is a directory"):
        load(tmp_path)


def test_other_versions(saved: Path) -> None:
    def newer(manifest: dict[str, Any], entries: dict[str, bytes]) -> None:
        manifest["format"] = 99
        manifest["cnncc"] = "7.0"

    before = saved.read_bytes()
    rewrite(saved, newer)
    with pytest.raises(RuntimeFault, match=r"the file's format must be 2, got 99 \(written by cnncc 7.0, this is "):
        load(saved)
    saved.write_bytes(before)
    rewrite(saved, lambda manifest, entries: manifest.update({"apache-tvm": "0.12"}))
    here = importlib.metadata.version("apache-tvm")
    with pytest.raises(RuntimeFault, match=f"it needs apache-tvm 0.12, got {here}; install that or compile"):
        load(saved)


def test_another_machine(saved: Path) -> None:
    rewrite(saved, lambda manifest, entries: manifest["program"].update(features=["avx9000", "sse2"]))
    with pytest.raises(
        RuntimeFault, match="it needs CPU features that this machine lacks: avx9000; compile it for this"
    ):
        load(saved)


def _remove(*keys: str) -> Callable[[dict[str, Any], dict[str, bytes]], None]:
    def change(manifest: dict[str, Any], entries: dict[str, bytes]) -> None:
        at: Any = manifest
        for key in keys[:-1]:
            at = at[key]
        del at[keys[-1]]

    return change


def _set(value: Any, *keys: Any) -> Callable[[dict[str, Any], dict[str, bytes]], None]:
    def change(manifest: dict[str, Any], entries: dict[str, bytes]) -> None:
        at: Any = manifest
        for key in keys[:-1]:
            at = at[key]
        at[keys[-1]] = value

    return change


HOSTILE = {
    "no program": _remove("program"),
    "no format": _remove("format"),
    "no buffers": _remove("program", "buffers"),
    "not an object": lambda manifest, entries: manifest.update(program=[1, 2]),
    "buffer out of range": _set([["add", [0, 0, 77], "n"]], "program", "calls"),
    "negative buffer": _set([["add", [0, 0, -1], "n"]], "program", "calls"),
    "text for a buffer": _set([["add", ["x"], "n"]], "program", "calls"),
    "kernel that is not there": _set([["other", [0], "n"]], "program", "calls"),
    "no run loop": lambda manifest, entries: manifest["kernels"].popitem(),
    "unknown kind": _set("heap", "program", "buffers", 0, "kind"),
    "unknown dtype": _set("float33", "program", "buffers", 0, "dtype"),
    "object dtype": _set("object", "constants", "constants/0", "dtype"),
    "shape too large": _set([1 << 40], "constants", "constants/0", "shape"),
    "size too large": _set(1 << 40, "constants", "constants/0", "size"),
    "negative size": _set(-1, "constants", "constants/0", "size"),
    "entry missing": lambda manifest, entries: entries.pop("constants/0"),
    "view of itself": _set(2, "program", "buffers", 2, "base"),
    "arena too small": _set(0, "program", "arena"),
    "negative offset": _set(-64, "program", "buffers", 2, "offset"),
    "negative extent": _set([-3], "program", "buffers", 2, "shape"),
    "no threads": _set(0, "program", "threads"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_manifests_that_lie(saved: Path, name: str) -> None:
    rewrite(saved, HOSTILE[name])
    with pytest.raises(CnnccError) as error:
        load(saved)
    assert str(saved) in str(error.value)


def test_compressed_entries_are_refused(saved: Path) -> None:
    with zipfile.ZipFile(saved) as archive:
        entries = {n: archive.read(n) for n in archive.namelist()}
    with zipfile.ZipFile(saved, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    with pytest.raises(ModelFileError, match=r"kernels/0.o \(double_plus\) is damaged"):
        load(saved)


def test_weights_that_are_not_aligned_in_the_file_are_copied(saved: Path) -> None:
    rewrite(saved, lambda manifest, entries: None)  # as another zip program would store them
    hand.run_one(load(saved), 3)


def test_saving_replaces_the_file_whole_or_not_at_all(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = saved.read_bytes()

    def full(source: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(artifact.os, "replace", full)
    with pytest.raises(ModelFileError, match=r"the model cannot be written: .*No space left"):
        Executable(hand.counter()).save(saved)
    assert saved.read_bytes() == before
    assert [p.name for p in saved.parent.iterdir()] == [saved.name]


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"the model cannot be written: .*No such file"):
        Executable(hand.counter()).save(tmp_path / "missing" / "model")


def test_the_file_has_ordinary_permissions(saved: Path) -> None:
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(saved.stat().st_mode) == 0o666 & ~umask


def test_padding_holds_at_every_name_length(tmp_path: Path) -> None:
    program = hand.residual()
    arrays = {f"extra{i}": np.full(i + 1, i, np.float32) for i in range(120)}
    path = tmp_path / "model"
    artifact.write(replace(program, constants={**program.constants, **arrays}), path)
    read = artifact.read(path)
    for name, array in arrays.items():
        np.testing.assert_array_equal(read.constants[name], array)
        assert address(read.constants[name]) % 64 == 0


def test_the_docstring_warns() -> None:
    assert "runs the code in the file" in (load.__doc__ or "")
