"""Reads small files of a model folder strictly: other programs wrote them, and a download may be incomplete."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from toolorchestra.api.regular_file import FileRefused, read_text
from toolorchestra.policy.errors import PolicyError

MOST_BYTES = 64 << 20
"""Largest file that is read. It is far above the real sizes; a vocabulary is not read here."""


class ModelFileError(PolicyError, ValueError):
    """A file cannot be used. The message names the file and the reason."""


def read_words(path: Path) -> str:
    """Return the file's text."""
    try:
        return read_text(path, most=MOST_BYTES)
    except FileRefused as error:
        raise ModelFileError(f"{path}: {error}") from error


def read_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in the file."""
    try:
        found = json.loads(read_words(path))
    except json.JSONDecodeError as error:
        raise ModelFileError(f"{path}: not JSON: {error}") from error
    except RecursionError as error:
        raise ModelFileError(f"{path}: JSON that cannot be read: nested too deeply") from error
    if not isinstance(found, dict):
        raise ModelFileError(f"{path}: want a JSON object, got {type(found).__name__}")
    return found
