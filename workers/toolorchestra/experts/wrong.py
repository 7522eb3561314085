"""Plausible wrong answers: close to the right one and of the same form, but no reasonable grader accepts them.

Numbers change by at least 15 %, so that a tolerance does not accept them. Lists and factors change their elements or
lose their order. Words lose the order of their letters. Pure: the caller gives the random source.
"""

from __future__ import annotations

import ast
import random
import re
from decimal import Decimal
from typing import Any

from toolorchestra.tasks.exact import normalise

_NUMBER = re.compile(r"[+-]?\d[\d,]*(\.\d+)?")
_OPPOSITE = {"yes": "no", "no": "yes", "true": "false", "false": "true"}
_PRIMES = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37)


def wrong_answer(answer: str | None, rng: random.Random) -> str:
    """Return a wrong answer similar to the right one; `unknown` if no right one is known."""
    if answer is None or not answer.strip():
        return "unknown"
    text = answer.strip()
    slip = _slip(text, rng)
    return slip if normalise(slip) != normalise(text) else f"not {text}"


def _slip(text: str, rng: random.Random) -> str:
    if normalise(text) in _OPPOSITE:
        return _OPPOSITE[normalise(text)]
    if _NUMBER.fullmatch(text):
        return _number(text, rng)
    if "×" in text:
        return _factors(text, rng)
    if text.startswith("["):
        items = _list(text)
        if items:
            return str(_swapped(items, rng) or items[:-1])
    words = text.split()
    if len(words) > 1:
        return " ".join(_swapped(words, rng) or words[:-1])
    return "".join(_swapped(list(text), rng) or [*text, text[-1]])


def _number(text: str, rng: random.Random) -> str:
    """Return a number with the same decimals that is off by 15 to 50 % and at least one unit of the last place."""
    decimals = len(text.partition(".")[2])
    value = int(text.replace(",", "").replace(".", ""))  # in units of the last place
    step = max(1, -(-abs(value) * rng.randint(15, 50) // 100))
    # A small count moves upwards: a negative count would not be plausible.
    moved = value + step if value <= step or rng.random() < 0.5 else value - step
    return f"{Decimal(moved).scaleb(-decimals):f}"


def _factors(text: str, rng: random.Random) -> str:
    factors = [factor.strip() for factor in text.split("×")]
    index = rng.randrange(len(factors))
    factors[index] = str(rng.choice([p for p in _PRIMES if str(p) != factors[index]]))
    return " × ".join(sorted(factors, key=lambda f: (len(f), f)))


def _list(text: str) -> list[Any] | None:
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):  # the last two: brackets nested too deep
        return None
    return value if isinstance(value, list) else None


def _swapped(items: list[Any], rng: random.Random) -> list[Any] | None:
    """Return the items with two different neighbours exchanged; None if all items are equal."""
    places = [i for i in range(len(items) - 1) if _differ(items[i], items[i + 1])]
    if not places:
        return None
    i = rng.choice(places)
    return [*items[:i], items[i + 1], items[i], *items[i + 2 :]]


def _differ(one: Any, other: Any) -> bool:
    try:
        return float(one) != float(other)
    except (TypeError, ValueError):
        return bool(str(one).casefold() != str(other).casefold())
