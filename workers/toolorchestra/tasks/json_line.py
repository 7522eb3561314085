"""Reads a line of JSON as plain data that can be stored and sent: bounded in depth and numbers, with valid text.

JSON allows some values that would break a run: numbers beyond 64 bits, NaN, half a surrogate pair, a repeated key,
thousands of nested lists. They are refused here with a clear message, before the run spends money.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

from toolorchestra.tasks.errors import TaskError

MOST_BYTES = 4 << 20
"""Most bytes of a line."""
MOST_DEPTH = 32
"""Deepest nesting of lists and objects."""
_MOST_INT = 1 << 63


class LineRefused(TaskError, ValueError):
    """The line is not usable JSON. The text says what is wrong and what would be right."""


def read_json(line: bytes) -> Any:
    """Return the value in a line; check its texts with `unsound`. LineRefused: the line is not usable JSON."""
    try:
        return json.loads(
            line.decode("utf-8-sig"),
            object_pairs_hook=_mapping,
            parse_int=_whole,
            parse_float=_real,
            parse_constant=_constant,
        )
    except UnicodeDecodeError as error:
        raise LineRefused(f"not UTF-8 text: byte {line[error.start]:#04x}") from error
    except json.JSONDecodeError as error:
        raise LineRefused(f"not JSON: {error.msg} at column {error.colno}") from error
    except RecursionError as error:
        raise LineRefused(f"nested deeper than {MOST_DEPTH} levels") from error


def unsound(value: Any, path: str = "", depth: int = 0) -> Iterator[tuple[str, str]]:
    """Yield the parts of a value that cannot be stored, sent or rendered: (dotted path, what is wrong)."""
    if depth > MOST_DEPTH:
        yield path, f"nested deeper than {MOST_DEPTH} levels"
    elif isinstance(value, str):
        if (said := _unsound_text(value)) is not None:
            yield path, said
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from unsound(item, f"{path}.{index}".lstrip("."), depth + 1)
    elif isinstance(value, dict):
        for key, item in value.items():
            if (said := _unsound_text(key)) is not None:
                yield path, f"a key: {said}"
            else:
                yield from unsound(item, f"{path}.{key}".lstrip("."), depth + 1)


def _unsound_text(text: str) -> str | None:
    if "\0" in text:
        return "contains a NUL (\\u0000): remove it"
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = ord(text[error.start])
        return f"contains half of a surrogate pair (\\u{half:04x}): write both halves, or the character itself"
    return None


def _mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise LineRefused(f"the key {json.dumps(twice)} is repeated: remove one")
    return found


def _whole(text: str) -> int:
    if len(text) > 20 or not -_MOST_INT <= (number := int(text)) < _MOST_INT:
        raise LineRefused(f"the number {_cut(text)} does not fit into 64 bits: put it in quotes")
    return number


def _real(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise LineRefused(f"the number {_cut(text)} is too large: put it in quotes")
    return number


def _constant(text: str) -> float:
    raise LineRefused(f"{text} is not JSON, which has no such number")


def _cut(text: str) -> str:
    return text if len(text) <= 24 else f"{text[:21]}…"
