"""The API server's JSON, however deep: it takes objects of ten thousand levels, and Python reads fewer than a thousand.

One tenant's object would otherwise end every list and watch that it is in. What is deeper than `MOST_DEPTH` is read as
null; the models refuse a spec long before (`OpaqueObject`), so that nothing is ever made of what was cut.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

MOST_DEPTH: Final = 200
_TOKENS: Final = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{}]')


def decoded(text: str | bytes) -> Any:
    """The value. ValueError: it is no JSON."""
    try:
        return json.loads(text)
    except RecursionError:
        return json.loads(shallow(text.encode() if isinstance(text, str) else text))


def shallow(text: bytes) -> bytes:
    """The JSON, with null for what is nested deeper than `MOST_DEPTH`; as it is where nothing can be."""
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
