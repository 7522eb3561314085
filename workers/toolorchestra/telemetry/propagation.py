"""W3C trace context across boundaries: bus messages, HTTP requests, Ray calls. A carrier is a plain dict of headers.

Needs only `opentelemetry-api`; without an SDK the carriers stay empty and nothing is paid for.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from opentelemetry import context, trace
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context import Context
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

TRACE_HEADERS = ("traceparent", "tracestate", "baggage")
"""The headers that a transport has to carry (https://www.w3.org/TR/trace-context/)."""

_W3C = CompositePropagator([TraceContextTextMapPropagator(), W3CBaggagePropagator()])


def inject(headers: Mapping[str, str] | None = None, *, ctx: Context | None = None) -> dict[str, str]:
    """A copy of `headers` with the current (or given) context; headers that name a trace already stay."""
    carrier = dict(headers or {})
    if "traceparent" not in carrier:
        _W3C.inject(carrier, context=ctx)
    return carrier


def extract(headers: Mapping[str, str]) -> Context:
    """The context that `headers` carry; an empty root context where they carry none."""
    return _W3C.extract(dict(headers), context=Context())


@contextmanager
def attached(headers: Mapping[str, str]) -> Iterator[Context]:
    """Make the carried context the current one: spans started inside are children of the sender's span."""
    ctx = extract(headers)
    token = context.attach(ctx)
    try:
        yield ctx
    finally:
        context.detach(token)


def trace_id(ctx: Context | None = None) -> str | None:
    """The trace id of the current (or given) context as 32 hex digits; joins a stored episode trace with its spans."""
    span = trace.get_current_span(ctx).get_span_context()
    return trace.format_trace_id(span.trace_id) if span.is_valid else None
