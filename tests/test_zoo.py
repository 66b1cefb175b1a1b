"""The test networks themselves: healthy activations, outputs that tell inputs apart, exports that equal torch."""

from __future__ import annotations

import numpy as np
import pytest

from tests import zoo

torch = pytest.importorskip("torch")


@pytest.mark.parametrize("name", [n if n in zoo.QUICK else pytest.param(n, marks=pytest.mark.slow) for n in zoo.NETS])
def test_export_equals_torch(name):
    net = zoo.NETS[name]
    path = zoo.export(name, dynamo=False, symbolic_batch=True, size=net.small, width=net.small_width)
    feeds = zoo.inputs(name, 2, net.small)
    out = zoo.reference(path, feeds)["output"]
    with torch.no_grad():
        expected = zoo.build(name, size=net.small, width=net.small_width)(torch.from_numpy(feeds["input"])).numpy()
    np.testing.assert_allclose(out, expected, rtol=0, atol=2e-4 * np.abs(expected).max())
    assert 0.2 < np.abs(out).max() < 50
    assert np.abs(out[0] - out[1]).max() > 0.1 * np.abs(out).max()


@pytest.mark.parametrize("name", ["light_squeezenet", "light_shufflenet", "light_inception_v1", "light_densenet121"])
def test_light_models_tell_channels_apart(name):
    model = zoo.light(name)
    given = {i.name for i in model.graph.initializer}
    (image,) = [i.name for i in model.graph.input if i.name not in given]
    x = np.random.default_rng(1).standard_normal((1, 3, 224, 224), dtype=np.float32)
    (out,) = zoo.reference(model, {image: x}).values()
    (flipped,) = zoo.reference(model, {image: x[:, ::-1].copy()}).values()
    assert out.std() > 0.1 * out.mean()
    assert np.abs(out - flipped).max() > 0.1 * np.abs(out).max()


def test_a_seed_is_a_network():
    first, again, other = (zoo.build("lenet5", seed=seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["0.weight"], other["0.weight"])
