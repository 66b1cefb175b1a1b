"""Every error that cnncc raises on purpose.

Form of a message: ``<node>: <rule in words>, got <numbers>``, then what to do if that is known.
`assert` is for our own bugs only.
"""

from __future__ import annotations


class CnnccError(Exception):
    """Base of all errors that a user of cnncc can cause or meet."""


class GraphError(CnnccError):
    """The caller's graph (or call) breaks a rule: shapes, dtypes, ranks, names."""


class UnsupportedError(CnnccError):
    """Something valid that cnncc cannot do; names every place at once."""


class ModelFileError(CnnccError):
    """A model file, artifact or data file is damaged, hostile or of another kind."""


class VerifyError(CnnccError):
    """A graph breaks an invariant of the IR; names the pass that made it."""


class ScheduleError(CnnccError):
    """A kernel could not be scheduled or built for its target."""


class RuntimeFault(CnnccError):
    """A compiled model could not be loaded or run."""


class NonFiniteError(CnnccError):
    """Training met NaN or infinity; names the step and the first layer that made it."""


class ParseError(CnnccError):
    """Text that is not IR; shows the line with a caret under the place."""

    def __init__(self, message: str, source: str = "", position: int = 0) -> None:
        self.line = source.count("\n", 0, position) + 1
        start = source.rfind("\n", 0, position) + 1
        end = source.find("\n", position)
        self.column = position - start + 1
        text = source[start : end if end >= 0 else len(source)]
        caret = " " * (position - start) + "^"
        super().__init__(
            f"line {self.line}, column {self.column}: {message}\n  {text}\n  {caret}" if source else message
        )
