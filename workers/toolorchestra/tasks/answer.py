r"""Extracts the final answer of a reply: the last `\boxed{…}`, else the last `<answer>…</answer>`, else all of it.

Reasoning is not part of the reply: `<think>…</think>` is removed first (`without_thinking`).
"""

from __future__ import annotations

import re

_TOKEN = re.compile(r"\\{1,2}f?boxed\s*(\{)|\\.|[{}]", re.DOTALL)
"""The beginning of a box (group 1; some models write two backslashes), an escaped character, or a brace."""
_ANSWER_OPEN, _ANSWER_CLOSE = re.compile(r"<answer>", re.IGNORECASE), re.compile(r"</answer>", re.IGNORECASE)
_THINK = re.compile(r"<(/?)think(?:ing)?>", re.IGNORECASE)


def extract_answer(reply: str) -> str:
    r"""Return the answer in a reply, without white space at its ends.

    Braces inside `\boxed{…}` are balanced; `\{` and `\}` count as text. A box that is never closed does not count: the
    last *closed* box is used. Text inside `<think>` does not count. Pure and total: every text gives a text, possibly
    empty, in time linear in its length.
    """
    said = without_thinking(reply)
    boxed = _last_boxed(said)
    if boxed is not None:
        return boxed.strip()
    tagged = _last_tagged(said)
    return (said if tagged is None else tagged).strip()


def without_thinking(reply: str) -> str:
    """Return the reply without reasoning, `<think>…</think>`. An element that is never closed ends with the reply; one
    that is never opened (the chat template did) begins with it."""
    kept: list[str] = []
    depth = end = 0
    for tag in _THINK.finditer(reply):
        if tag[1]:
            if depth == 0:
                kept.clear()  # opened before the reply: all text so far is reasoning
            depth = max(0, depth - 1)
        else:
            if depth == 0:
                kept.append(reply[end : tag.start()])
            depth += 1
        end = tag.end()
    if depth == 0:
        kept.append(reply[end:])
    return "".join(kept)


def _last_boxed(text: str) -> str | None:
    """Return the content of the closed box that begins last. One pass, with a stack of open braces."""
    best: tuple[int, int] | None = None
    open_braces: list[int | None] = []  # where the content of a box begins; None for other braces
    for token in _TOKEN.finditer(text):
        if token[1] or token[0] == "{":
            open_braces.append(token.end() if token[1] else None)
        elif token[0] == "}" and open_braces:
            start = open_braces.pop()
            if start is not None and (best is None or start > best[0]):
                best = (start, token.start())
    return text[best[0] : best[1]] if best else None


def _last_tagged(text: str) -> str | None:
    """Return the content of the last closed `<answer>`."""
    last, position = None, 0
    while (opened := _ANSWER_OPEN.search(text, position)) and (closed := _ANSWER_CLOSE.search(text, opened.end())):
        last, position = text[opened.end() : closed.start()], closed.end()
    return last
