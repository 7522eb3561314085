"""Tasks from a JSON Lines file in our native format: each line is a `Task` (docs/tasks.md).

The whole file is checked when the source is built, before anything is spent: all mistakes of all lines at once.
Tasks are read again by byte offset, so a large file costs eight bytes a line.
"""

from __future__ import annotations

import difflib
import json
from array import array
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from toolorchestra.tasks.grader import check_grader
from toolorchestra.tasks.source import LineProblem, SourceError, TaskFileError
from toolorchestra.tasks.task import GraderSpec, Task


class JSONLSource:
    """The tasks of one file, in its order; blank lines do not count.

    `skipped` lists what was left out under `skip_invalid`; its lines are `{problem.line for problem in skipped}`.

    Raises:
        TaskFileError: malformed lines, unless `skip_invalid`.
        SourceError: the file cannot be read or holds no task.
    """

    def __init__(self, *, name: str, path: Path, skip_invalid: bool = False) -> None:
        self._name, self._path = name, path
        self._offsets = array("Q")
        problems: list[LineProblem] = []
        seen: dict[str, int] = {}
        try:
            with path.open("rb") as file:
                offset = 0
                for number, line in enumerate(file, start=1):
                    if line.strip():
                        task, found = parse_line(line, name=name, file=str(path), number=number)
                        if task is not None and task.id in seen:
                            message = f"{task.id!r} is already the id of line {seen[task.id]}; ids are unique"
                            found = [LineProblem(str(path), number, "id", message)]
                        if task is not None and not found:
                            seen[task.id] = number
                            self._offsets.append(offset)
                        problems += found
                    offset += len(line)
        except OSError as error:
            raise SourceError(f"source {name}: cannot read {path}: {error.strerror}") from error
        if problems and not skip_invalid:
            raise TaskFileError(tuple(problems))
        if not self._offsets:
            raise SourceError(f"source {name}: {path} holds no valid task")
        self.skipped: tuple[LineProblem, ...] = tuple(problems)

    @property
    def name(self) -> str:
        return self._name

    @property
    def skipped_lines(self) -> int:
        """How many lines `skip_invalid` left out."""
        return len({problem.line for problem in self.skipped})

    def __len__(self) -> int:
        return len(self._offsets)

    def task(self, index: int) -> Task:
        if not 0 <= index < len(self):
            raise IndexError(index)
        with self._path.open("rb") as file:
            file.seek(self._offsets[index])
            task, problems = parse_line(file.readline(), name=self._name, file=str(self._path), number=0)
        if task is None:  # the file was valid when the source was built
            raise SourceError(f"source {self._name}: {self._path} changed while it was in use: {problems[0].message}")
        return task


def parse_line(line: bytes, *, name: str, file: str, number: int) -> tuple[Task | None, list[LineProblem]]:
    """One line as a task, or everything wrong with it. `source` is always the source's own name."""
    try:
        fields = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError:
        return None, [LineProblem(file, number, "", "not UTF-8 text")]
    except json.JSONDecodeError as error:
        return None, [LineProblem(file, number, "", f"not JSON: {error.msg} at column {error.colno}")]
    if not isinstance(fields, dict):
        return None, [LineProblem(file, number, "", f"a JSON object is wanted, this is {_json_type(fields)}")]
    try:
        task = Task.model_validate({**fields, "source": name})
    except ValidationError as error:
        return None, [LineProblem(file, number, *_explain(e, fields)) for e in error.errors()]
    blank = [field for field in ("id", "instruction") if not getattr(task, field).strip()]
    problems = [LineProblem(file, number, field, "is empty; give some text") for field in blank]
    problems += [LineProblem(file, number, field, message) for field, message in check_grader(task.grader)]
    return (None if problems else task), problems


def _explain(error: Any, fields: dict[str, Any]) -> tuple[str, str]:
    """pydantic's error as (dotted field, what is wrong and what would be right)."""
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
