"""What the training examples claim, in shorter runs: numbers, where tests/test_examples.py looks at words."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def example(name):
    spec = importlib.util.spec_from_file_location(f"example_{name}", ROOT / "examples" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_digits():
    pytest.importorskip("sklearn")
    assert example("train_digits").main(15) >= 0.985


def test_shuffled_pixels_cost_the_convolutional_network_more():
    pytest.importorskip("sklearn")
    results = example("shuffled_digits").main(10)
    plain, shuffled = results["dense"]
    assert min(plain, shuffled) > 0.95
    assert abs(plain - shuffled) < 0.015
    plain, shuffled = results["convolutional"]
    assert plain > 0.94
    assert plain - shuffled > 0.03


def test_sounds_are_found_where_they_were_never_heard():
    results = example("positions_audio").main(8, 800)
    assert results["dense"][0] > 0.7
    assert results["dense"][1] < 0.45
    assert min(results["convolutional"]) > 0.93


def test_shapes_are_segmented():
    ground, *kinds = example("segment_shapes").main(6, 400)
    assert ground > 0.97
    assert min(kinds) > 0.3


def test_the_autoencoder_beats_principal_components():
    pytest.importorskip("sklearn")
    own, linear = example("autoencoder").main(20)
    assert own < 0.9 * linear


def test_gradient_ascent_finds_a_three():
    before, after = example("gradient_ascent").main(20)
    assert before < 0.5
    assert after > 0.99


def test_the_style_is_taken_over():
    first, last = example("style_transfer").main(40)
    assert last < 0.5 * first
