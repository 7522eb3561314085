"""Graders that compare: texts must be equal after normalisation, numbers must be close."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from decimal import Decimal, DecimalException
from fractions import Fraction
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator

from toolorchestra.tasks.task import Task

MAX_WORDS = 500
"""A longer answer is wrong: it could list every candidate (method.md §4)."""

_MAX_NUMBER = 1_000
"""Most characters of a number."""
_MAX_EXPONENT = 400
"""Largest exponent. A huge one would need gigabytes as an exact fraction, and no answer needs it."""

_MAX_MARKS = 30
"""Most combining marks in a row."""

_ARTICLE = re.compile(r"^(a|an|the)\s+")
_EDGES = " \t\n\"'`$*.,;:!"


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ExactMatchData(_Data):
    """Data of `ExactMatch`. `answer`: the right text, or several texts that are all right."""

    answer: str | tuple[str, ...] = Field(min_length=1)

    @field_validator("answer")
    @classmethod
    def _sayable(cls, answer: str | tuple[str, ...]) -> str | tuple[str, ...]:
        for text in (answer,) if isinstance(answer, str) else answer:
            if not normalise(text):
                raise ValueError("a right answer is empty after normalisation: give some text")
            if len(text.split()) > MAX_WORDS:
                raise ValueError(f"a right answer has more than {MAX_WORDS} words, which is always wrong: shorten it")
        return answer

    @property
    def answers(self) -> tuple[str, ...]:
        return (self.answer,) if isinstance(self.answer, str) else self.answer


def _usable(number: Decimal) -> Decimal:
    if not _is_usable(number):
        bounds = f"between 1e-{_MAX_EXPONENT} and 1e{_MAX_EXPONENT}"
        raise ValueError(f"want a number of at most {_MAX_NUMBER} digits, {bounds}")
    return number


_Number = Annotated[Decimal, AfterValidator(_usable)]


class NumericData(_Data):
    """Data of `Numeric`. Right: |given - answer| ≤ max(absoluteTolerance, relativeTolerance × |answer|)."""

    answer: _Number = Field(allow_inf_nan=False)
    absoluteTolerance: _Number = Field(default=Decimal(0), ge=0, allow_inf_nan=False)
    relativeTolerance: _Number = Field(default=Decimal(0), ge=0, allow_inf_nan=False)


def normalise(text: str) -> str:
    """Remove differences that never matter: Unicode form, case, white space, a leading article, marks at the ends.

    A leading minus and inner punctuation stay: `-5` is not `5`, and `1.5` is not `15`.
    """
    composed = unicodedata.normalize("NFKC", text) if _is_stream_safe(text) else text
    folded = composed.casefold()
    trimmed = " ".join(folded.split()).strip(_EDGES)
    return _ARTICLE.sub("", trimmed)


def _is_stream_safe(text: str) -> bool:
    """Return whether no letter has more marks than in Unicode's stream-safe text (UAX #15 §13).

    Ordering the marks of a letter takes quadratic time, and no language uses more.
    """
    if text.isascii():
        return True
    run = 0
    for character in text:
        run = run + 1 if unicodedata.combining(character) else 0
        if run > _MAX_MARKS:
            return False
    return True


class ExactMatch:
    """Grader: 1 if the normalised answer equals a right one, else 0. Empty and too long answers are wrong."""

    def check(self, data: Mapping[str, Any]) -> None:
        ExactMatchData.model_validate(data)

    def score(self, task: Task, answer: str) -> float:
        if not answer.strip() or len(answer.split()) > MAX_WORDS:
            return 0.0
        given = normalise(answer)
        return float(
            any(given == normalise(right) for right in ExactMatchData.model_validate(task.grader.data).answers)
        )

    def reference(self, data: Mapping[str, Any]) -> str | None:
        return ExactMatchData.model_validate(data).answers[0]


class Numeric:
    """Grader: 1 if the answer is a number close enough to the right one, else 0."""

    def check(self, data: Mapping[str, Any]) -> None:
        NumericData.model_validate(data)

    def score(self, task: Task, answer: str) -> float:
        data = NumericData.model_validate(task.grader.data)
        given = parse_number(answer)
        if given is None:
            return 0.0
        right = Fraction(data.answer)
        slack = max(Fraction(data.absoluteTolerance), Fraction(data.relativeTolerance) * abs(right))
        return float(abs(given - right) <= slack)

    def reference(self, data: Mapping[str, Any]) -> str | None:
        return f"{NumericData.model_validate(data).answer:f}"


def parse_number(text: str) -> Fraction | None:
    """Return the number in a text: `1,234.5`, `$12`, `3/4`, `1e3`, `−5`; None: it is not one. A % sign is dropped."""
    plain = text.strip(_EDGES + "%").replace(",", "").replace("\N{MINUS SIGN}", "-").replace(" ", "")
    if len(plain) > _MAX_NUMBER:
        return None
    above, slash, below = plain.partition("/")
    numerator, denominator = _decimal(above), _decimal(below) if slash else Decimal(1)
    if numerator is None or not denominator:
        return None
    return Fraction(numerator) / Fraction(denominator)


def _decimal(text: str) -> Decimal | None:
    try:
        number = Decimal(text)
    except DecimalException:
        return None
    return number if _is_usable(number) else None


def _is_usable(number: Decimal) -> bool:
    """Return whether a number is finite and its exact fraction is small. Zero too needs a small exponent."""
    if not number.is_finite():
        return False
    digits = len(number.as_tuple().digits)
    return digits <= _MAX_NUMBER and abs(number.adjusted()) < _MAX_EXPONENT
