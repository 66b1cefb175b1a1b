"""A folder of images with a folder per class, read with Pillow as batches are needed."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

import numpy as np

from cnncc.errors import GraphError, ModelFileError, UnsupportedError
from cnncc.runtime.arena import empty

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm", ".pgm")


class ImageFolder:
    """``folder/<class>/<image>`` as numbered samples: x [n, C, H, W] of float32 in [0, 1], labels [n] of int64.

    size: (height, width) that every image is resized to (None: all must have one size already); channels: 3 for
    colour, 1 for grey. classes: names of the folders in sorted order, whose places are the labels; `classes` given
    keeps another folder's order (validation data may lack one).

    Raises UnsupportedError without Pillow, ModelFileError where there are no images, or one cannot be read.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        size: tuple[int, int] | None = None,
        channels: int = 3,
        classes: tuple[str, ...] | None = None,
    ):
        if importlib.util.find_spec("PIL") is None:
            raise UnsupportedError("folders of images need Pillow, which is not installed: pip install 'cnncc[images]'")
        if channels not in (1, 3):
            raise GraphError(f"ImageFolder: channels must be 1 (grey) or 3 (colour), got {channels}")
        self.folder, self.channels = Path(folder), channels
        if not self.folder.is_dir():
            raise ModelFileError(f"{self.folder}: there is no such folder")
        found = tuple(sorted(p.name for p in self.folder.iterdir() if p.is_dir() and not p.name.startswith(".")))
        self.classes = found if classes is None else tuple(classes)
        unknown = [name for name in found if name not in self.classes]
        if unknown:
            raise ModelFileError(
                f"{self.folder}: classes must be among {', '.join(self.classes)}, got {', '.join(unknown)}"
            )
        self.files: list[tuple[Path, int]] = []
        for name in found:
            files = sorted(p for p in (self.folder / name).iterdir() if p.suffix.lower() in SUFFIXES)
            self.files += [(path, self.classes.index(name)) for path in files]
        if not self.files:
            raise ModelFileError(
                f"{self.folder}: there must be a folder per class with images in it ({', '.join(SUFFIXES)}), got "
                f"{len(found)} folders without any"
            )
        self.size = size or self._open(self.files[0][0]).size[::-1]
        self._given = size is not None

    def __len__(self) -> int:
        return len(self.files)

    def read(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The images of these numbers, and their labels."""
        x = empty((len(indices), self.channels, *self.size), np.float32)
        for k, index in enumerate(indices):
            self._read(self.files[index][0], x[k])
        return x, np.array([self.files[i][1] for i in indices], np.int64)

    def _read(self, path: Path, out: np.ndarray) -> None:
        image = self._open(path)
        if image.size[::-1] != self.size:
            if not self._given:
                raise ModelFileError(
                    f"{path}: must be of {self.size[0]} x {self.size[1]} pixels as the first image, got "
                    f"{image.size[1]} x {image.size[0]}; give size=(height, width) to resize them"
                )
            from PIL import Image

            image = image.resize(self.size[::-1], Image.Resampling.BILINEAR)
        pixels = np.asarray(image, np.float32)
        out[...] = pixels.reshape(*self.size, self.channels).transpose(2, 0, 1)
        out /= 255

    def _open(self, path: Path) -> Any:
        from PIL import Image, UnidentifiedImageError

        try:
            with Image.open(path) as image:
                return image.convert("RGB" if self.channels == 3 else "L")
        except (OSError, SyntaxError, ValueError, UnidentifiedImageError) as error:
            raise ModelFileError(f"{path}: cannot be read as an image, {error}") from None
