"""Reads the body of an HTTP error, and decides what kind of problem it describes.

Providers send almost every problem as HTTP 400, each with its own text. Three kinds matter: the configuration (keys,
credit, parameters, models), which no other request can repair; the request itself (too long, or stopped by a content
filter), which the policy caused; and unclear ones. The words decide, in any JSON shape.
`tests/unit/experts/test_provider_errors.py` contains error bodies as the providers publish them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from toolorchestra.experts.lenient_json import loads, sound

_MAX_EXAMINED = 2_000
"""Characters of an error's text that are examined."""
_MAX_SHOWN = 300
"""Characters of an endpoint's error text that are kept for messages."""
_REQUEST_FIELDS = frozenset({"input", "flagged_input", "user_id", "request_id"})
"""Fields that repeat the request. Their words are not the provider's, so they are ignored."""
_MAX_DEPTH = 12


class Meaning(Enum):
    """The kind of problem. UNCLEAR: the words do not say."""

    CONFIGURATION = "configuration"
    TOO_LONG = "too_long"
    CONTENT = "content"
    UNCLEAR = "unclear"


@dataclass(frozen=True)
class Complaint:
    """`message` is for people. `words` is all text of the body in lower case. `status` is a status inside the body."""

    message: str
    words: str
    status: int | None = None

    @property
    def meaning(self) -> Meaning:
        """The kind of problem, by the first rule whose words occur."""
        found = next((meaning for meaning, pattern in _RULES if pattern.search(self.words)), Meaning.UNCLEAR)
        if found is Meaning.TOO_LONG and _never_fits(self.words):
            return Meaning.CONFIGURATION
        return found

    @property
    def no_credit(self) -> bool:
        """Whether the account has no credit. Some providers report that with the status of a rate limit."""
        return _NO_CREDIT.search(self.words) is not None


def read_complaint(body: bytes) -> Complaint:
    """Return the complaint in an error's body. If the body is no JSON, its text is the complaint."""
    try:
        fields = loads(body)
    except ValueError:
        text = shown(body[: 4 * _MAX_EXAMINED].decode("utf-8", "replace")) or "no body"
        return Complaint(text, text.lower())
    return complaint_of(fields)


def complaint_of(fields: Any) -> Complaint:
    """Return the complaint in a parsed body: `{"error": {…}}`, a list, `{"object": "error", …}` or `{"detail": …}`."""
    error = fields[0] if isinstance(fields, list) and fields else fields
    if isinstance(error, Mapping):
        error = error.get("error") or error
    words = " ".join(_words(error))[:_MAX_EXAMINED]
    message = error.get("message") if isinstance(error, Mapping) else None
    if isinstance(message, str) and message.strip():
        raw = _mapping(error.get("metadata")).get("raw")  # the provider's own text behind a gateway's message
        message = f"{message}: {raw}" if isinstance(raw, str) else message
    else:
        message = words
    return Complaint(shown(message) or "no message", sound(words).lower(), _status(error))


def shown(text: str) -> str:
    """Return untrusted text for a log or a person: one short line without control characters."""
    text = "".join(c if c.isprintable() else " " for c in sound(text[: 4 * _MAX_EXAMINED]))
    text = " ".join(text.split())
    return text if len(text) <= _MAX_SHOWN else text[: _MAX_SHOWN - 1] + "…"


def _words(error: Any) -> Iterator[str]:
    """Yield all strings of an error in order, without those that repeat the request."""
    rest, left = [(error, 0)], _MAX_EXAMINED
    while rest and left > 0:
        value, depth = rest.pop()
        if isinstance(value, str):
            left -= len(value) + 1
            yield value
        elif depth < _MAX_DEPTH and isinstance(value, list):
            rest.extend((each, depth + 1) for each in reversed(value))
        elif depth < _MAX_DEPTH and isinstance(value, Mapping):
            said = [each for name, each in value.items() if name not in _REQUEST_FIELDS]
            rest.extend((each, depth + 1) for each in reversed(said))


def _status(error: Any) -> int | None:
    """Return the HTTP status that an error names in its body, or None."""
    code = _mapping(error).get("code")
    if isinstance(code, str) and len(code) == 3 and code.isascii() and code.isdecimal():
        code = int(code)
    return code if isinstance(code, int) and 400 <= code < 600 else None


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _pattern(*alternatives: str) -> re.Pattern[str]:
    return re.compile("|".join(alternatives))


_CONTEXT = _pattern(
    r"context_length_exceeded|exceed_context_size|context[ _](length|window|size|limit)",
    r"maximum prompt length|(prompt|input|request|message)s? (is |are )?too (long|large)|string too long",
    r"input token count|too many (input |prompt )?tokens|range of input length|input length",
    r"`?inputs`? (tokens|must have less)|reduce the length|prompt (contains|has) \d+ tokens",
    r"tokens? exceeds? n_ctx|must be at least 1, got -",
)
_FILTER = _pattern(
    r"\bcontent_filter(ed)?\b|content[_ ]policy|content management policy|responsibleaipolicyviolation",
    r"data_?inspection_?failed|content exists risk|inappropriate content|prohibited_content|guardrail",
    r"flagged (as|by|for|in)|was flagged|moderation|usage polic(y|ies)|safety (system|policy|filter|guideline)",
)
_NO_CREDIT = _pattern(
    r"insufficient[_ ](quota|balance|credit|funds)|exceeded_current_quota|billing_hard_limit|credit balance",
    r"arrearage|good standing|usage limits|欠费|余额不足",
)
_SETTINGS = _pattern(
    r"api[ _-]?key|authenticat|unauthori[sz]ed|\bcredentials?\b|access token|access denied|permission",
    r"billing|payment|overdue|exceeded your (current )?quota",
    r"\b(account|organization)\b.{0,40}(disabled|suspended|verified)",
    r"location is not supported|country, region",
    r"model[_ ]not[_ ](found|exist)|not a valid model|(invalid|unknown)[_ ]model|no such model|model identifier",
    r"\b(model|deployment)\b.{0,120}(does not exist|not found|decommissioned|deprecated|no longer|not available)",
    r"unsupported[_ ](parameter|value|argument|field)|unrecognized request argument|extra_forbidden",
    r"unknown[_ ](parameter|argument|field|name)|extra inputs are not permitted|incompatible request argument",
    r"(property|parameter|argument|field|option)\b.{0,60}\b(unsupported|unknown|not (supported|permitted|valid))",
    r"not support(ed)?\b.{0,60}with this model|operation does not work|api[ -]?version",
    r"max(_completion|_output|_new)?_tokens|maxoutputtokens|(output|completion) tokens|\b(temperature|top_p)\b",
)
_RULES = (
    (Meaning.CONFIGURATION, _pattern(r"invalid content filter policy")),
    (Meaning.TOO_LONG, _CONTEXT),
    (Meaning.CONTENT, _FILTER),
    (Meaning.CONFIGURATION, _NO_CREDIT),
    (Meaning.CONFIGURATION, _SETTINGS),
)
"""The order matters: an error about the context's length may also name the output limit."""

_SIZES = (
    re.compile(r"context length is (?P<context>\d{1,9})\b.{0,200}?(?P<output>\d{1,9}) (in|of) the (completion|output)"),
    re.compile(r"too large: (?P<output>\d{1,9})\..{0,80}context length is (?P<context>\d{1,9})\b"),
    re.compile(r"max_new_tokens`? must be <= (?P<context>\d{1,9})\..{0,80} (?P<output>\d{1,9}) `?max_new_tokens"),
    re.compile(r"context limit: \d+ \+ (?P<output>\d{1,9}) > (?P<context>\d{1,9})\b"),
)


def _never_fits(words: str) -> bool:
    """Return whether the output limit alone fills the context, so that no input can fit."""
    found = next((match for pattern in _SIZES if (match := pattern.search(words))), None)
    return found is not None and int(found["output"]) >= int(found["context"])
