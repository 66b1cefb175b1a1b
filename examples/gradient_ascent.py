"""What does a network want to see? Gradient ascent on the input, for a class and for a filter inside.

python examples/gradient_ascent.py [steps]

The gradient of a score with respect to the image is a graph like any other; the network is the trained one in
cnncc/demo/digits.onnx. Prints how the probability of a class and the response of a filter grow, and the images found.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

import cnncc

MODEL = Path(cnncc.__file__).parent / "demo" / "digits.onnx"


def score_and_gradient(place: str, channel: int, penalty: float) -> cnncc.Executable:
    """The mean of a channel inside the network less a penalty of the squared pixels, and its gradient for x."""
    graph = cnncc.load_onnx(MODEL, {"x": (1, 1, 8, 8)})
    (image,) = graph.inputs
    value = graph.outputs[0] if place == "logits" else next(n.output for n in graph.nodes if n.source == place)
    b = cnncc.Builder(graph)
    chosen = b.reduce_mean(b.slice(value, starts=(channel,), ends=(channel + 1,), axes=(1,)), keepdims=False)
    size = b.reduce_sum(b.square(image), keepdims=False)
    graph.outputs, graph.output_names = [b.sub(chosen, b.mul(size, penalty))], ["score"]
    return cnncc.compile(cnncc.value_and_grad(b.finish(), wrt=["x"], of="score"), threads=1)


def ascend(executable: cnncc.Executable, steps: int) -> tuple[np.ndarray, float, float]:
    """From grey, along the gradient, pixels kept in [0, 1]: the image, the score at first and at last."""
    image = np.full((1, 1, 8, 8), 0.5, np.float32)
    scores = []
    for _ in range(steps):
        result = executable.run({"x": image})
        scores.append(float(result["score"]))
        gradient = result["grad_x"]
        image = np.clip(image + 0.1 * gradient / (np.sqrt((gradient**2).mean()) + 1e-8), 0, 1)
    return image, scores[0], float(executable.run({"x": image})["score"])


def show(image: np.ndarray) -> None:
    """The image in characters."""
    for row in image[0, 0].clip(0, 0.99):
        print("    " + "".join(2 * " .:-=+*#"[int(v)] for v in row * 8))


def main(steps: int = 60) -> tuple[float, float]:
    """Print what was found; return the probabilities of class 3 of the grey image and of the one found."""
    image, _, _ = ascend(score_and_gradient("logits", 3, 0.02), steps)
    network = cnncc.compile(MODEL, threads=1)
    logits = network(np.concatenate([np.full_like(image, 0.5), image]))
    exp = np.exp(logits - logits.max(axis=1, keepdims=True))
    before, after = (exp / exp.sum(axis=1, keepdims=True))[:, 3]
    print(f"class 3: probability {before:.4f} of the grey image, {after:.4f} of this one:")
    show(image)
    image, first, last = ascend(score_and_gradient("features.3", 20, 0.0), steps)
    print(f"filter 20 of the second convolution: score {first:.3f} at first, {last:.3f} at last:")
    show(image)
    return float(before), float(after)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
