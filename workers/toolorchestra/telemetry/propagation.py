"""Passes W3C trace context between processes: bus messages, HTTP requests, Ray calls. A carrier is a dict of headers.

Needs only `opentelemetry-api`. Without an SDK the carriers stay empty, at almost no cost.
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
"""Headers that a transport must carry (https://www.w3.org/TR/trace-context/)."""

_W3C = CompositePropagator([TraceContextTextMapPropagator(), W3CBaggagePropagator()])


def inject(headers: Mapping[str, str] | None = None, *, ctx: Context | None = None) -> dict[str, str]:
    """Return a copy of `headers` with the current (or given) context. Headers that already name a trace are kept."""
    carrier = dict(headers or {})
    if "traceparent" not in carrier:
        _W3C.inject(carrier, context=ctx)
    return carrier


def extract(headers: Mapping[str, str]) -> Context:
    """Return the context in `headers`; an empty root context if there is none."""
    return _W3C.extract(dict(headers), context=Context())


@contextmanager
def attached(headers: Mapping[str, str]) -> Iterator[Context]:
    """Make the context in `headers` the current one: spans started inside are children of the sender's span."""
    ctx = extract(headers)
    token = context.attach(ctx)
    try:
        yield ctx
    finally:
        context.detach(token)


def trace_id(ctx: Context | None = None) -> str | None:
    """Return the trace id of the current (or given) context, 32 hex digits. It joins a stored trace and its spans."""
    span = trace.get_current_span(ctx).get_span_context()
    return trace.format_trace_id(span.trace_id) if span.is_valid else None
