"""Makes untrusted text (of a model, an expert, a task file, another process's log) safe for terminals and logs.

Escape sequences can change text that is already shown, set the window's title or, in some terminals, run commands. Line
breaks can forge log lines. Direction marks can show text in another order than programs read it.
"""

from __future__ import annotations

import codecs
import re

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_CONTROLS = "\x00-\x08\x0b-\x1f\x7f-\x9f"
_HIDDEN = "\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff"
_INVISIBLE = re.compile(f"[{_CONTROLS}{_HIDDEN}]")
_INVISIBLE_OR_BREAK = re.compile(f"[\n\t{_CONTROLS}{_HIDDEN}]")


def visible(text: str) -> str:
    r"""Return the text with control characters, direction marks and lone surrogates escaped (`\x1b`, `\u202e`).

    Line breaks and tabs stay.
    """
    return _INVISIBLE.sub(_escaped, text)


def visible_line(text: str) -> str:
    r"""Return the text as `visible`, on one line: line breaks and tabs become `\n` and `\t`."""
    return _INVISIBLE_OR_BREAK.sub(_escaped, text)


class LogText:
    """Converts a log's bytes, as they arrive, to text for a terminal, without colour codes."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def __call__(self, data: bytes) -> str:
        text = self._decoder.decode(data)
        return visible(_COLOURS.sub("", text.replace("\r\n", "\n")))


def _escaped(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()
