"""JSON from a stranger: whatever the bytes are, the outcome is a value or a ValueError, and never anything else.

Bytes that are no text become U+FFFD, halves of surrogate pairs become `?`, and a number of absurd length is None:
one bad field must not throw a good answer away.
"""

from __future__ import annotations

import json
from typing import Any

_DIGITS = 18
"""Longest whole number that is read: beyond it nothing that a provider counts makes sense."""


def loads(body: bytes) -> Any:
    """The value in a JSON body; ValueError where there is none, or one nested so deeply that nobody can read it."""
    try:
        text = body.decode(json.detect_encoding(body), "replace")
        return json.loads(text, parse_int=_whole_number)
    except RecursionError as error:
        raise ValueError("JSON nested too deeply") from error


def _whole_number(text: str) -> int | None:
    return int(text) if len(text) <= _DIGITS else None


def sound(text: str) -> str:
    """Text that can be encoded, tokenised and stored: JSON lets a server send half of a surrogate pair."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()
