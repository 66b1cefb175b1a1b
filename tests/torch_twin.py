"""A torch module again in cnncc.nn, layer by layer: what `torch.fx` traces, with cnncc.nn's layers of the same names.

The printed form of a torch layer is a call of its constructor, so that evaluating it with cnncc.nn's names makes the
layer here; a difference in names, order or defaults of arguments shows at once.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

from cnncc import nn

_FUNCTIONS = {torch.cat: nn.functional.cat, torch.flatten: nn.functional.flatten, operator.add: operator.add}


class Twin(nn.Module):
    """The modules and the forward computation of a traced torch module."""

    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.steps: list[fx.Node] = []
        traced = fx.symbolic_trace(module)
        for name, child in traced.named_modules():
            if name:
                parent, _, leaf = name.rpartition(".")
                owner = self.find(parent)
                owner.add_module(leaf, nn.Module() if list(child.children()) else _layer(child))
        self.steps = list(traced.graph.nodes)

    def find(self, path: str) -> nn.Module:
        """The module of a dotted name."""
        found: nn.Module = self
        for leaf in path.split(".") if path else ():
            found = found._modules[leaf]
        return found

    def forward(self, x: nn.Tensor) -> Any:
        """What the trace recorded."""
        values: dict[fx.Node, Any] = {}
        for node in self.steps:
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), values.__getitem__)
            if node.op == "placeholder":
                values[node] = x
            elif node.op == "call_module":
                values[node] = self.find(str(node.target))(*args, **kwargs)
            elif node.op == "call_function":
                values[node] = _FUNCTIONS.get(node.target, node.target)(*args, **kwargs)
            elif node.op == "call_method":
                values[node] = getattr(args[0], str(node.target))(*args[1:], **kwargs)
            elif node.op == "output":
                return args[0]
            else:
                raise NotImplementedError(node.op)


def _layer(module: torch.nn.Module) -> nn.Module:
    return eval(repr(module), {**vars(nn), "__builtins__": {"True": True, "False": False}})


def twin(module: torch.nn.Module) -> Twin:
    """The same network with the same parameters and buffers."""
    made = Twin(module)
    if next(module.parameters()).dtype == torch.float64:
        made.double()
    made.load_state_dict(module.state_dict())
    return made
