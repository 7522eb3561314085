"""Computes what a call cost in nominal and actual dollars. Pure.

The policy is charged for its answer; if the tokens were not reported, they are estimated. The run's actual dollars
count everything that may have been billed: an unknown cost counts at its worst case, never as zero.
"""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

from toolorchestra.experts.chat import ChatRequest
from toolorchestra.experts.endpoint import Endpoint
from toolorchestra.experts.usage import Usage
from toolorchestra.experts.verdict import Failed, Served, Verdict
from toolorchestra.experts.worst_case import TEMPLATE_TOKENS, attempt_usd, estimated_tokens
from toolorchestra.tools.view import Price


def max_output_tokens(endpoint: Endpoint, request: ChatRequest) -> int:
    """Return the output token limit for this request. It is always sent, so that the worst case is known."""
    limit = endpoint.limits.max_output_tokens
    return limit if request.max_output_tokens is None else min(limit, request.max_output_tokens)


def worst_case_usd(endpoint: Endpoint, request: ChatRequest) -> Decimal:
    """Return the most that one attempt of this call can cost."""
    max_output = max_output_tokens(endpoint, request)
    return attempt_usd(endpoint.price, prompt_bytes=request.size_bytes, max_output=max_output)


def tokens_used(verdict: Verdict, *, reserved: int) -> int:
    """Return the tokens that an attempt took from the endpoint's rate; `reserved` if they were not reported."""
    served = verdict if isinstance(verdict, Served) else verdict.served
    if served is not None:
        unknown = served.tokens_in is None or served.tokens_out is None
        return reserved if unknown else (served.tokens_in or 0) + (served.tokens_out or 0)
    return reserved if isinstance(verdict, Failed) and verdict.maybe_paid else 0


def metered(usage: Usage, served: Served, request: ChatRequest, *, nominal: Price, endpoint: Endpoint) -> Usage:
    """Return `usage` with the tokens and dollars of a completion.

    Unreported tokens are estimated from the visible text for the policy, and count at their worst case in actual
    dollars. A report above the worst case counts in full.
    """
    estimated_in, estimated_out = estimated_tokens(request.size_bytes), estimated_tokens(served.written_bytes)
    tokens_in = estimated_in if served.tokens_in is None else served.tokens_in
    tokens_out = estimated_out if served.tokens_out is None else served.tokens_out
    most_in = request.size_bytes + TEMPLATE_TOKENS if served.tokens_in is None else served.tokens_in
    most_out = max_output_tokens(endpoint, request) if served.tokens_out is None else served.tokens_out
    return replace(
        usage,
        tokens_in=tokens_in,
        tokens_out=tokens_out,
        tokens_cached=min(served.tokens_cached, tokens_in),
        nominal_usd=nominal.of(tokens_in=tokens_in, tokens_out=tokens_out),
        actual_usd=endpoint.price.of(tokens_in=most_in, tokens_out=max(most_out, tokens_out)),
    )


def lost_usd(failed: Failed, request: ChatRequest, *, endpoint: Endpoint) -> Decimal:
    """Return what a failed attempt may have been billed."""
    if failed.served is not None:
        return metered(Usage(), failed.served, request, nominal=Price(), endpoint=endpoint).actual_usd
    return worst_case_usd(endpoint, request) if failed.maybe_paid else Decimal(0)
