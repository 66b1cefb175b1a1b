"""Pictures with text, for the trained text models: on noise their outputs are all but zero, and compare too easily."""

from __future__ import annotations

import numpy as np
import onnx

_GLYPHS = {  # rows of 3x5 pixels
    "H": "101 101 111 101 101",
    "E": "111 100 110 100 111",
    "L": "100 100 100 100 111",
    "O": "111 101 101 101 111",
    "2": "111 001 111 100 111",
    "0": "111 101 101 101 111",
    "6": "111 100 111 101 111",
}


def page(text: str, height: int, width: int, scale: int) -> np.ndarray:
    """Black letters in the middle of a white picture, (1, 3, height, width) from -1 to 1."""
    letters = np.zeros((5, 4 * len(text) - 1), np.float32)
    for i, letter in enumerate(text):
        letters[:, 4 * i : 4 * i + 3] = [list(map(int, row)) for row in _GLYPHS[letter].split()]
    letters = np.kron(letters, np.ones((scale, scale), np.float32))
    top, left = (height - letters.shape[0]) // 2, (width - letters.shape[1]) // 2
    made = np.ones((1, 3, height, width), np.float32)
    made[:, :, top : top + letters.shape[0], left : left + letters.shape[1]] -= 2 * letters
    return made


def read_text(model: onnx.ModelProto, probabilities: np.ndarray) -> str:
    """The text of a recognition result: the likeliest letters, repeats and blanks (class 0) dropped."""
    letters = next(entry.value for entry in model.metadata_props if entry.key == "character").splitlines()
    best = probabilities[0].argmax(1)
    kept = [int(b) for i, b in enumerate(best) if b and (i == 0 or b != best[i - 1])]
    return "".join(letters[b - 1] if b <= len(letters) else " " for b in kept)
