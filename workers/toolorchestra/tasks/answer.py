r"""The final answer in an expert's reply: the last `\boxed{…}`, else the last `<answer>…</answer>`, else all of it."""

from __future__ import annotations

import re

_BOXED = re.compile(r"\\f?boxed\s*\{")
_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL | re.IGNORECASE)


def extract_answer(reply: str) -> str:
    r"""The answer an expert means, stripped of white space.

    Braces inside `\boxed{…}` are balanced, `\{` and `\}` counting as text. A box that is never closed is not an answer:
    the last *closed* one counts. Pure and total: any text gives some text, possibly empty.
    """
    boxed = _last_boxed(reply)
    if boxed is not None:
        return boxed.strip()
    tagged = _ANSWER.findall(reply)
    return str(tagged[-1] if tagged else reply).strip()


def _last_boxed(text: str) -> str | None:
    for match in reversed(list(_BOXED.finditer(text))):
        end = _closing_brace(text, match.end())
        if end is not None:
            return text[match.end() : end]
    return None


def _closing_brace(text: str, start: int) -> int | None:
    """Index of the brace that closes the one just before `start`; None where there is none."""
    depth, position = 1, start
    while position < len(text):
        match text[position]:
            case "\\":
                position += 1
            case "{":
                depth += 1
            case "}":
                depth -= 1
                if depth == 0:
                    return position
        position += 1
    return None
