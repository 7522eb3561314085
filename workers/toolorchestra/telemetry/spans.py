"""Functions that create the spans of an episode, with the attributes that each span must have.

    episode                      controller, from submit to accepted
    └─ invoke_agent              worker, one per dispatch; its parent comes with the bus message
       ├─ chat {model}           CLIENT: the policy's engine, or an expert's endpoint
       ├─ execute_tool {tool}    around the chat of a tool that is an expert
       └─ grade

Needs only `opentelemetry-api`. An exception that leaves one of the context managers marks its span as failed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from decimal import Decimal

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import INVALID_SPAN, Link, Span, SpanKind, Status, StatusCode, Tracer
from opentelemetry.util.types import AttributeValue

from toolorchestra.telemetry import names
from toolorchestra.telemetry.groups import SpanGroup, enabled
from toolorchestra.telemetry.propagation import extract, inject

Value = str | bool | int | float | Decimal | Sequence[str] | None


def tracer() -> Tracer:
    """Return the project's tracer. It does nothing until an SDK is set up."""
    return trace.get_tracer(names.INSTRUMENTATION)


def attributes(values: Mapping[str, Value]) -> dict[str, AttributeValue]:
    """Return the attributes without unknown (None) values; dollars as floats."""
    return {k: float(v) if isinstance(v, Decimal) else v for k, v in values.items() if v is not None}


def annotate(span: Span, values: Mapping[str, Value]) -> None:
    """Set attributes of a span that is being recorded."""
    if span.is_recording():
        span.set_attributes(attributes(values))


def fail(span: Span, error: BaseException | str) -> None:
    """Mark a span as failed. The message is not recorded: it may quote a prompt."""
    kind = error if isinstance(error, str) else type(error).__qualname__
    span.set_attribute(names.ERROR_TYPE, kind)
    span.set_status(Status(StatusCode.ERROR, kind))


@contextmanager
def span(
    name: str,
    values: Mapping[str, Value] | None = None,
    *,
    kind: SpanKind = SpanKind.INTERNAL,
    group: SpanGroup = SpanGroup.DEFAULT,
    parent: Context | None = None,
) -> Iterator[Span]:
    """Start a span and make it current. If its group is off, the outer span stays current."""
    if not enabled(group):
        yield INVALID_SPAN
        return
    with tracer().start_as_current_span(
        name,
        context=parent,
        kind=kind,
        attributes=attributes(values or {}),
        record_exception=False,
        set_status_on_exception=False,
    ) as made:
        try:
            yield made
        except BaseException as error:
            fail(made, error)
            raise


# ── the controller ─────────────────────────────────────────────────────────────────────────────────────────────────


def start_episode(*, training: str, task: str, group: int, sample: int) -> Span:
    """Open the root span of an episode. It has no parent and is not current: the controller keeps it until the end.

    (training, group) decides whether it is recorded, so that all siblings are recorded or none.
    """
    if not enabled(SpanGroup.DEFAULT):
        return INVALID_SPAN
    values: dict[str, Value] = {names.TRAINING: training, names.TASK: task, names.GROUP: group, names.SAMPLE: sample}
    return tracer().start_span(names.EPISODE, context=Context(), attributes=attributes(values))


def headers_of(root: Span) -> dict[str, str]:
    """Return trace headers that make a receiver's spans children of `root`: for a task's envelope, or a Ray call."""
    return inject(ctx=trace.set_span_in_context(root, Context()))


def end_episode(
    root: Span,
    *,
    ending: str,
    dispatch: str | None = None,
    policy_version: str | None = None,
    staleness: int | None = None,
    components: Mapping[str, float | Decimal | None] | None = None,
    input_tokens: int | None = None,
    output_tokens: int | None = None,
    nominal_usd: Decimal | None = None,
    actual_usd: Decimal | None = None,
    failed: bool = False,
) -> None:
    """Close the root span with the episode's outcome. `failed`: infrastructure failed; a wrong answer is no error."""
    values: dict[str, Value] = {
        names.ENDING: ending,
        names.ISSUE: dispatch,
        names.POLICY_VERSION: policy_version,
        names.STALENESS: staleness,
        names.INPUT_TOKENS: input_tokens,
        names.OUTPUT_TOKENS: output_tokens,
        names.NOMINAL_USD: nominal_usd,
        names.ACTUAL_USD: actual_usd,
    }
    annotate(root, values | {f"{names.COMPONENT}.{k}": v for k, v in (components or {}).items()})
    if failed:
        fail(root, ending)
    root.end()


@contextmanager
def train_step_span(*, training: str, step: int, episodes: Sequence[Mapping[str, str]] = ()) -> Iterator[Span]:
    """Start the span of a trainer step: its own trace, with links to the episodes it consumed (their trace headers)."""
    if not enabled(SpanGroup.DEFAULT):
        yield INVALID_SPAN
        return
    contexts = [trace.get_current_span(extract(headers)).get_span_context() for headers in episodes]
    values: dict[str, Value] = {names.TRAINING: training, names.STEP: step}
    with tracer().start_as_current_span(
        names.TRAIN_STEP,
        context=Context(),
        attributes=attributes(values),
        links=[Link(c) for c in contexts if c.is_valid],
    ) as made:
        yield made


# ── the worker ─────────────────────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def agent_span(
    *,
    dispatch: str,
    headers: Mapping[str, str],
    purpose: str | None = None,
    delivery: int | None = None,
    system: str = "policy",
) -> Iterator[Span]:
    """Start the span of one dispatch on a worker. `headers`: those of the task's envelope."""
    values: dict[str, Value] = {
        names.OPERATION: names.INVOKE_AGENT,
        names.AGENT_NAME: system,
        names.ISSUE: dispatch,
        names.PURPOSE: purpose,
        names.DELIVERY: delivery,
    }
    with span(names.INVOKE_AGENT, values, kind=SpanKind.CONSUMER, parent=extract(headers)) as made:
        yield made


@contextmanager
def turn_span(*, turn: int) -> Iterator[Span]:
    """Start the span of one generation and its tool calls (group `per_turn`)."""
    with span(names.TURN, {names.TURN_NUMBER: turn}, group=SpanGroup.PER_TURN) as made:
        yield made


@contextmanager
def chat_span(
    *, model: str, pool: str | None = None, address: str | None = None, port: int | None = None
) -> Iterator[Span]:
    """Start a span of a model call over HTTP. Inside, add `inject()` to the request's headers; end with `end_chat`."""
    values: dict[str, Value] = {
        names.OPERATION: names.CHAT,
        names.REQUEST_MODEL: model,
        names.POOL: pool,
        names.SERVER_ADDRESS: address,
        names.SERVER_PORT: port,
    }
    with span(f"{names.CHAT} {model}", values, kind=SpanKind.CLIENT) as made:
        yield made


def end_chat(
    made: Span,
    *,
    input_tokens: int | None = None,
    output_tokens: int | None = None,
    cached_tokens: int | None = None,
    finish_reason: str | None = None,
    nominal_usd: Decimal | None = None,
    actual_usd: Decimal | None = None,
    service_seconds: float | None = None,
) -> None:
    """Set the tokens, cost and time of the answer."""
    values: dict[str, Value] = {
        names.INPUT_TOKENS: input_tokens,
        names.OUTPUT_TOKENS: output_tokens,
        names.CACHED_TOKENS: cached_tokens,
        names.FINISH_REASONS: None if finish_reason is None else [finish_reason],
        names.NOMINAL_USD: nominal_usd,
        names.ACTUAL_USD: actual_usd,
        names.SERVICE_SECONDS: service_seconds,
    }
    annotate(made, values)


@contextmanager
def tool_span(*, tool: str, call_id: str | None = None, alias: str | None = None) -> Iterator[Span]:
    """Start the span of one tool call. `tool`: the real name; `alias`: the name in the episode."""
    values: dict[str, Value] = {
        names.OPERATION: names.EXECUTE_TOOL,
        names.TOOL_NAME: tool,
        names.TOOL_CALL_ID: call_id,
        names.ALIAS: alias,
    }
    with span(f"{names.EXECUTE_TOOL} {tool}", values) as made:
        yield made


@contextmanager
def grade_span(*, grader: str) -> Iterator[Span]:
    """Start the span of a grading. Set `names.SCORE` when the score is known."""
    with span(names.GRADE, {names.GRADER: grader}) as made:
        yield made
