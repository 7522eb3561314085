"""The most that calls can cost, before they are made. Pure. What a worker reserves for a call, and what the controller
sets aside of the run's cap for an episode, are one computation.

No byte-level tokenizer makes more tokens of a text than it has bytes, and no request with more bytes than
`most_prompt_bytes` is ever sent: so both are bounds in tokens as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

from toolorchestra.tools.view import Price

TEMPLATE_TOKENS = 256
"""More than any chat template we know adds around a request's own text."""
BYTES_PER_TOKEN = 4
"""Of ordinary text: for estimates, never for bounds."""


def estimated_tokens(size_bytes: int) -> int:
    """About how many tokens a text has, rounded up."""
    return -(-size_bytes // BYTES_PER_TOKEN)


def most_prompt_bytes(max_input_tokens: int) -> int:
    """Bytes of the longest request that is sent to a pool of that limit: longer ones are refused as too long."""
    return max_input_tokens * BYTES_PER_TOKEN


def attempt_usd(price: Price, *, prompt_bytes: int, max_output: int) -> Decimal:
    """A bound on one attempt of a call: every byte of its request a token, and all the output it may have."""
    return price.of(tokens_in=prompt_bytes + TEMPLATE_TOKENS, tokens_out=max_output)


def episode_usd(attempts: Sequence[Decimal], *, calls: int) -> Decimal:
    """A bound on an episode, and what it needs set aside: so many calls of the dearest of these experts (`attempt_usd`
    of each), or one of each of them where that is more; and one of them paid twice because its first attempt was lost.

    Further attempts after a loss are made only where something is left, so an episode never passes what it was given.
    """
    dearest = max(attempts, default=Decimal(0))
    return max(calls * dearest, sum(attempts, Decimal(0))) + dearest
