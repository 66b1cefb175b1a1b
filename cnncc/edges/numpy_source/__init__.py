"""Graph --> flat, executable numpy, readable as lecture code."""

from cnncc.edges.numpy_source.writer import parameters, to_numpy

__all__ = ["parameters", "to_numpy"]
