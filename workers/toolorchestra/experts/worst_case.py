"""Upper bounds for the cost of calls, before they are made. Pure.

A worker uses them to reserve money for a call. The controller uses the same computation to reserve an episode's part
of the run's cap. No byte-level tokenizer makes more tokens than bytes, and a request with more bytes than
`most_prompt_bytes` is never sent. So both byte counts are also bounds in tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

from toolorchestra.tools.view import Price

TEMPLATE_TOKENS = 256
"""More tokens than any known chat template adds to a request's own text."""
BYTES_PER_TOKEN = 4
"""Average for ordinary text. Use it for estimates, never for bounds."""


def estimated_tokens(size_bytes: int) -> int:
    """Return about how many tokens a text has, rounded up."""
    return -(-size_bytes // BYTES_PER_TOKEN)


def most_prompt_bytes(max_input_tokens: int) -> int:
    """Return the bytes of the longest request that is sent to a pool with this limit. Longer ones are refused."""
    return max_input_tokens * BYTES_PER_TOKEN


def attempt_usd(price: Price, *, prompt_bytes: int, max_output: int) -> Decimal:
    """Return a bound for one attempt of a call: one token per byte of the request, and the full output limit."""
    return price.of(tokens_in=prompt_bytes + TEMPLATE_TOKENS, tokens_out=max_output)


def episode_usd(attempts: Sequence[Decimal], *, calls: int) -> Decimal:
    """Return a bound for the cost of an episode; this amount is reserved for it.

    `attempts` has the `attempt_usd` of each expert. The bound is `calls` calls of the most expensive expert, or one
    call of every expert if that is more, plus one more call of the most expensive one for a first attempt that was
    lost. Further attempts after a loss are made only if money is left, so an episode never spends more than this.
    """
    most_expensive = max(attempts, default=Decimal(0))
    return max(calls * most_expensive, sum(attempts, Decimal(0))) + most_expensive
