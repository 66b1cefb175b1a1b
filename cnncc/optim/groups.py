"""Parameter groups: hyperparameters of their own for some parameters, or none at all (frozen)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Any

from cnncc.errors import GraphError


class Group:
    """Parameters by name, and what is different for them.

    match: a name or a pattern ("*.bias", "features.*"), or several. frozen: they are constants of the step, and stay as
    they are. overrides: hyperparameters of the optimizer, by their names there (lr=0.01, weight_decay=0); they are
    attributes of the group, and those that are numbers may be changed between steps like the optimizer's own.
    """

    overrides: dict[str, Any]

    def __init__(self, match: str | Sequence[str], *, frozen: bool = False, **overrides: Any) -> None:
        self.__dict__["match"] = (match,) if isinstance(match, str) else tuple(match)
        self.__dict__["frozen"] = frozen
        self.__dict__["overrides"] = overrides
        if frozen and overrides:
            raise GraphError(f"{self!r}: frozen parameters take no hyperparameters, got {', '.join(overrides)}")

    match: tuple[str, ...]
    frozen: bool

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name not in self.__dict__.get("overrides", {}):
            raise AttributeError(f"this group has no {name} of its own; it has the optimizer's")
        return self.overrides[name]

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("match", "frozen", "overrides"):
            raise AttributeError(f"{name} of a group is fixed when it is made")
        self.overrides[name] = value

    def __repr__(self) -> str:
        options = ["frozen=True"] if self.frozen else [f"{k}={v!r}" for k, v in self.overrides.items()]
        return f"Group({', '.join([repr(self.match[0] if len(self.match) == 1 else self.match), *options])})"

    def matches(self, name: str) -> bool:
        """Whether the group names a parameter."""
        return any(name == m or fnmatchcase(name, m) for m in self.match)


def find_group(groups: Sequence[Group], name: str) -> Group | None:
    """The group of a parameter: the first that matches, None where none does."""
    return next((g for g in groups if g.matches(name)), None)


def assign(groups: Sequence[Group], names: Iterable[str]) -> dict[str, Group | None]:
    """The group of each parameter. Raises GraphError naming every pattern that no parameter matches."""
    names = list(names)
    idle = [m for g in groups for m in g.match if not any(name == m or fnmatchcase(name, m) for name in names)]
    if idle:
        shown = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
        raise GraphError(
            f"groups: every name must match a trained parameter, got {', '.join(map(repr, idle))}; there are {shown}"
        )
    return {name: find_group(groups, name) for name in names}
