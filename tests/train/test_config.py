"""`cnncc train CONFIG`: what a file may say, what is said about one that is wrong, and runs from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import cnncc
from cnncc import nn
from cnncc.cli import group
from cnncc.errors import ModelFileError
from cnncc.train.config import SECTIONS, read_config
from cnncc.train.configured import run_config

ROOT = Path(__file__).parent.parent.parent
RNG = np.random.default_rng(0)
X = RNG.standard_normal((60, 6)).astype(np.float32)
Y = (X[:, :3].sum(1) > 0).astype(np.int64)

GOOD = """
model = "net.py:make?width=8"
epochs = 3
batch = 16
threads = 1
output = "out.onnx"
checkpoint = "run.npz"
log = "log.csv"

[data]
train = "train.npz"
validation = 0.2
test = "train.npz"

[optimizer]
name = "SGD"
lr = 0.1
momentum = 0.9
"""

NET = """
import numpy as np
from cnncc import nn

def make(width):
    return nn.Sequential(nn.Linear(6, width), nn.Tanh(), nn.Linear(width, 2))

def data():
    return np.ones((8, 6), np.float32), np.zeros(8, np.int64)

def loss(b, output, y):
    return b.reduce_mean(b.square(output), keepdims=False)

def number():
    return 3
"""


@pytest.fixture
def folder(tmp_path):
    """A folder with a network, data and a configuration that works."""
    (tmp_path / "net.py").write_text(NET)
    np.savez(tmp_path / "train.npz", x=X, y=Y, images=X)
    (tmp_path / "good.toml").write_text(GOOD)
    return tmp_path


def configured(folder, text, **options):
    path = folder / "changed.toml"
    path.write_text(text)
    return run_config(read_config(path), progress="none", **options)


def test_a_file_is_run(folder):
    result = CliRunner().invoke(group, ["train", str(folder / "good.toml")])
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert lines[0].startswith("epoch 1/3  loss ")
    assert lines[3].startswith("3 epochs, best epoch ")
    assert lines[4].startswith("test: loss ")
    assert (folder / "run.npz").exists()
    assert len((folder / "log.csv").read_text().splitlines()) == 4
    exe = cnncc.compile(folder / "out.onnx", threads=1)
    logits = exe(X[:7])
    assert logits.shape == (7, 2)


def test_resume_and_epochs_in_json(folder):
    first = CliRunner().invoke(group, ["train", str(folder / "good.toml"), "--json"])
    more = CliRunner().invoke(group, ["train", str(folder / "good.toml"), "--json", "--resume", "--epochs", "5"])
    assert more.exit_code == 0, more.output
    a, b = json.loads(first.output), json.loads(more.output)
    assert len(a["epochs"]) == 3
    assert len(b["epochs"]) == 5
    assert b["epochs"][:3] == a["epochs"]
    assert b["output"] == str(folder / "out.onnx")
    assert set(b["test"]) == {"loss", "accuracy"}


def test_a_model_from_onnx_is_trained_and_written(folder):
    nn.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2))
    cnncc.to_onnx(nn.trace(net, {"x": ("N", 6)}), folder / "in.onnx")
    outcome = configured(folder, GOOD.replace("net.py:make?width=8", "in.onnx"))
    assert outcome.history.last["loss"] < outcome.history.epochs[0].train["loss"]
    before, after = (cnncc.compile(folder / f"{n}.onnx", threads=1)(X) for n in ("in", "out"))
    assert (after.argmax(1) == Y).mean() > (before.argmax(1) == Y).mean()


@pytest.mark.parametrize(
    "extra",
    [
        '[schedule]\nname = "OneCycleLR"\nmax_lr = 0.3',
        '[schedule]\nname = "cosineannealinglr"',
        '[schedule]\nname = "ReduceLROnPlateau"\npatience = 0',
        '[early_stopping]\npatience = 1\nmonitor = "loss"',
        '[loss]\nname = "CrossEntropy"\nlabel_smoothing = 0.1',
        '[[optimizer.groups]]\nmatch = "*.bias"\nlr = 0.0',
    ],
)
def test_more_tables(extra, folder):
    assert configured(folder, f"{GOOD}\n{extra}\n").history.epochs


def test_groups_have_rates_of_their_own(folder):
    text = GOOD + '[[optimizer.groups]]\nmatch = "0.*"\nfrozen = true\n'
    outcome = configured(folder, text)
    nn.manual_seed(0)
    first = nn.Linear(6, 8)
    assert np.array_equal(outcome.history.model.state_dict()["0.weight"], first.weight.data)


def test_data_and_loss_from_python(folder):
    text = GOOD.replace('train = "train.npz"', 'train = "net.py:data"').replace("validation = 0.2", "")
    outcome = configured(folder, 'loss = "net.py:loss"\n' + text)
    assert outcome.history.last["step"] == 3


def test_images_from_folders(folder):
    image = pytest.importorskip("PIL.Image")
    for name, value in (("dark", 30), ("light", 220)):
        (folder / "pictures" / name).mkdir(parents=True)
        for k in range(12):
            pixels = np.full((8, 8, 3), value + k, np.uint8)
            image.fromarray(pixels).save(folder / "pictures" / name / f"{k}.png")
    (folder / "cnn.py").write_text(
        "from cnncc import nn\n"
        "def make():\n"
        "    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2))\n"
    )
    text = (
        'model = "cnn.py:make"\nepochs = 20\nbatch = 8\n[data]\ntrain = "pictures"\nvalidation = "pictures"\n'
        'size = [4, 4]\nchannels = 1\n[optimizer]\nname = "Adam"\nlr = 0.02\n'
        '[[augment]]\nname = "Flip"\n[[augment]]\nname = "Normalise"\nmean = 0.5\nstd = 0.3\n'
    )
    assert configured(folder, text).history.last["val_accuracy"] == 1


def change(old, new):
    return GOOD.replace(old, new)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("model = [", r"changed\.toml: must be TOML"),
        ("epochs = 3", "'model' is missing: an .onnx file"),
        (
            change("epochs = 3", "epoch = 3"),
            r"there is no key 'epoch' \(did you mean 'epochs'\?\); keys are model, loss",
        ),
        (change("epochs = 3", "epochs = 0"), "'epochs' must be a number of epochs of at least 1, got 0"),
        (change("epochs = 3", 'epochs = "3"'), "'epochs' must be a number of epochs of at least 1, got '3'"),
        (change("epochs = 3", "epochs = true"), "got True"),
        (change('train = "train.npz"', ""), r"\[data\] 'train' is missing: an .npz file, a folder of images"),
        (change('train = "train.npz"', 'train = "none.npz"'), r"\[data\] 'train' cannot be used, .*none\.npz"),
        (change("[data]", '[data]\ny = "labels"'), r"\[data\] 'y' must be a name in train\.npz \(x, y, images\)"),
        (change("validation = 0.2", "validation = 1.5"), "must leave samples on both sides"),
        (change('"SGD"', '"Sgdd"'), r"\[optimizer\] 'name' must be one of .*Adam.*SGD.*, got 'Sgdd'"),
        (change("momentum", "momentun"), r"\[optimizer\] SGD has no 'momentun'; it has lr, momentum"),
        (change("lr = 0.1", "lr = -1"), r"\[optimizer\] SGD: lr must be"),
        (GOOD + '[schedule]\nname = "Steps"', r"\[schedule\] 'name' must be one of .*StepLR.*, got 'Steps'"),
        (GOOD + '[schedule]\nname = "StepLR"', r"\[schedule\] .*step_size"),
        (GOOD + "[early_stopping]\n", r"\[early_stopping\] 'patience' is missing"),
        (GOOD + '[[augment]]\nname = "Flip"\np = 2', r"\[augment 1\] Flip: p must be in \[0, 1\], got 2"),
        ('loss = "entropy"\n' + GOOD, "'loss' must be one of cross_entropy, .*got 'entropy'"),
        ('output = "x.npz"\n' + change('output = "out.onnx"', ""), "output must end with .onnx, got x.npz"),
        (change("net.py:make?width=8", "net.py:build"), "model cannot be used, .* net.py has no build"),
        (change("net.py:make?width=8", "nowhere:make"), "model cannot be used, .*No module named 'nowhere'"),
        (change("net.py:make?width=8", "net.py:make"), "model cannot be used, .*width"),
        (change("net.py:make?width=8", "net.py:number"), "model must return a cnncc.nn module or a graph, got int"),
    ],
)
def test_what_is_wrong_is_named(text, words, folder):
    with pytest.raises((ModelFileError, cnncc.GraphError), match=words):
        configured(folder, text)


def test_files_that_are_none(tmp_path):
    result = CliRunner().invoke(group, ["train", str(tmp_path / "none.toml")])
    assert isinstance(result.exception, ModelFileError)


def test_every_key_is_documented():
    page = (ROOT / "docs" / "training.md").read_text()
    for section, keys in SECTIONS.items():
        for key in keys:
            name = f"{section}.{key.name}" if section else key.name
            least = "" if key.least is None else f", at least {key.least:g}"
            assert f"| `{name}` | {key.what}{least} | " in page, name


def test_the_example_on_the_page_is_a_configuration(tmp_path):
    page = (ROOT / "docs" / "training.md").read_text()
    (tmp_path / "page.toml").write_text(page.split("```toml\n")[1].split("```")[0])
    assert read_config(tmp_path / "page.toml").values["epochs"] == 40
