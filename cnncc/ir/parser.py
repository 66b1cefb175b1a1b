"""Text --> IR, the inverse of the printer. Errors show the line with a caret under the place."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from cnncc.errors import GraphError, ParseError
from cnncc.ir.dims import Dim, parse_dim
from cnncc.ir.dtype import NUMPY
from cnncc.ir.graph import Graph, Node, Value
from cnncc.ir.kernel import KERNEL, KernelAttrs
from cnncc.ir.layout import PLAIN, Layout
from cnncc.ir.printer import digest
from cnncc.ir.types import Type
from cnncc.ir.verify import verify
from cnncc.ops.registry import lookup

_SPACE = re.compile(r"(\s|#[^\n]*)*")
_NAME = re.compile(r'[\w.]+|"(?:[^"\\]|\\.)*"')
_NUMBER = re.compile(r"-?(inf|nan|\d+\.?\d*(e[+-]?\d+)?)")
_TAG = re.compile(r"[A-Za-z]+(\d+[a-z])+")
_WORDS = {"True": True, "False": False, "None": None, "inf": float("inf"), "nan": float("nan")}


def parse(text: str, constants: Mapping[str, np.ndarray] | None = None) -> Graph:
    """Read a graph from its textual form and verify it.

    constants: values of the constants that the text names by digest (an open .npz will do). In text written by hand a
    constant may also be ``splat(value)`` or ``random(seed)`` (standard normal). Raises ParseError.
    """
    parser = _Parser(text, constants or {})
    graph = parser.graph()
    parser.skip()
    if parser.at < len(text):
        parser.fail("nothing may follow the graph")
    verify(graph)
    return graph


class _Parser:
    def __init__(self, text: str, constants: Mapping[str, np.ndarray]):
        self.text = text
        self.at = 0
        self.data = constants

    # -- characters -----------------------------------------------------------------------------------------------

    def fail(self, message: str, at: int | None = None) -> Any:
        raise ParseError(message, self.text, self.at if at is None else at)

    def skip(self) -> None:
        match = _SPACE.match(self.text, self.at)
        assert match
        self.at = match.end()

    def peek(self, token: str) -> bool:
        self.skip()
        return self.text.startswith(token, self.at)

    def take(self, token: str) -> bool:
        if not self.peek(token):
            return False
        self.at += len(token)
        return True

    def expect(self, token: str) -> None:
        if not self.take(token):
            self.fail(f"expected {token!r}")

    def match(self, pattern: re.Pattern[str], what: str) -> str:
        self.skip()
        found = pattern.match(self.text, self.at)
        if not found:
            self.fail(f"expected {what}")
        assert found
        self.at = found.end()
        return found.group()

    def name(self) -> str:
        text = self.match(_NAME, "a name")
        return str(json.loads(text)) if text.startswith('"') else text

    # -- grammar ---------------------------------------------------------------------------------------------------

    def graph(self) -> Graph:
        self.expect("graph")
        graph = Graph(self.name())
        scope: dict[str, Value] = {}
        self.expect("(")
        while not self.take(")"):
            self.expect("%")
            name, type_ = self.typed_name(scope)
            scope[name] = graph.add_input(name, type_)
            if not self.peek(")"):
                self.expect(",")
        self.expect("{")
        self.block(graph, scope)
        return graph

    def block(self, graph: Graph, scope: dict[str, Value]) -> None:
        while not self.take("return"):
            if self.take("const"):
                self.expect("%")
                name, type_ = self.typed_name(scope)
                self.expect("=")
                value = graph.add_constant(self.constant(name, type_), name)
                value.type = type_
                scope[name] = value
            elif self.peek("%"):
                self.node(graph, scope)
            else:
                self.fail("expected a value, 'const' or 'return'")
        while not self.take("}"):
            value = self.value(scope)
            graph.add_output(value, self.name() if self.take("as") else None)
            if not self.peek("}"):
                self.expect(",")

    def typed_name(self, scope: Mapping[str, Value]) -> tuple[str, Type]:
        start = self.at
        name = self.name()
        if name in scope:
            self.fail(f"%{name} is defined already", start)
        self.expect(":")
        return name, self.type()

    def type(self) -> Type:
        self.skip()
        start = self.at
        dtype = self.name()
        if dtype not in NUMPY:
            self.fail(f"expected an element type ({', '.join(NUMPY)})", start)
        self.expect("[")
        shape = []
        while not self.take("]"):
            shape.append(self.dim())
            if not self.peek("]"):
                self.expect(",")
        self.skip()
        tag = _TAG.match(self.text, self.at)
        layout = PLAIN
        if tag:
            self.at = tag.end()
            layout = Layout.parse(tag.group())
        return Type(dtype, tuple(shape), layout)

    def dim(self) -> Dim:
        self.skip()
        start, depth = self.at, 0
        while self.at < len(self.text) and not (depth == 0 and self.text[self.at] in ",]"):
            depth += {"(": 1, ")": -1}.get(self.text[self.at], 0)
            self.at += 1
        try:
            return parse_dim(self.text[start : self.at].strip())
        except GraphError as error:
            return self.fail(str(error), start)

    def value(self, scope: Mapping[str, Value]) -> Value:
        self.expect("%")
        start = self.at
        name = self.name()
        if name not in scope:
            self.fail(f"%{name} is not defined", start)
        return scope[name]

    def constant(self, name: str, type_: Type) -> np.ndarray:
        shape = tuple(int(d) for d in type_.shape)
        start = self.at
        if self.peek("["):
            self.expect("[")
            numbers = []
            while not self.take("]"):
                numbers.append(self.literal())
                if not self.peek("]"):
                    self.expect(",")
            if len(numbers) != int(np.prod(shape, dtype=np.int64)):
                self.fail(f"%{name} needs {int(np.prod(shape))} numbers, got {len(numbers)}", start)
            return np.array(numbers, dtype=type_.numpy).reshape(shape)
        if self.take("splat("):
            number = self.literal()
            self.expect(")")
            return np.full(shape, number, dtype=type_.numpy)
        if self.take("random("):
            seed = self.literal()
            self.expect(")")
            return np.random.default_rng(seed).standard_normal(shape).astype(type_.numpy)
        self.expect("sha256:")
        expected = self.name()
        if name not in self.data:
            self.fail(f"the values of %{name} are not in the text: give constants={{{name!r}: array}}", start)
        array = np.asarray(self.data[name])
        if digest(array) != expected or array.shape != shape:
            self.fail(f"%{name}: the array given does not have digest {expected} and shape {shape}", start)
        return array

    def node(self, graph: Graph, scope: dict[str, Value]) -> None:
        results = []
        while True:
            self.expect("%")
            results.append(self.typed_name(scope))
            if not self.take(","):
                break
        self.expect("=")
        self.skip()
        start = self.at
        op = self.name()
        self.expect("(")
        operands: list[Value | None] = []
        inner: list[tuple[str, Value]] = []
        keywords: dict[str, Any] = {}
        while not self.take(")"):
            if self.peek("%"):
                if op == KERNEL:
                    self.expect("%")
                    name = self.name()
                    self.expect("=")
                    inner.append((name, self.value(scope)))
                else:
                    operands.append(self.value(scope))
            elif self.peek("none"):
                self.expect("none")
                operands.append(None)
            else:
                key = self.name()
                self.expect("=")
                keywords[key] = self.literal()
            if not self.peek(")"):
                self.expect(",")
        body = self.body(inner) if op == KERNEL else None
        source = self.name() if self.take("@") else ""
        attrs = self.attrs(KernelAttrs if body else self.lookup(op, start).attrs, keywords, start)
        names = [graph.fresh_name(n) for n, _ in results]
        node = Node(
            op, [v for _, v in inner] if body else operands, attrs, [t for _, t in results], names, source, body
        )
        graph.add_node(node)
        scope.update(zip((n for n, _ in results), node.outputs, strict=True))

    def body(self, inputs: list[tuple[str, Value]]) -> Graph:
        self.expect("{")
        body = Graph("body")
        scope = {name: body.add_input(name, value.type) for name, value in inputs}
        self.block(body, scope)
        return body

    def lookup(self, op: str, start: int) -> Any:
        try:
            return lookup(op)
        except GraphError as error:
            return self.fail(str(error), start)

    def attrs(self, kind: Callable[..., Any], keywords: dict[str, Any], start: int) -> Any:
        fields = {f.name for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
        unknown = sorted(set(keywords) - fields)
        if unknown:
            self.fail(f"unknown attribute {', '.join(unknown)}; there are {', '.join(sorted(fields)) or 'none'}", start)
        try:
            return kind(**keywords)
        except TypeError as error:
            return self.fail(str(error), start)

    def literal(self) -> Any:
        self.skip()
        if self.take("("):
            items = []
            while not self.take(")"):
                items.append(self.literal())
                if not self.peek(")"):
                    self.expect(",")
            return tuple(items)
        if self.peek('"'):
            return self.name()
        for word, meaning in _WORDS.items():
            if self.take(word):
                return meaning
        start = self.at
        found = _NUMBER.match(self.text, self.at)
        if found:
            self.at = found.end()
            rest = re.compile(r"[^,()\]]*").match(self.text, self.at)
            if rest and not rest.group().strip():
                text = found.group()
                return float(text) if re.search(r"[.en]", text) else int(text)
            self.at = start
        return self.dim_literal()

    def dim_literal(self) -> Dim:
        """A symbolic dimension inside attributes (reshape targets): up to the comma or bracket that ends it."""
        start, depth = self.at, 0
        while self.at < len(self.text) and not (depth == 0 and self.text[self.at] in ",)]"):
            depth += {"(": 1, ")": -1}.get(self.text[self.at], 0)
            self.at += 1
        try:
            return parse_dim(self.text[start : self.at].strip())
        except GraphError:
            return self.fail("expected a number, string, tuple, True, False, None or a dimension", start)
