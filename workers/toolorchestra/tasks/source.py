"""Task sources, which are deterministic: a source built with the same arguments has the same task at the same index.

So a *cursor* into a source is an int, and the order of draws need not be stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from toolorchestra.api.mistakes import listed
from toolorchestra.tasks.errors import TaskError
from toolorchestra.tasks.task import Task


class TaskSource(Protocol):
    """Tasks by index, `0 <= index < len(source)`."""

    @property
    def name(self) -> str:
        """Name of the source in the training's YAML; every task has it."""

    def __len__(self) -> int: ...

    def task(self, index: int) -> Task:
        """Return the task at `index`. IndexError: outside the range."""

    def place(self, index: int) -> str:
        """Return where the task is defined, for messages: `file:line`, or the source's name."""


class SourceMaker(Protocol):
    """What an entry point of the group `toolorchestra.task_sources` refers to: a class, or a function."""

    def __call__(self, *, name: str, parameters: Mapping[str, Any]) -> TaskSource:
        """The source that YAML calls `name`, with its `plugin.parameters`. SourceError where they cannot be used."""


class SourceError(TaskError):
    """A source cannot be built as configured. The text says what to change."""


MOST_SHOWN_TEXT = 400
"""Most characters that are shown of one message."""


@dataclass(frozen=True)
class LineProblem:
    """One problem in a file of tasks."""

    file: str
    line: int
    """Line number, from 1."""
    field: str
    """Dotted path in the line's JSON; empty if the line is not a JSON object."""
    message: str
    """What is wrong and what would be right."""

    def __str__(self) -> str:
        said = f"{self.field}: {self.message}" if self.field else self.message
        return f"{self.file}:{self.line}: {printable(said)}"


def printable(text: str) -> str:
    """Return the text on one line that is safe for a terminal."""
    shown = text if len(text) <= MOST_SHOWN_TEXT else text[: MOST_SHOWN_TEXT - 1] + "…"
    return "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in shown)


class TaskFileError(SourceError):
    """A file of tasks has malformed lines. `problems` has all of them, in order."""

    def __init__(self, problems: tuple[LineProblem, ...]) -> None:
        self.problems = problems
        super().__init__("\n".join(listed([str(problem) for problem in problems])))
