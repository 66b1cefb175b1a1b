"""Text --> IR, the inverse of the printer. Errors show the line with a caret under the place."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, NoReturn

import numpy as np

from cnncc.errors import GraphError, ParseError, VerifyError
from cnncc.ir.attributes import make_attributes, make_record
from cnncc.ir.dims import Dim, parse_dim
from cnncc.ir.dtype import NUMPY
from cnncc.ir.graph import Graph, Node, Value
from cnncc.ir.kernel import KERNEL, KernelAttrs
from cnncc.ir.layout import PLAIN, Layout
from cnncc.ir.printer import digest
from cnncc.ir.types import Type
from cnncc.ir.verify import verify, verify_types
from cnncc.ops.registry import lookup

_SPACE = re.compile(r"(\s|#[^\n]*)*")
_NAME = re.compile(r'[\w.]+|"(?:[^"\\]|\\.)*"')
_NUMBER = re.compile(r"-?(inf|nan|\d+\.?\d*(e[+-]?\d+)?)")
_TAG = re.compile(r"[A-Za-z]+(\d+[a-z])+")
_WORD = re.compile(r"\w+")
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

    def fail(self, message: str, at: int | None = None) -> NoReturn:
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
        self.at = found.end()
        return found.group()

    def name(self) -> str:
        self.skip()
        start = self.at
        text = self.match(_NAME, "a name")
        if not text.startswith('"'):
            return text
        try:
            return str(json.loads(text))
        except json.JSONDecodeError as error:
            self.fail(f"a quoted name follows the rules of JSON: {error.msg}", start)

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

    def typed_name(self, scope: Mapping[str, Any]) -> tuple[str, Type]:
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
            layout = self.layout(tag.group(), len(shape), tag.start())
        return Type(dtype, tuple(shape), layout)

    def layout(self, tag: str, rank: int, start: int) -> Layout:
        try:
            layout = Layout.parse(tag)
        except GraphError as error:
            self.fail(str(error), start)
        if layout.tag(rank) != tag:
            self.fail(f"a layout tag has one letter for each of the {rank} axes", start)
        return layout

    def dim(self) -> Dim:
        self.skip()
        start, depth = self.at, 0
        while self.at < len(self.text) and not (depth == 0 and self.text[self.at] in ",]"):
            depth += {"(": 1, ")": -1}.get(self.text[self.at], 0)
            self.at += 1
        try:
            dim = parse_dim(self.text[start : self.at].strip())
        except GraphError as error:
            self.fail(str(error), start)
        if isinstance(dim, int) and dim < 0:
            self.fail(f"sizes must not be negative, got {dim}", start)
        return dim

    def value(self, scope: Mapping[str, Value]) -> Value:
        self.expect("%")
        start = self.at
        name = self.name()
        if name not in scope:
            self.fail(f"%{name} is not defined", start)
        return scope[name]

    def constant(self, name: str, type_: Type) -> np.ndarray:
        self.skip()
        start = self.at
        if not type_.static:
            self.fail(f"the shape of constant %{name} must be numbers, got {type_}", start)
        shape = tuple(int(d) for d in type_.shape)
        if self.peek("["):
            self.expect("[")
            numbers = []
            while not self.take("]"):
                numbers.append(self.literal())
                if not self.peek("]"):
                    self.expect(",")
            if len(numbers) != int(np.prod(shape, dtype=np.int64)):
                self.fail(f"%{name} needs {int(np.prod(shape))} numbers, got {len(numbers)}", start)
            return self.numbers(numbers, type_, start).reshape(shape)
        if self.take("splat("):
            number = self.literal()
            self.expect(")")
            return np.full(shape, self.numbers([number], type_, start)[0])
        if self.take("random("):
            seed = self.literal()
            self.expect(")")
            if not isinstance(seed, int) or seed < 0:
                self.fail(f"random() takes a seed of at least 0, got {seed!r}", start)
            return np.random.default_rng(seed).standard_normal(shape).astype(type_.numpy)
        self.expect("sha256:")
        expected = self.name()
        if name not in self.data:
            self.fail(f"the values of %{name} are not in the text: give constants={{{name!r}: array}}", start)
        array = np.asarray(self.data[name])
        if digest(array) != expected or array.shape != shape:
            self.fail(f"%{name}: the array given does not have digest {expected} and shape {shape}", start)
        return array

    def numbers(self, values: list[Any], type_: Type, start: int) -> np.ndarray:
        try:
            return np.array(values, dtype=type_.numpy)
        except (ValueError, TypeError, OverflowError) as error:
            self.fail(f"the values must be numbers of {type_.dtype}: {error}", start)

    def node(self, graph: Graph, scope: dict[str, Value]) -> None:
        results: list[tuple[str, Type]] = []
        while True:
            self.expect("%")
            results.append(self.typed_name({**scope, **dict(results)}))
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
                    at, name = self.at, self.name()
                    if name in dict(inner):
                        self.fail(f"%{name} is defined already", at)
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
        operands = [v for _, v in inner] if body else operands
        attrs = self.attrs(op, keywords, operands, start)
        names = [graph.fresh_name(n) for n, _ in results]
        node = graph.add_node(Node(op, operands, attrs, [t for _, t in results], names, source, body))
        try:
            verify_types(node)
        except VerifyError as error:
            self.fail(str(error), start)
        scope.update(zip((n for n, _ in results), node.outputs, strict=True))

    def body(self, inputs: list[tuple[str, Value]]) -> Graph:
        self.expect("{")
        body = Graph("body")
        scope = {name: body.add_input(name, value.type) for name, value in inputs}
        self.block(body, scope)
        return body

    def attrs(self, op: str, keywords: dict[str, Any], operands: list[Value | None], start: int) -> Any:
        """What a person may write (``pads=1``) becomes the one form that the IR has."""
        try:
            if op == KERNEL:
                return make_record(KernelAttrs, keywords)
            return make_attributes(lookup(op), keywords, [None if v is None else v.type for v in operands])
        except (GraphError, TypeError) as error:
            self.fail(f"{op}: {error}", start)

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
        start = self.at
        word = _WORD.match(self.text, start)
        if word and word.group() in _WORDS:
            self.at = word.end()
            return _WORDS[word.group()]
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
            self.fail("expected a number, string, tuple, True, False, None or a dimension", start)
