"""Blur, sharpen, Laplace and Sobel as convolutions of an image, and what shifts and rotations do to them.

    python examples/filters.py [folder]

Writes pictures (PNG with matplotlib, otherwise PGM) of the image, of every filter and of the edges that Sobel's two
kernels find together.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

import cnncc
from cnncc.filters import KERNELS


def make_image(size: int = 128) -> np.ndarray:
    """A disc, a square, a slope and some noise, in [0, 1]."""
    y, x = np.mgrid[0:size, 0:size] / size
    image = (
        0.3 * x
        + 0.4 * ((x - 0.35) ** 2 + (y - 0.4) ** 2 < 0.06)
        + 0.3 * ((abs(x - 0.7) < 0.15) & (abs(y - 0.7) < 0.15))
    )
    return (image + np.random.default_rng(0).normal(0, 0.02, image.shape)).clip(0, 1).astype(np.float32)


def all_filters(size: int) -> cnncc.Executable:
    """One graph with an output for each kernel, and the length of the gradient."""
    b = cnncc.Builder("filters")
    x = b.input("image", (1, 1, size, size))
    results = {name: b.conv(x, kernel[None, None], pads="same") for name, kernel in KERNELS.items()}
    results["edges"] = b.sqrt(b.add(b.mul(results["sobel_x"], results["sobel_x"]),
                                    b.mul(results["sobel_y"], results["sobel_y"])))  # fmt: skip
    for name, value in results.items():
        b.output(value, name)
    return cnncc.compile(b.finish())


def write(path: Path, image: np.ndarray) -> Path:
    """A picture of the image, black its smallest and white its largest value."""
    low, high = float(image.min()), float(image.max())
    grey = np.uint8((image - low) / max(high - low, 1e-9) * 255)
    try:
        from matplotlib import image as picture
    except ImportError:
        path.with_suffix(".pgm").write_bytes(b"P5 %d %d 255\n" % grey.shape[::-1] + grey.tobytes())
        return path.with_suffix(".pgm")
    picture.imsave(path.with_suffix(".png"), grey, cmap="gray")
    return path.with_suffix(".png")


def main(folder: Path) -> None:
    """Filter the image, write pictures, and compare filtering before and after a shift and a rotation."""
    folder.mkdir(parents=True, exist_ok=True)
    image = make_image()
    exe = all_filters(len(image))
    filtered = {name: y[0, 0] for name, y in exe.run({"image": image[None, None]}).items()}
    shifted = exe.run({"image": np.roll(image, 5, axis=1)[None, None]})
    turned = exe.run({"image": np.rot90(image)[None, None].copy()})
    inner = (slice(8, -8), slice(8, -8))  # away from the border, where zeros come in
    for name, y in {"image": image, **filtered}.items():
        print(f"{write(folder / name, y)}", end="")
        if name in KERNELS:
            shift = np.allclose(shifted[name][0, 0][inner], np.roll(y, 5, axis=1)[inner], atol=1e-5)
            turn = np.allclose(turned[name][0, 0], np.rot90(y), atol=1e-5)
            print(f"  commutes with a shift: {shift}, with a rotation: {turn}", end="")
        print()


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "filters"))
