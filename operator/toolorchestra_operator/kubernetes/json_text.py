"""Reads the API server's JSON at any depth: the server accepts ten thousand levels, Python's decoder below a thousand.

Otherwise one tenant's object would end every list and watch that contains it. Values deeper than `MOST_DEPTH` are read
as null. The models refuse such a spec at a much lower depth (`OpaqueObject`), so that no object is made from cut data.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

MOST_DEPTH: Final = 200
_TOKENS: Final = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{}]')


def decoded(text: str | bytes) -> Any:
    """Return the value. ValueError: it is not JSON."""
    try:
        return json.loads(text)
    except RecursionError:
        return json.loads(shallow(text.encode() if isinstance(text, str) else text))


def shallow(text: bytes) -> bytes:
    """Return the JSON with null for what is nested deeper than `MOST_DEPTH`; unchanged if nothing can be that deep."""
    if text.count(b"{") + text.count(b"[") <= MOST_DEPTH:
        return text
    kept, start, depth = list[bytes](), 0, 0
    for token in _TOKENS.finditer(text):
        if token[0] in (b"{", b"["):
            depth += 1
            if depth == MOST_DEPTH + 1:
                kept.append(text[start : token.start()])
        elif token[0] in (b"}", b"]"):
            if depth == MOST_DEPTH + 1:
                kept.append(b"null")
                start = token.end()
            depth -= 1
    return b"".join([*kept, text[start:]])
