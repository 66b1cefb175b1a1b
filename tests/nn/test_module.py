"""Modules and their state: shapes survive, arrays are the module's own."""

from __future__ import annotations

import numpy as np

from cnncc import nn


def test_state_of_every_rank_survives_loading():
    """Also scalars (the count of batches that batch norm has seen)."""
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    before = net.state_dict()
    for _ in range(2):
        net.load_state_dict(net.state_dict())
    after = net.state_dict()
    assert {k: v.shape for k, v in after.items()} == {k: v.shape for k, v in before.items()}
    assert after["1.num_batches_tracked"].shape == ()
    assert nn.Parameter(np.float32(3)).shape == ()


def test_loaded_arrays_are_copies():
    net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    state = {k: np.ones_like(v) for k, v in net.state_dict().items()}
    net.load_state_dict(state)
    for array in state.values():
        array += 1
    assert all(np.all(v == 1) for v in net.state_dict().values())
