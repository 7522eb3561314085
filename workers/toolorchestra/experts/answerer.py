"""The prompt of an expert that is to give the final answer: a template in a file, versioned, never edited in place."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from toolorchestra.experts.chat import Message

ANSWER_TEMPLATE = "answer.v1"
"""The version in use. A changed prompt is a new file, so that old traces keep their meaning."""


@cache
def template(name: str) -> str:
    """Text of `templates/<name>.txt`; FileNotFoundError where there is none."""
    return (files("toolorchestra.experts") / "templates" / f"{name}.txt").read_text(encoding="utf-8")


def answer_messages(problem: str, *, name: str = ANSWER_TEMPLATE) -> tuple[Message, ...]:
    """One user message: the template around the problem, which is inserted as it is."""
    return ({"role": "user", "content": template(name).replace("{problem}", problem).rstrip("\n")},)
