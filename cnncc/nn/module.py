"""Modules in torch.nn's style: parameters, buffers, children, state_dict. `forward` describes the graph."""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from cnncc.errors import GraphError
from cnncc.nn.tensor import Tensor


class Parameter:
    """A trained array. `requires_grad=False` freezes it."""

    def __init__(self, data: Any, requires_grad: bool = True):
        self.data = np.asarray(data, order="C")
        self.requires_grad = requires_grad

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the array."""
        return self.data.shape

    def numel(self) -> int:
        """Number of elements."""
        return int(self.data.size)

    def __repr__(self) -> str:
        return f"Parameter(shape={self.shape}, dtype={self.data.dtype})"


def _forward_missing(self: Module, *inputs: Tensor) -> Any:
    raise GraphError(f"{type(self).__name__} must define forward")


class Module:
    """Base class. Assigning a Parameter or a Module to an attribute registers it under that name.

    `forward` takes and returns `Tensor`s: it runs once per compilation, and what it does to them is the graph.
    """

    training: bool
    fixed: bool  # stays in evaluation mode, see `freeze`

    def __init__(self) -> None:
        object.__setattr__(self, "_parameters", OrderedDict())
        object.__setattr__(self, "_buffers", OrderedDict())
        object.__setattr__(self, "_modules", OrderedDict())
        object.__setattr__(self, "training", True)
        object.__setattr__(self, "fixed", False)

    _parameters: OrderedDict[str, Parameter | None]
    _buffers: OrderedDict[str, np.ndarray]
    _modules: OrderedDict[str, Module]

    def __setattr__(self, name: str, value: Any) -> None:
        for table in (self._parameters, self._buffers, self._modules):
            table.pop(name, None)
        if isinstance(value, Parameter):
            self._parameters[name] = value
        elif isinstance(value, Module):
            self._modules[name] = value
        else:
            object.__setattr__(self, name, value)
            return
        self.__dict__.pop(name, None)

    def __getattr__(self, name: str) -> Any:
        for table in ("_parameters", "_buffers", "_modules"):
            found = self.__dict__.get(table, {})
            if name in found:
                return found[name]
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    def register_parameter(self, name: str, parameter: Parameter | None) -> None:
        """Register a parameter; None reserves the name (a layer without bias)."""
        self._parameters[name] = parameter

    def register_buffer(self, name: str, array: np.ndarray) -> None:
        """Register an array that is saved but not trained (running statistics)."""
        self._buffers[name] = array

    def add_module(self, name: str, module: Module) -> None:
        """Register a child."""
        self._modules[name] = module

    # What the module does to its inputs; an attribute, so that subclasses may choose their parameters.
    forward: Callable[..., Any] = _forward_missing

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        """forward on Tensors (and options such as sizes); on arrays, the module is traced and run with the interpreter
        (slow; see compile)."""
        tensor = next((x for x in inputs if isinstance(x, Tensor)), None)
        if tensor is not None:
            with tensor.trace.inside(self):
                return self.forward(*inputs, **options)
        from cnncc.nn.tracing import run

        return run(self, [np.asarray(x) for x in inputs])

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of what `forward` takes, in order; none where it takes any number."""
        parameters = inspect.signature(self.forward).parameters.values()
        return tuple(p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD))

    # -- walking ----------------------------------------------------------------------------------------------------

    def named_modules(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        """This module and all below it, with dotted names."""
        yield prefix, self
        for name, child in self._modules.items():
            yield from child.named_modules(f"{prefix}.{name}" if prefix else name)

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """Parameters with dotted names; a shared one under its first name."""
        seen: set[int] = set()
        for path, module in self.named_modules():
            for name, parameter in module._parameters.items():
                if parameter is not None and id(parameter) not in seen:
                    seen.add(id(parameter))
                    yield (f"{path}.{name}" if path else name), parameter

    def named_buffers(self) -> Iterator[tuple[str, np.ndarray]]:
        """Buffers with dotted names."""
        for path, module in self.named_modules():
            for name, array in module._buffers.items():
                yield (f"{path}.{name}" if path else name), array

    def parameters(self) -> Iterator[Parameter]:
        """All parameters."""
        return (p for _, p in self.named_parameters())

    def children(self) -> Iterator[Module]:
        """Direct children."""
        return iter(self._modules.values())

    # -- modes and state ----------------------------------------------------------------------------------------------

    def train(self, mode: bool = True) -> Module:
        """Training mode for this module and all below that are not fixed: batch statistics, dropout."""
        for _, module in self.named_modules():
            object.__setattr__(module, "training", mode and not module.fixed)
        return self

    def eval(self) -> Module:
        """Evaluation mode."""
        return self.train(False)

    def requires_grad_(self, requires_grad: bool = True) -> Module:
        """Freeze (False) or unfreeze all parameters."""
        for parameter in self.parameters():
            parameter.requires_grad = requires_grad
        return self

    def freeze(self, *patterns: str) -> Module:
        """Parameters whose dotted names match ("*", "features.*", "*.bias") are not trained any more.

        A module all of whose own parameters match stays in evaluation mode, also under `train()`: a frozen batch norm
        keeps its running statistics. Raises GraphError naming every pattern that matches no parameter.
        """
        names = [name for name, _ in self.named_parameters()]
        idle = [p for p in patterns if not any(fnmatchcase(n, p) for n in names)]
        if idle:
            shown = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
            raise GraphError(f"freeze: every pattern must match a parameter, got {', '.join(idle)}; there are {shown}")
        for path, module in self.named_modules():
            own = {name: p for name, p in module._parameters.items() if p is not None}
            matched = [n for n in own if any(fnmatchcase(f"{path}.{n}" if path else n, p) for p in patterns)]
            for name in matched:
                own[name].requires_grad = False
            if own and len(matched) == len(own):
                object.__setattr__(module, "fixed", True)
                object.__setattr__(module, "training", False)
        return self

    def to(self, dtype: Any) -> Module:
        """Floating-point parameters and buffers in another dtype (np.float32, np.float64)."""
        for _, module in self.named_modules():
            for parameter in module._parameters.values():
                if parameter is not None and parameter.data.dtype.kind == "f":
                    parameter.data = parameter.data.astype(dtype)
            for name, array in module._buffers.items():
                if array.dtype.kind == "f":
                    module._buffers[name] = array.astype(dtype)
        return self

    def double(self) -> Module:
        """Parameters and buffers in float64."""
        return self.to(np.float64)

    def float(self) -> Module:
        """Parameters and buffers in float32."""
        return self.to(np.float32)

    def state_dict(self) -> dict[str, np.ndarray]:
        """Copies of parameters and buffers under torch's names."""
        result: dict[str, np.ndarray] = {}
        for path, module in self.named_modules():
            for name, parameter in module._parameters.items():
                if parameter is not None:
                    result[f"{path}.{name}" if path else name] = parameter.data.copy()
            for name, array in module._buffers.items():
                result[f"{path}.{name}" if path else name] = array.copy()
        return result

    def load_state_dict(self, state: Mapping[str, Any], strict: bool = True) -> None:
        """Take arrays (numpy or torch tensors) by name. Raises GraphError listing names and shapes that do not fit."""
        problems, known = [], set()
        for path, module in self.named_modules():
            for name in (*module._parameters, *module._buffers):
                full = f"{path}.{name}" if path else name
                own = module._parameters.get(name)
                have = own.data if own is not None else module._buffers.get(name)
                if have is None:
                    continue
                known.add(full)
                if full not in state:
                    problems.append(f"missing {full}")
                    continue
                given = np.asarray(_to_numpy(state[full]))
                if given.shape != have.shape:
                    problems.append(f"{full}: shape must be {have.shape}, got {given.shape}")
                elif own is not None:
                    own.data = np.array(given, dtype=have.dtype, order="C")
                else:
                    module._buffers[name] = np.array(given, dtype=have.dtype, order="C")
        if strict:
            problems += [f"unexpected {name}" for name in state if name not in known]
            if problems:
                raise GraphError(f"load_state_dict: {'; '.join(problems)}")

    # -- text ---------------------------------------------------------------------------------------------------------

    def extra_repr(self) -> str:
        """The arguments that `repr` shows."""
        return ""

    def __repr__(self) -> str:
        lines = [f"  ({name}): " + repr(child).replace("\n", "\n  ") for name, child in self._modules.items()]
        inner = "\n".join(lines)
        return f"{type(self).__name__}({self.extra_repr()}" + (f"\n{inner}\n)" if lines else ")")


def _to_numpy(value: Any) -> np.ndarray:
    if hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    return np.asarray(value)
