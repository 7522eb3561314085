"""One span tree per dispatch, joined to the sender's trace and to the stored record; no text in any span."""

from __future__ import annotations

import asyncio

import pytest
from opentelemetry import trace as otel
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from support.episode_world import answer, host_of, order_of
from toolorchestra.bus.envelope import Envelope
from toolorchestra.bus.memory import MemoryBus
from toolorchestra.rollout.codec import ORDER_CONTENT, decode_trace, encode_order
from toolorchestra.rollout.worker import Worker, WorkerSettings
from toolorchestra.telemetry import setup, spans

TELEMETRY = setup.configure(service="test", environ={"OTEL_TRACES_EXPORTER": "memory"}, install=False)


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    assert TELEMETRY.provider is not None
    assert TELEMETRY.memory is not None
    tracer = TELEMETRY.provider.get_tracer("test")
    monkeypatch.setattr(spans, "tracer", lambda: tracer)
    TELEMETRY.memory.clear()
    return TELEMETRY.memory


async def test_an_dispatch_is_one_tree_under_the_senders_episode(memory: InMemorySpanExporter) -> None:
    order = order_of(issue="uid.1.2.0.0")
    root = spans.start_episode(training="uid", task=order.task.id, group=1, sample=2)
    bus = MemoryBus()
    envelope = Envelope(id=order.issue, body=encode_order(order), content=ORDER_CONTENT, headers=spans.headers_of(root))
    await bus.submit(envelope)
    worker = Worker(
        bus=bus, host=host_of([answer("oak")]), settings=WorkerSettings(concurrency=1, lease_expiry_seconds=0.2)
    )
    running = asyncio.create_task(worker.run())
    received = await anext(bus.results())
    record = decode_trace(received.envelope.body)
    worker.stop()
    await running
    root.end()
    made = {span.name: span for span in memory.get_finished_spans()}
    tree = {name: parent_of(span, made) for name, span in made.items()}
    assert tree == {
        "episode": None,
        "invoke_agent": "episode",
        "chat policy": "invoke_agent",
        "execute_tool answer": "invoke_agent",
        "chat pool-cheap": "execute_tool answer",
        "grade": "invoke_agent",
    }
    assert record.trace_id == otel.format_trace_id(root.get_span_context().trace_id)
    assert (made["invoke_agent"].attributes or {})["toolorchestra.ending"] == "answered"
    texts = [str(value) for span in made.values() for value in (span.attributes or {}).values()]
    assert not any("2 + 2" in text or "boxed" in text or "tool_call" in text for text in texts)


def parent_of(span: ReadableSpan, made: dict[str, ReadableSpan]) -> str | None:
    if span.parent is None:
        return None
    return next(n for n, s in made.items() if s.context is not None and s.context.span_id == span.parent.span_id)
