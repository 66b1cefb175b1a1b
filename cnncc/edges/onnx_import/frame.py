"""Where a list of ONNX nodes runs: the main graph, a subgraph, or the body of a function."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from cnncc.edges.onnx_import.tensor import Tensor


@dataclass(frozen=True)
class Frame:
    """scope: values by name. opsets: version by domain. attributes: those of the function's call.

    prefix: put before node names (the name of the node that calls the function).
    """

    scope: dict[str, Tensor | None]
    opsets: Mapping[str, int]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    prefix: str = ""
    depth: int = 0

    def inner(self) -> Frame:
        """For a subgraph: sees the outer values, adds its own."""
        return replace(self, scope=dict(self.scope), depth=self.depth + 1)

    def attributes_of(self, node: Any) -> dict[str, Any]:
        """A node's attributes by name; references to the function's attributes are replaced."""
        result = {}
        for attribute in node.attribute:
            if attribute.ref_attr_name:
                given = self.attributes.get(attribute.ref_attr_name)
                if given is not None:
                    result[attribute.name] = given
            else:
                result[attribute.name] = attribute
        return result


def domain_of(node: Any) -> str:
    """A node's domain; the standard one is the empty string."""
    return "" if node.domain == "ai.onnx" else node.domain


def opsets_of(model: Any) -> dict[str, int]:
    """Version by domain, of a model or a function."""
    return {"" if o.domain == "ai.onnx" else o.domain: int(o.version) for o in model.opset_import}
