"""Small files of a model folder, read strictly: somebody else's program wrote them, or a download broke off."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from toolorchestra.api.regular_file import FileRefused, read_text
from toolorchestra.policy.errors import PolicyError

MOST_BYTES = 64 << 20
"""Far above any: a vocabulary is not among them."""


class ModelFileError(PolicyError, ValueError):
    """A file that cannot be used; the message has its name and why."""


def read_words(path: Path) -> str:
    """The file's text."""
    try:
        return read_text(path, most=MOST_BYTES)
    except FileRefused as error:
        raise ModelFileError(f"{path}: {error}") from error


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object that the file holds."""
    try:
        found = json.loads(read_words(path))
    except json.JSONDecodeError as error:
        raise ModelFileError(f"{path}: not JSON: {error}") from error
    except RecursionError as error:
        raise ModelFileError(f"{path}: not JSON that can be read: nested too deeply") from error
    if not isinstance(found, dict):
        raise ModelFileError(f"{path}: want a JSON object, got {type(found).__name__}")
    return found
