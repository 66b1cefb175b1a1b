"""Modules made of modules."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from cnncc.errors import GraphError
from cnncc.nn.module import Module
from cnncc.nn.tensor import Tensor


class Sequential(Module):
    """torch.nn.Sequential: modules one after another, named by position or by a mapping."""

    def __init__(self, *modules: Module | Mapping[str, Module]):
        super().__init__()
        if len(modules) == 1 and isinstance(modules[0], Mapping):
            for name, named in modules[0].items():
                self.add_module(name, named)
            return
        for k, module in enumerate(modules):
            if not isinstance(module, Module):
                raise GraphError(f"Sequential takes modules, got {type(module).__name__} at position {k}")
            self.add_module(str(k), module)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Apply the modules in order."""
        (x,) = inputs
        for module in self._modules.values():
            x = module(x)
        return x

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[Module]:
        return iter(self._modules.values())

    def __getitem__(self, position: int) -> Module:
        return list(self._modules.values())[position]


class ModuleList(Module):
    """torch.nn.ModuleList."""

    def __init__(self, modules: Iterable[Module] = ()):
        super().__init__()
        for module in modules:
            self.append(module)

    def append(self, module: Module) -> ModuleList:
        """Add a module at the end."""
        self.add_module(str(len(self._modules)), module)
        return self

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[Module]:
        return iter(self._modules.values())

    def __getitem__(self, position: int) -> Module:
        return list(self._modules.values())[position]


class ModuleDict(Module):
    """torch.nn.ModuleDict."""

    def __init__(self, modules: Mapping[str, Module] | None = None):
        super().__init__()
        for name, module in (modules or {}).items():
            self.add_module(name, module)

    def __setitem__(self, name: str, module: Module) -> None:
        self.add_module(name, module)

    def __getitem__(self, name: str) -> Module:
        return self._modules[name]

    def __contains__(self, name: str) -> bool:
        return name in self._modules

    def __len__(self) -> int:
        return len(self._modules)

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)

    def keys(self) -> Iterable[str]:
        """Names."""
        return self._modules.keys()

    def values(self) -> Iterable[Module]:
        """Modules."""
        return self._modules.values()

    def items(self) -> Iterable[tuple[str, Module]]:
        """Names and modules."""
        return self._modules.items()
