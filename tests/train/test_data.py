"""What `fit` takes as data, and what happens to it on the way: shuffling, augmentation, folders of images."""

from __future__ import annotations

from itertools import chain

import numpy as np
import pytest
import torch

from cnncc.errors import GraphError
from cnncc.train.augment import Flip, Normalise, RandomCrop, apply
from cnncc.train.data import as_data

X = np.arange(20, dtype=np.float32).reshape(10, 2)
Y = np.arange(10)


def samples(data, epoch=0, start=0):
    return [y.tolist() for _, y in data.batches(epoch, start)]


def test_every_sample_comes_once_an_epoch_in_an_order_of_its_own():
    data = as_data((X, Y), 4, seed=1)
    first, second = samples(data, 0), samples(data, 1)
    assert [len(b) for b in first] == [4, 4, 2]
    assert sorted(chain(*first)) == sorted(chain(*second)) == list(range(10))
    assert first != second
    assert first == samples(as_data((X, Y), 4, seed=1), 0)
    assert first != samples(as_data((X, Y), 4, seed=2), 0)
    assert samples(data, 0, 1) == first[1:]
    assert (data.samples, data.length) == (10, 3)


def test_rows_stay_together_and_can_be_read_in_place():
    for x, y in as_data((X, Y), 3).batches(0):
        assert np.array_equal(x[:, 0], 2 * y)
        assert x.__array_interface__["data"][0] % 64 == 0


def test_validation_data_keeps_its_order():
    assert samples(as_data((X, Y), 4, training=False)) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_torch_loader():
    set_ = torch.utils.data.TensorDataset(torch.from_numpy(X), torch.from_numpy(Y))
    data = as_data(torch.utils.data.DataLoader(set_, batch_size=4), 99)
    batches = list(data.batches(0))
    assert [b.tolist() for _, b in batches] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert all(type(a) is np.ndarray for b in batches for a in b)
    assert (data.samples, data.length) == (10, 3)


def test_a_loader_without_a_length():
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter([(torch.from_numpy(x), int(y)) for x, y in zip(X, Y, strict=True)])

    data = as_data(torch.utils.data.DataLoader(Stream(), batch_size=4), 99)
    assert samples(data) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert (data.samples, data.length) == (None, None)


def test_several_arrays_on_a_side():
    for x in ((X, Y), {"left": X, "right": Y}):
        data = as_data((x, Y), 4, seed=1)
        for both, y in data.batches(0):
            left, right = both.values() if isinstance(both, dict) else both
            assert np.array_equal(left, X[y])
            assert np.array_equal(right, y)
        held, rest = as_data((x, None), 4).source.split(0.3, 0)
        assert (len(held), len(rest), rest.y) == (7, 3, None)
        assert type(rest.x) is type(x)
    assert samples(as_data([X, Y], 5, training=False)) == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]
    assert samples(as_data(((X, Y), (X, Y)), 5)) == [Y.tolist()] * 2  # two batches


def test_functions_lists_and_iterators():
    def batches(epoch):
        yield X[:2], Y[:2] + epoch
        yield X[2:3], Y[2:3] + epoch

    data = as_data(batches, 99)
    assert samples(data, 5) == [[5, 6], [7]]
    assert samples(data, 5, start=1) == [[7]]
    assert samples(as_data([(X, Y), [X, Y]], 99)) == [Y.tolist()] * 2
    once = as_data(batches(0), 99)
    assert samples(once, 0) == [[0, 1], [2]]
    with pytest.raises(GraphError, match="an iterator gives one epoch only"):
        list(once.batches(1))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ((X, Y[:9]), r"as many samples, got shapes \(10, 2\) and \(9,\)"),
        ((X[:0], Y[:0]), "at least one sample, got none"),
        (3, "data must be a pair of arrays .* got int"),
        (((X, Y[:9]), Y), r"as many samples, got shapes \(10, 2\) and \(9,\) and \(10,\)"),
        ((X, np.array(["a"] * 10)), "y must hold numbers, got <U1"),
    ],
)
def test_data_that_is_none(given, words):
    with pytest.raises(GraphError, match=words):
        as_data(given, 4)


def test_batches_that_are_no_pairs():
    with pytest.raises(GraphError, match=r"must be a pair \(x, y\), got tuple of 3 at batch 1"):
        list(as_data([(X, Y), (X, Y, Y)], 4).batches(0))


def images(n=64, h=6, w=5):
    return np.random.default_rng(0).standard_normal((n, 2, h, w)).astype(np.float32)


def test_flips_are_of_whole_images_and_seeded():
    x, y = images(), np.arange(64)
    flipped, same = apply([Flip()], (3, 1), True, x, y)
    turned = [not np.array_equal(a, b) for a, b in zip(x, flipped, strict=True)]
    assert all(np.array_equal(f, a[..., ::-1] if t else a) for f, a, t in zip(flipped, x, turned, strict=True))
    assert 20 < sum(turned) < 44
    assert same is y
    assert np.array_equal(flipped, apply([Flip()], (3, 1), True, x, y)[0])
    assert not np.array_equal(flipped, apply([Flip()], (3, 2), True, x, y)[0])


def test_targets_flip_along():
    x = images()
    flipped, mask = apply([Flip(target=True)], (0,), True, x, x[:, 0].copy())
    assert np.array_equal(mask, flipped[:, 0])


def test_crops_are_shifts_with_zeros():
    x = images() + 10
    cut, mask = apply([RandomCrop(2, target=True)], (0,), True, x, x[:, 0].copy())
    assert cut.shape == x.shape
    assert np.array_equal(mask, cut[:, 0])
    seen = set()
    for a, b in zip(np.pad(x, [(0, 0), (0, 0), (2, 2), (2, 2)]), cut, strict=True):
        found = [(i, j) for i in range(5) for j in range(5) if np.array_equal(a[:, i : i + 6, j : j + 5], b)]
        assert len(found) == 1
        seen.update(found)
    assert len(seen) > 15


def test_crops_of_signals():
    x = images()[:, :, :, 0]
    assert apply([RandomCrop(1)], (0,), True, x, Y)[0].shape == x.shape


def test_normalise_is_for_validation_too():
    x = images()
    mean, std = x.mean((0, 2, 3)), x.std((0, 2, 3))
    for training in (True, False):
        out, _ = apply([Flip(), Normalise(mean, std)], (0,), training, x, Y)
        assert np.allclose(out.mean((0, 2, 3)), 0, atol=1e-5)
        assert out.dtype == np.float32
    assert np.array_equal(out, (x - mean[:, None, None]) / std[:, None, None])
    with pytest.raises(GraphError, match=r"one number or 2 \(one per channel\), got 3 and 1"):
        apply([Normalise([0, 0, 0], 1)], (0,), True, x, Y)


@pytest.mark.parametrize("make", [lambda: Flip(1.5), lambda: RandomCrop(-1), lambda: Normalise(0, 0)])
def test_transforms_check_their_numbers(make):
    with pytest.raises(GraphError, match="must"):
        make()
