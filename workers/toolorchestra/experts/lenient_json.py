"""Parses JSON from untrusted servers. For any bytes, the result is a value or a ValueError.

Bytes that are not text become U+FFFD, unpaired surrogates become `?`, and a number with too many digits becomes None:
one bad field must not discard a good answer.
"""

from __future__ import annotations

import json
from typing import Any

_DIGITS = 18
"""Most digits of a whole number that is read. No real count is longer."""


def loads(body: bytes) -> Any:
    """Return the value in a JSON body. ValueError if there is none, or if it is nested too deeply."""
    try:
        text = body.decode(json.detect_encoding(body), "replace")
        return json.loads(text, parse_int=_whole_number)
    except RecursionError as error:
        raise ValueError("JSON nested too deeply") from error


def _whole_number(text: str) -> int | None:
    return int(text) if len(text) <= _DIGITS else None


def sound(text: str) -> str:
    """Return text that can be encoded, tokenised and stored. JSON lets a server send an unpaired surrogate."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()
