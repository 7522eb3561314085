"""The mistakes in the given files: all at once, each with its place and what would be right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from toolorchestra.api.errors import InputError
from toolorchestra.api.schema import Path


def dotted(path: Path) -> str:
    """Convert `("spec", "tasks", "sources", 0, "type")` → `spec.tasks.sources[0].type`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


@dataclass(frozen=True, kw_only=True)
class Mistake:
    """One mistake. `line` counts from 1, `document` from 1 within the file; `subject` is `Kind/name` where known."""

    file: str
    document: int = 1
    line: int | None = None
    subject: str = ""
    path: str = ""
    message: str

    def __str__(self) -> str:
        place = self.file + (f":{self.line}" if self.line else "")
        subject = f" ({self.subject})" if self.subject else f" (document {self.document})" if self.document > 1 else ""
        return f"{place}{subject}: {self.path + ': ' if self.path else ''}{self.message}"


MOST_SHOWN = 20
"""Most lines of a message with many mistakes; the others are only counted."""


def listed(lines: Sequence[str]) -> list[str]:
    """Return the first lines, and how many more there are. Nobody reads more before correcting the first ones."""
    more = len(lines) - MOST_SHOWN
    return [*lines[:MOST_SHOWN], f"… and {more} more"] if more > 0 else list(lines)


class ResourceError(InputError):
    """The given files cannot be used as they are. `mistakes` holds every mistake of every file."""

    def __init__(self, mistakes: Sequence[Mistake]) -> None:
        self.mistakes = tuple(mistakes)
        super().__init__(str(self))

    def __str__(self) -> str:
        number = len(self.mistakes)
        head = "1 mistake:" if number == 1 else f"{number} mistakes:"
        return "\n".join([head, *(f"  {line}" for line in listed([*map(str, self.mistakes)]))])
