"""The prompt for an expert that must give the final answer.

The prompt is a versioned template file. A published file is never edited.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from toolorchestra.experts.chat import Message

ANSWER_TEMPLATE = "answer.v1"
"""The version in use. A changed prompt goes into a new file, so that old traces stay valid."""


@cache
def template(name: str) -> str:
    """Return the text of `templates/<name>.txt`. FileNotFoundError if the file does not exist."""
    return (files("toolorchestra.experts") / "templates" / f"{name}.txt").read_text(encoding="utf-8")


def answer_messages(problem: str, *, name: str = ANSWER_TEMPLATE) -> tuple[Message, ...]:
    """Return one user message: the template with the problem inserted unchanged."""
    return ({"role": "user", "content": template(name).replace("{problem}", problem).rstrip("\n")},)
