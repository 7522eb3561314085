"""Tasks from a JSON Lines file in the native format: each line is a `Task` (docs/tasks.md).

The whole file is checked when the source is built, before the run spends money: all mistakes of all lines are reported
together, and every task's own answer is graded. Tasks are read again by byte offset, so a file needs 16 bytes of memory
per line.
"""

from __future__ import annotations

import difflib
import json
import logging
from array import array
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from pydantic import ValidationError

from toolorchestra.api.regular_file import FileRefused, open_regular
from toolorchestra.tasks.blocking_judge import BlockingJudge
from toolorchestra.tasks.grader import check_grader
from toolorchestra.tasks.json_line import MOST_BYTES, LineRefused, read_json, unsound
from toolorchestra.tasks.reference import References
from toolorchestra.tasks.source import LineProblem, SourceError, TaskFileError
from toolorchestra.tasks.task import GraderSpec, Task

MOST_PROBLEMS = 1000
"""Most mistakes; then the rest of a file is not read."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LineChecks:
    """Checks beyond the form of a line. `tools`: names that a task may use; None: any. `references`: grade every task's
    own answer."""

    tools: Collection[str] | None = None
    references: bool = True


class JSONLSource:
    """The tasks of one file, in its order, without blank lines.

    `skipped` lists the problems that `skip_invalid` ignored; the lines are `{problem.line for problem in skipped}`.

    Raises:
        TaskFileError: malformed lines, unless `skip_invalid`.
        SourceError: the file cannot be read, or contains no task.
    """

    def __init__(self, *, name: str, path: Path, checks: LineChecks | None = None, skip_invalid: bool = False) -> None:
        self._name, self._path, self._checks = name, path, checks or LineChecks()
        self._offsets, self._numbers = array("Q"), array("Q")
        try:
            with open_regular(path) as file:
                begins = file.read(64).lstrip()[:1]
                file.seek(0)
                problems = self._read(file, most_problems=None if skip_invalid else MOST_PROBLEMS)
        except (FileRefused, OSError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise SourceError(f"source {name}: cannot read {path}: {reason}") from error
        if problems and not skip_invalid:
            if len(problems) > 1 and begins != b"{" and not self._offsets and not any(p.field for p in problems):
                raise SourceError(
                    f"source {name}: {path}: no line is a JSON object: want JSON Lines, one object per line"
                    f" (`jq -c '.[]'` makes them of a list). The first: {problems[0]}"
                )
            raise TaskFileError(tuple(problems))
        if not self._offsets:
            raise SourceError(f"source {name}: {path} contains no valid task")
        self.skipped: tuple[LineProblem, ...] = tuple(problems)

    def _read(self, file: BinaryIO, *, most_problems: int | None) -> list[LineProblem]:
        """Record the offsets of the valid tasks; return the problems of the others."""
        with BlockingJudge() as judge:
            references = References(judge) if self._checks.references else None
            problems = self._checked_lines(file, references=references, most_problems=most_problems)
        if references is not None and references.ungraded:
            _log.warning(
                "%s: the answers of %d tasks were not graded: grading took too long", self._path, references.ungraded
            )
        return problems

    def _checked_lines(
        self, file: BinaryIO, *, references: References | None, most_problems: int | None
    ) -> list[LineProblem]:
        problems: list[LineProblem] = []
        seen: dict[str, int] = {}
        for number, (offset, line) in enumerate(_lines(file), start=1):
            task, found = _checked(line, name=self._name, checks=self._checks, references=references)
            if task is not None and task.id in seen:
                found = [("id", f"{task.id!r} is already the id of line {seen[task.id]}; ids must be unique")]
            elif task is not None:
                seen[task.id] = number
                self._offsets.append(offset)
                self._numbers.append(number)
            problems += [LineProblem(str(self._path), number, *one) for one in found]
            if most_problems is not None and len(problems) >= most_problems:
                message = f"{len(problems)} mistakes so far: the rest of the file was not read"
                return [*problems, LineProblem(str(self._path), number, "", message)]
        return problems

    @property
    def name(self) -> str:
        return self._name

    @property
    def skipped_lines(self) -> int:
        """Number of lines that `skip_invalid` skipped."""
        return len({problem.line for problem in self.skipped})

    def __len__(self) -> int:
        return len(self._offsets)

    def place(self, index: int) -> str:
        return f"{self._path}:{self._numbers[index]}"

    def task(self, index: int) -> Task:
        if not 0 <= index < len(self):
            raise IndexError(index)
        with self._path.open("rb") as file:
            file.seek(self._offsets[index])
            task, problems = parse_line(file.readline(MOST_BYTES + 1), name=self._name)
        if task is None:  # the file was valid when the source was built
            raise SourceError(f"source {self._name}: {self._path} changed while it was in use: {problems[0][1]}")
        return task


def _lines(file: BinaryIO) -> Iterator[tuple[int, bytes | None]]:
    """Yield offset and bytes of every line; None instead of the bytes of a line that is too long."""
    offset = 0
    while line := file.readline(MOST_BYTES + 1):
        length, whole = len(line), len(line) <= MOST_BYTES
        yield offset, line if whole else None
        while not whole and not line.endswith(b"\n") and (line := file.readline(1 << 20)):
            length += len(line)
        offset += length


def _checked(
    line: bytes | None, *, name: str, checks: LineChecks, references: References | None
) -> tuple[Task | None, list[tuple[str, str]]]:
    """Return a line's task, or its problems; neither for a blank line."""
    if line is None:
        return None, [("", f"longer than {MOST_BYTES >> 20} MiB: write one task per line, and a shorter one")]
    if not line.strip():
        return None, []
    task, problems = parse_line(line, name=name)
    if task is not None:
        problems = task_problems(task, tools=checks.tools, references=references)
    return (None if problems else task), problems


def parse_line(line: bytes, *, name: str) -> tuple[Task | None, list[tuple[str, str]]]:
    """Return the task of a line, or its problems as (dotted field, message). The field is empty if the line is not a
    JSON object. The task's `source` is always `name`."""
    try:
        fields = read_json(line)
    except LineRefused as error:
        return None, [("", str(error))]
    if problems := list(unsound(fields)):
        return None, problems
    if not isinstance(fields, dict):
        return None, [("", f"want a JSON object, got {_json_type(fields)}")]
    try:
        task = Task.model_validate({**fields, "source": name})
    except ValidationError as error:
        return None, [_explain(e, fields) for e in error.errors()]
    problems = _own_problems(task)
    return (None if problems else task), problems


def task_problems(task: Task, *, tools: Collection[str] | None, references: References | None) -> list[tuple[str, str]]:
    """Everything that is wrong with a task, as (dotted field, message): first with itself, then with what it names."""
    if problems := _own_problems(task):
        return problems
    problems = _unknown_tools(task, tools)
    finding = references.finding(task) if references is not None else None
    return [*problems, finding] if finding is not None else problems


def _own_problems(task: Task) -> list[tuple[str, str]]:
    problems = [
        (field, "is empty; give some text") for field in ("id", "instruction") if not getattr(task, field).strip()
    ]
    if task.tools == ():
        problems.append(("tools", "is empty, so no tool could answer; name some, or leave tools out for all"))
    return problems + check_grader(task.grader)


def _unknown_tools(task: Task, known: Collection[str] | None) -> list[tuple[str, str]]:
    found = []
    for index, tool in enumerate(task.tools or ()):
        if known is not None and tool not in known:
            near = difflib.get_close_matches(tool, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
            found.append((f"tools.{index}", f"no tool {tool!r}; {hint}"))
    return found


def _explain(error: Any, fields: dict[str, Any]) -> tuple[str, str]:
    """Return pydantic's error as (dotted field, what is wrong and what would be right)."""
    field = ".".join(str(part) for part in error["loc"])
    kind = error["type"]
    if kind == "missing":
        return field, "is missing"
    if kind == "extra_forbidden":
        known = list((GraderSpec if len(error["loc"]) > 1 else Task).model_fields)
        near = difflib.get_close_matches(str(error["loc"][-1]), [k for k in known if k not in fields], n=1)
        return (
            field,
            f"no such field; did you mean {near[0]!r}?" if near else f"no such field; known: {', '.join(known)}",
        )
    return field, f"{error['msg']}, not {_shown(error['input'])}"


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "…"


def _json_type(value: Any) -> str:
    return {list: "a list", str: "a string", bool: "a boolean", type(None): "null"}.get(type(value), "a number")
