"""Reading the `usage` of a completion: what a provider says that it counted, where that can be believed.

A field that is no whole number of at least 0 was not reported, and neither is 0 where there must be more: every prompt
has a token, and so has every text. Thinking is output: some providers count it beside `completion_tokens` and only
`total_tokens` (Google, xAI) or the details tell. What a cache took or gave is input: Anthropic counts it beside
`input_tokens`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MOST_TOKENS = 10_000_000
"""More than any model reads or writes in one call: a report beyond it is a mistake, and not money."""

_CACHE_READ = "cache_read_input_tokens"


@dataclass(frozen=True)
class Reported:
    """Tokens of one call; None where they were not credibly reported. `cached` are some of `tokens_in`."""

    tokens_in: int | None = None
    tokens_out: int | None = None
    cached: int = 0


def read_usage(usage: Any, *, written_bytes: int) -> Reported:
    """The report in a `usage` object of any shape. `written_bytes`: what the model is seen to have written."""
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
    """The most that the report can mean: with `prompt_tokens` all is in it, with `input_tokens` what a cache has is
    not. None: nothing was reported."""
    prompt = _first(usage, "prompt_tokens")
    if prompt is not None:
        return prompt or None
    parts = (_first(usage, name) for name in ("input_tokens", _CACHE_READ, "cache_creation_input_tokens"))
    return sum(part or 0 for part in parts) or None


def _output(usage: Mapping[str, Any], *, prompt: int | None) -> int | None:
    """The most that the report can mean. None: nothing was reported."""
    completion = _first(usage, "completion_tokens", "output_tokens")
    details = _details(usage, "completion_tokens_details", "output_tokens_details")
    thinking = _first(details, "reasoning_tokens") or _first(usage, "reasoning_tokens") or 0
    total = _first(usage, "total_tokens")
    known = [] if completion is None else [completion]
    if thinking > (completion or 0):  # so it is no part of it
        known.append(thinking + (completion or 0))
    if total is not None and prompt is not None and total >= prompt:
        known.append(total - prompt)
    return max(known, default=None)


def _details(usage: Mapping[str, Any], *names: str) -> Mapping[str, Any]:
    return next((found for name in names if isinstance(found := usage.get(name), Mapping)), {})


def _first(fields: Mapping[str, Any], *names: str) -> int | None:
    """The first of the fields that holds a count."""
    return next((count for name in names if (count := _count(fields.get(name))) is not None), None)


def _count(value: Any) -> int | None:
    if isinstance(value, float) and value.is_integer():  # some languages have no other number; NaN and ∞ are not whole
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        return None
    return value if 0 <= value <= MOST_TOKENS else None
