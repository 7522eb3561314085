"""Reads the `usage` of a completion: the provider's token counts, where they are credible.

A field counts as not reported if it is no whole number of at least 0, or is 0 where it cannot be: every prompt and
every text has at least one token. Thinking is output. Some providers leave it out of `completion_tokens` and only show
it in `total_tokens` (Google, xAI) or in the details. Cached tokens are input. Anthropic leaves them out of
`input_tokens`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MOST_TOKENS = 10_000_000
"""More than any model reads or writes in one call. A larger report is a mistake and is ignored."""

_CACHE_READ = "cache_read_input_tokens"


@dataclass(frozen=True)
class Reported:
    """Tokens of one call; None if not credibly reported. `cached` is a part of `tokens_in`."""

    tokens_in: int | None = None
    tokens_out: int | None = None
    cached: int = 0


def read_usage(usage: Any, *, written_bytes: int) -> Reported:
    """Read a `usage` object of any shape. `written_bytes`: the bytes that the model visibly wrote."""
    if not isinstance(usage, Mapping):
        return Reported()
    prompt = _prompt(usage)
    output = _output(usage, prompt=prompt)
    if not output and (written_bytes or prompt is None):
        output = None
    details = _details(usage, "prompt_tokens_details", "input_tokens_details")
    cached = _first(details, "cached_tokens") or _first(usage, "prompt_cache_hit_tokens", _CACHE_READ) or 0
    return Reported(prompt, output, min(cached, prompt or 0))


def _prompt(usage: Mapping[str, Any]) -> int | None:
    """Return the largest input count that the report allows; None if nothing was reported.

    `prompt_tokens` includes cached tokens; `input_tokens` does not.
    """
    prompt = _first(usage, "prompt_tokens")
    if prompt is not None:
        return prompt or None
    parts = (_first(usage, name) for name in ("input_tokens", _CACHE_READ, "cache_creation_input_tokens"))
    return sum(part or 0 for part in parts) or None


def _output(usage: Mapping[str, Any], *, prompt: int | None) -> int | None:
    """Return the largest output count that the report allows; None if nothing was reported."""
    completion = _first(usage, "completion_tokens", "output_tokens")
    details = _details(usage, "completion_tokens_details", "output_tokens_details")
    thinking = _first(details, "reasoning_tokens") or _first(usage, "reasoning_tokens") or 0
    total = _first(usage, "total_tokens")
    known = [] if completion is None else [completion]
    if thinking > (completion or 0):  # so `completion_tokens` does not include it
        known.append(thinking + (completion or 0))
    if total is not None and prompt is not None and total >= prompt:
        known.append(total - prompt)
    return max(known, default=None)


def _details(usage: Mapping[str, Any], *names: str) -> Mapping[str, Any]:
    return next((found for name in names if isinstance(found := usage.get(name), Mapping)), {})


def _first(fields: Mapping[str, Any], *names: str) -> int | None:
    """Return the first of these fields that holds a count."""
    return next((count for name in names if (count := _count(fields.get(name))) is not None), None)


def _count(value: Any) -> int | None:
    if isinstance(value, float) and value.is_integer():  # some languages have only floats; NaN and ∞ are not whole
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        return None
    return value if 0 <= value <= MOST_TOKENS else None
