"""The script that made digits.onnx and digits.npz: scikit-learn's bundled digits, trained by cnncc.

    python -m cnncc.demo.train_digits [folder]

1,797 images of 8 x 8 (UCI, Alpaydin and Kaynak 1998); 1,400 to train, 397 to test, split with a fixed seed.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from cnncc import nn, optim
from cnncc.demo.networks import LeNet
from cnncc.errors import UnsupportedError
from cnncc.train import TrainStep

EPOCHS = 16
BATCH = 64


def load_digits() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Training images [1400, 1, 8, 8] in [0, 1], their labels, test images, their labels.

    Raises UnsupportedError without scikit-learn, which brings the images.
    """
    try:
        from sklearn import datasets
    except ImportError:
        raise UnsupportedError(
            "the digits come with scikit-learn, which is not installed: pip install scikit-learn"
        ) from None

    data = datasets.load_digits()
    images = (data.images[:, None] / 16).astype(np.float32)
    labels = data.target.astype(np.int32)
    order = np.random.default_rng(0).permutation(len(images))
    train, test = order[:1400], order[1400:]
    return images[train], labels[train], images[test], labels[test]


def train(epochs: int = EPOCHS, threads: int | None = 1, seed: int = 0) -> tuple[nn.Module, float]:
    """A trained LeNet and its accuracy on the test images. Prints a line per epoch."""
    import cnncc

    images, labels, test_images, test_labels = load_digits()
    nn.manual_seed(seed)
    net = LeNet()
    optimizer = optim.SGD(lr=0.1, momentum=0.9, weight_decay=1e-4)
    step = TrainStep(net, loss="cross_entropy", optimizer=optimizer, threads=threads)
    rng = np.random.default_rng(seed)
    for epoch in range(epochs):
        optimizer.lr = 0.1 * 0.5 * (1 + np.cos(np.pi * epoch / epochs))
        order = rng.permutation(len(images))
        losses = [step(images[part], labels[part])["loss"] for part in np.split(order, range(BATCH, len(order), BATCH))]
        print(f"epoch {epoch + 1:2d}  loss {np.mean(losses):.4f}")
    step.sync()
    exe = cnncc.compile(net.eval(), shapes={"x": ("N", 1, 8, 8)}, threads=threads)
    accuracy = float((exe(test_images).argmax(1) == test_labels).mean())
    print(f"test accuracy {accuracy:.4f}")
    return net, accuracy


def main(folder: Path) -> None:
    """Train, and write the model and twenty test images beside this file (or into `folder`)."""
    import cnncc

    net, _ = train()
    cnncc.to_onnx(nn.trace(net, {"x": ("N", 1, 8, 8)}), folder / "digits.onnx")
    _, _, images, labels = load_digits()
    np.savez(folder / "digits.npz", images=images[:20], labels=labels[:20])


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
