"""Every example runs as a stranger would run it, and says what it should."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))

# name: arguments ({tmp} is a folder), words that must come out, modules it needs
CASES: dict[str, tuple[list[str], list[str], list[str]]] = {
    "add_algorithm": ([], ["dense_f64", "largest difference from numpy"], []),
    "add_op": ([], ["conv+hard_mish", "gradient at -3, -1, -0.5, 2: [0.  0.  0.5 1. ]"], []),
    "add_pass": ([], ["declined at max_pool %4", "stages: delay-relu, remove-stop-gradients, canonicalize"], []),
    "build_graph": ([], ["graph residual(%image: f32[N, 3, 32, 32])", "batch 7"], []),
    "compile_onnx": (["{root}/cnncc/demo/digits.onnx"], ["the loaded model gives the same results"], []),
    "filters": (["{tmp}"], ["laplace", "commutes with a shift: True, with a rotation: False"], []),
    "autoencoder": (["1"], ["mean squared error: autoencoder", "principal components"], ["sklearn"]),
    "gradient_ascent": (["20"], ["class 3: probability", "filter 20 of the second convolution"], []),
    "segment_shapes": (["1"], ["epoch 1/1  loss", "intersection over union: ground"], []),
    "style_transfer": (["5", "{tmp}"], ["distance to the style"], ["matplotlib"]),
    "positions_audio": (["2"], ["convolutional  where it was trained", "elsewhere"], []),
    "shuffled_digits": (["2"], ["dense", "convolutional", "lost"], ["sklearn"]),
    "backpropagation": (
        [],
        ["d_total = d_gate * gate_mul", "y = 0.73", "grad_x = [0.39, -0.59]", "[-24.0, 9.0, -30.0]"],
        [],
    ),
    "lectures": ([], ["[2.0, 1.0, 4.0, -1.0, 2.0]", "105,705,600", "receptive field 31"], []),
    "train_digits": (["2"], ["epoch 2/2  loss", "val_accuracy", "test accuracy"], ["sklearn"]),
}


def run(name: str, folder: Path) -> str:
    arguments, _, modules = CASES[name]
    for module in modules:
        pytest.importorskip(module)
    filled = [a.format(tmp=folder, root=ROOT) for a in arguments]
    result = subprocess.run(
        [sys.executable, str(ROOT / "examples" / f"{name}.py"), *filled],
        capture_output=True, text=True, timeout=300, cwd=folder, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize("name", [p.stem for p in EXAMPLES])
def test_example(name, tmp_path):
    output = run(name, tmp_path)
    for words in CASES[name][1]:
        assert words in output


def test_pictures_are_written(tmp_path):
    output = run("filters", tmp_path)
    pictures = [Path(line.split()[0]) for line in output.splitlines()]
    assert len(pictures) == 8
    assert all(p.stat().st_size > 1000 for p in pictures)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda p: p.stem)
def test_examples_are_short_and_explained(path):
    text = path.read_text()
    assert text.count("\n") < 80
    assert text.startswith('"""')
    assert f"python examples/{path.name}" in text


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.toml")), ids=lambda p: p.stem)
def test_configurations_run(path, tmp_path):
    """In a copy of their folder: results are written beside the file."""
    pytest.importorskip("sklearn")
    from cnncc.train.config import read_config
    from cnncc.train.configured import run_config

    folder = tmp_path / "examples"
    shutil.copytree(path.parent, folder)
    (folder / path.name).write_text(re.sub(r"count=\d+", "count=60", path.read_text()))
    config = read_config(folder / path.name)
    outcome = run_config(config, epochs=1, progress="none")
    assert outcome.history.last["val_loss"] < 2.5
    assert outcome.output is not None
    assert outcome.output.exists()
    assert f"cnncc train examples/{path.name}" in path.read_text()
