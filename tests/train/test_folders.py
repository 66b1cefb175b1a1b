"""Folders of images, with a folder per class."""

from __future__ import annotations

import numpy as np
import pytest

from cnncc.errors import ModelFileError, UnsupportedError
from cnncc.train.data import as_data
from cnncc.train.folders import ImageFolder

Image = pytest.importorskip("PIL.Image")
PIXELS = np.random.default_rng(0).integers(0, 256, (6, 5, 4, 3), np.uint8)


@pytest.fixture
def folder(tmp_path):
    """Two classes, six images of 5 x 4; numbers in the names are places in PIXELS."""
    for name, members in (("cat", (3, 0, 5)), ("apple", (1, 2, 4))):
        (tmp_path / name).mkdir()
        for k in members:
            Image.fromarray(PIXELS[k]).save(tmp_path / name / f"{k}.png")
    (tmp_path / "cat" / "notes.txt").write_text("no image")
    return tmp_path


def test_classes_are_folders_in_order(folder):
    images = ImageFolder(folder)
    assert images.classes == ("apple", "cat")
    assert len(images) == 6
    x, y = images.read(np.arange(6))
    assert x.dtype == np.float32
    assert y.tolist() == [0, 0, 0, 1, 1, 1]
    assert np.array_equal(x, np.float32(PIXELS[[1, 2, 4, 0, 3, 5]].transpose(0, 3, 1, 2)) / np.float32(255))


def test_batches(folder):
    data = as_data(ImageFolder(folder), 4, seed=1)
    batches = list(data.batches(0))
    assert [x.shape for x, _ in batches] == [(4, 3, 5, 4), (2, 3, 5, 4)]
    assert sorted(np.concatenate([y for _, y in batches])) == [0, 0, 0, 1, 1, 1]


def test_grey_and_resized(folder):
    x, _ = ImageFolder(folder, size=(10, 8), channels=1).read(np.array([0, 3]))
    assert x.shape == (2, 1, 10, 8)
    assert x.min() >= 0
    assert x.max() <= 1


def test_jpeg(folder):
    Image.fromarray(np.full((5, 4, 3), 100, np.uint8)).save(folder / "apple" / "9.JPG")
    x, _ = ImageFolder(folder).read(np.array([3]))
    assert np.allclose(x, 100 / 255, atol=0.02)


def test_another_folder_with_the_same_labels(folder):
    import shutil

    shutil.rmtree(folder / "apple")
    assert ImageFolder(folder, classes=("apple", "cat")).read(np.array([0]))[1].tolist() == [1]
    with pytest.raises(ModelFileError, match="classes must be among apple, dog, got cat"):
        ImageFolder(folder, classes=("apple", "dog"))


def test_files_that_are_none(folder):
    (folder / "apple" / "8.png").write_bytes(b"nonsense")
    with pytest.raises(ModelFileError, match=r"8\.png: cannot be read as an image"):
        ImageFolder(folder).read(np.array([3]))
    Image.fromarray(PIXELS[0, :3]).save(folder / "apple" / "8.png")
    with pytest.raises(ModelFileError, match=r"8\.png: must be of 5 x 4 pixels .* got 3 x 4; give size="):
        ImageFolder(folder).read(np.array([3]))


def test_folders_that_are_none(tmp_path):
    with pytest.raises(ModelFileError, match="there is no such folder"):
        ImageFolder(tmp_path / "none")
    with pytest.raises(ModelFileError, match="there must be a folder per class with images"):
        ImageFolder(tmp_path)


def test_without_pillow(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UnsupportedError, match=r"pip install 'cnncc\[images\]'"):
        ImageFolder(tmp_path)
