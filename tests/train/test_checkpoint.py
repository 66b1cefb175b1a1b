"""Checkpoint files: what goes in comes out, damage is named, a file is replaced as a whole."""

from __future__ import annotations

import os

import numpy as np
import pytest

from cnncc.errors import ModelFileError
from cnncc.train.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from cnncc.train.files import replace_file

STATE = {"a/b.weight": np.arange(6, dtype=np.float32).reshape(2, 3), "count": np.array(7), "odd": np.array([np.nan])}


def saved(tmp_path, meta=None):
    path = tmp_path / "run.npz"
    save_checkpoint(path, Checkpoint({"position": 3} if meta is None else meta, STATE, {"a": np.ones(2)}))
    return path


def test_bits_come_back(tmp_path):
    path = saved(tmp_path, {"loss": 0.1 + 0.2, "nan": float("nan")})
    found = load_checkpoint(path)
    assert {n: (a.dtype, a.shape, a.tobytes()) for n, a in found.state.items()} == {
        n: (a.dtype, a.shape, a.tobytes()) for n, a in STATE.items()
    }
    assert found.best["a"].tolist() == [1, 1]
    assert found.meta["loss"] == 0.1 + 0.2
    assert os.listdir(tmp_path) == ["run.npz"]
    assert set(np.load(path).files) == {"checkpoint.json", "state/a/b.weight", "state/count", "state/odd", "best/a"}


def test_pickles_are_neither_written_nor_read(tmp_path):
    with pytest.raises(ValueError, match="Object arrays"):
        save_checkpoint(tmp_path / "x.npz", Checkpoint({}, {"a": np.array([object()])}))
    path = tmp_path / "evil.npz"
    np.savez(path, **{"checkpoint.json": np.array([{"kind": 1}], dtype=object)})
    with pytest.raises(ModelFileError, match=r"evil\.npz: entry 'checkpoint\.json' is damaged, .*allow_pickle"):
        load_checkpoint(path)


@pytest.mark.parametrize("place", [0.2, 0.5, 0.9])
def test_flipped_bits_are_found(place, tmp_path):
    path = saved(tmp_path)
    data = bytearray(path.read_bytes())
    at = data.index(STATE["a/b.weight"].tobytes()) + 3 if place == 0.2 else int(len(data) * place)
    data[at] ^= 0x55
    path.write_bytes(data)
    if place == 0.2:
        with pytest.raises(ModelFileError, match=r"run\.npz: entry 'state/a/b\.weight' is damaged, Bad CRC"):
            load_checkpoint(path)
        return
    try:
        found = load_checkpoint(path)
    except ModelFileError as error:
        assert "run.npz" in str(error)  # noqa: PT017 - some bytes of a zip file have no meaning: then nothing is lost
    else:
        assert all(found.state[n].tobytes() == a.tobytes() for n, a in STATE.items())


@pytest.mark.parametrize("size", [0, 10, 300, -1])
def test_cut_files_are_refused(size, tmp_path):
    path = saved(tmp_path)
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ModelFileError, match=r"run\.npz: must be a checkpoint"):
        load_checkpoint(path)


def test_other_files_are_refused(tmp_path):
    with pytest.raises(ModelFileError, match="there is no such checkpoint"):
        load_checkpoint(tmp_path / "none.npz")
    np.savez(tmp_path / "x.npz", a=np.ones(3))
    with pytest.raises(ModelFileError, match=r"must be a checkpoint of cnncc, but has no checkpoint\.json"):
        load_checkpoint(tmp_path / "x.npz")
    np.save(tmp_path / "y.npy", np.ones(3))
    with pytest.raises(ModelFileError, match="must be a checkpoint"):
        load_checkpoint(tmp_path / "y.npy")
    with pytest.raises(ModelFileError, match="its version must be 1, got 99"):
        load_checkpoint(saved(tmp_path, {"version": 99}))
    with pytest.raises(ModelFileError, match="must be a training checkpoint"):
        load_checkpoint(saved(tmp_path, {"kind": "recipe"}))


def test_what_fails_in_the_middle_leaves_the_old_file(tmp_path):
    path = saved(tmp_path)
    before = path.read_bytes()

    def write(file):
        file.write(b"half")
        raise RuntimeError("power")

    with pytest.raises(RuntimeError):
        replace_file(path, write)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["run.npz"]


def test_folders_that_do_not_exist(tmp_path):
    with pytest.raises(ModelFileError, match=r"none/x\.npz: cannot be written"):
        save_checkpoint(tmp_path / "none" / "x.npz", Checkpoint({}, {}))
