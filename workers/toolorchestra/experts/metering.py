"""What a call costs: before it is made, at worst; after it was served, on both ledgers. Pure."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

from toolorchestra.experts.chat import ChatRequest
from toolorchestra.experts.classify import Failed, Refused, Served
from toolorchestra.experts.endpoint import Endpoint
from toolorchestra.experts.usage import Usage
from toolorchestra.tools.view import Price

TEMPLATE_TOKENS = 256
"""More than any chat template we know adds around a request's own text."""
_BYTES_PER_TOKEN = 4
"""Of ordinary text: for estimates, never for bounds."""


def max_output_tokens(endpoint: Endpoint, request: ChatRequest) -> int:
    """Output tokens the endpoint is allowed for this request; always sent, so that the worst case is known."""
    limit = endpoint.limits.max_output_tokens
    return limit if request.max_output_tokens is None else min(limit, request.max_output_tokens)


def worst_case_usd(price: Price, *, prompt_bytes: int, max_output: int) -> Decimal:
    """A bound on one call: every byte of the prompt a token, and all the output it may have."""
    return price.of(tokens_in=prompt_bytes + TEMPLATE_TOKENS, tokens_out=max_output)


def estimated_tokens(size_bytes: int) -> int:
    """About how many tokens a text has, rounded up."""
    return -(-size_bytes // _BYTES_PER_TOKEN)


def tokens_used(verdict: Served | Refused | Failed, *, reserved: int) -> int:
    """Tokens an attempt took out of the endpoint's rate; what was reserved where nobody counted."""
    served = verdict.served if isinstance(verdict, Refused) else verdict
    if isinstance(served, Failed):
        return reserved if served.maybe_paid else 0
    if served is None:
        return 0
    if served.tokens_in is None or served.tokens_out is None:
        return reserved
    return served.tokens_in + served.tokens_out


def metered(usage: Usage, served: Served, request: ChatRequest, *, nominal: Price, actual: Price) -> Usage:
    """`usage` with the tokens and dollars of a served completion; tokens nobody reported are estimated."""
    written = len(served.text.encode("utf-8", "surrogatepass")) + sum(
        len(c.name) + len(c.arguments) for c in served.tool_calls
    )
    tokens_in = estimated_tokens(request.size_bytes) if served.tokens_in is None else served.tokens_in
    tokens_out = estimated_tokens(written) if served.tokens_out is None else served.tokens_out
    return replace(
        usage,
        tokens_in=tokens_in,
        tokens_out=tokens_out,
        tokens_cached=served.tokens_cached,
        nominal_usd=nominal.of(tokens_in=tokens_in, tokens_out=tokens_out),
        actual_usd=actual.of(tokens_in=tokens_in, tokens_out=tokens_out),
    )
