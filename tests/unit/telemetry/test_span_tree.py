"""The span tree of an episode across controller and worker, as the memory exporter sees it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from toolorchestra.bus.envelope import Envelope
from toolorchestra.bus.memory import MemoryBus
from toolorchestra.telemetry import names, spans
from toolorchestra.telemetry.exporters import JsonlSpanExporter, TreeSpanExporter
from toolorchestra.telemetry.groups import SpanGroup, enable
from toolorchestra.telemetry.propagation import extract, inject, trace_id
from toolorchestra.telemetry.sampling import sampled
from toolorchestra.telemetry.setup import Telemetry, TelemetryError, configure


@pytest.fixture
def telemetry(monkeypatch: pytest.MonkeyPatch) -> Iterator[Telemetry]:
    yield from tracing(monkeypatch, {"OTEL_TRACES_EXPORTER": "memory"})


def tracing(monkeypatch: pytest.MonkeyPatch, environ: dict[str, str]) -> Iterator[Telemetry]:
    """The SDK behind `spans.tracer()`, without touching the process's global provider."""
    made = configure(service="test", environ=environ, install=False)
    assert made.provider is not None
    provider = made.provider
    monkeypatch.setattr(spans, "tracer", lambda: provider.get_tracer(names.INSTRUMENTATION))
    yield made
    made.shutdown()
    enable(SpanGroup.DEFAULT)


def finished(telemetry: Telemetry) -> dict[str, ReadableSpan]:
    assert isinstance(telemetry.memory, InMemorySpanExporter)
    return {span.name: span for span in telemetry.memory.get_finished_spans()}


def id_of(span: ReadableSpan) -> int:
    context = span.get_span_context()
    assert context is not None
    return context.span_id


def parent_of(span: ReadableSpan) -> int | None:
    return span.parent.span_id if span.parent else None


async def run_episode(bus: MemoryBus) -> str | None:
    """Controller → bus → worker → bus → controller; returns the trace id that the worker would store."""
    root = spans.start_episode(training="t1", task="sums-7", group=4, sample=1)
    await bus.submit(Envelope(id="t1.4.1.0.0", body=b"order", headers=spans.headers_of(root)))
    (lease,) = await bus.lease(max_n=1, expiry=1)
    with spans.agent_span(dispatch=lease.envelope.id, headers=lease.envelope.headers, delivery=lease.delivery):
        stored = trace_id()
        with spans.turn_span(turn=0):
            with spans.chat_span(model="policy", pool="policy") as chat:
                assert "traceparent" in inject()
                spans.end_chat(
                    chat, input_tokens=20, output_tokens=9, finish_reason="stop", nominal_usd=Decimal("0.001")
                )
            with (
                spans.tool_span(tool="expert-a", alias="model_1", call_id="c0"),
                spans.chat_span(model="a", pool="expert-a"),
            ):
                pass
        with spans.grade_span(grader="exact") as grade:
            spans.annotate(grade, {names.SCORE: 1.0})
        await bus.complete(lease, Envelope(id=lease.envelope.id, body=b"trace"))
    received = await anext(bus.results())
    assert trace_id(extract(received.envelope.headers)) == stored
    components = {"outcome": 1.0, "cost": Decimal("0.001"), "latency": None}
    spans.end_episode(root, ending="answered", dispatch=lease.envelope.id, staleness=0, components=components)
    return stored


async def test_one_trace_per_episode(telemetry: Telemetry) -> None:
    stored = await run_episode(MemoryBus())
    tree = finished(telemetry)
    assert set(tree) == {"episode", "invoke_agent", "chat policy", "execute_tool expert-a", "chat a", "grade"}
    root, agent, tool = tree["episode"], tree["invoke_agent"], tree["execute_tool expert-a"]
    assert parent_of(root) is None
    assert parent_of(agent) == id_of(root)
    assert {parent_of(tree[n]) for n in ("chat policy", "execute_tool expert-a", "grade")} == {id_of(agent)}
    assert parent_of(tree["chat a"]) == id_of(tool)
    assert {f"{s.context.trace_id:032x}" for s in tree.values() if s.context} == {stored}
    assert tree["chat policy"].kind is SpanKind.CLIENT
    assert root.attributes is not None
    assert root.attributes[names.ENDING] == "answered"
    assert root.attributes[f"{names.COMPONENT}.cost"] == 0.001
    assert f"{names.COMPONENT}.latency" not in root.attributes
    assert (tree["chat policy"].attributes or {})[names.OUTPUT_TOKENS] == 9


@pytest.mark.parametrize(("group", "expected"), [("per_turn", True), ("default", False)])
async def test_turns_are_a_group_of_their_own(monkeypatch: pytest.MonkeyPatch, group: str, expected: bool) -> None:
    for telemetry in tracing(monkeypatch, {"OTEL_TRACES_EXPORTER": "memory", "TOOLORCHESTRA_SPANS": group}):
        await run_episode(MemoryBus())
        tree = finished(telemetry)
        assert ("turn" in tree) is expected
        outer = tree["turn" if expected else "invoke_agent"]
        assert parent_of(tree["chat policy"]) == id_of(outer)


async def test_siblings_are_all_sampled_or_none(monkeypatch: pytest.MonkeyPatch) -> None:
    environ = {"OTEL_TRACES_EXPORTER": "memory", "OTEL_TRACES_SAMPLER_ARG": "0.5"}
    for telemetry in tracing(monkeypatch, environ):
        assert telemetry.memory is not None
        for group in range(20):
            for sample in range(4):
                root = spans.start_episode(training="t1", task="x", group=group, sample=sample)
                with spans.agent_span(dispatch=f"t1.{group}.{sample}.0.0", headers=spans.headers_of(root)):
                    pass
                spans.end_episode(root, ending="answered")
        seen = [s.attributes[names.GROUP] for s in telemetry.memory.get_finished_spans() if s.name == "episode"]
        agents = [s for s in telemetry.memory.get_finished_spans() if s.name == "invoke_agent"]
        kept = [g for g in range(20) if sampled(training="t1", group=g, ratio=0.5)]
        assert 0 < len(kept) < 20
        assert sorted(seen) == sorted(kept * 4)
        assert len(agents) == len(seen)


@given(group=st.integers(0, 10**9), low=st.floats(0, 1), high=st.floats(0, 1))
def test_a_higher_ratio_only_adds_groups(group: int, low: float, high: float) -> None:
    low, high = sorted((low, high))
    assert not sampled(training="t", group=group, ratio=0)
    assert sampled(training="t", group=group, ratio=1)
    assert sampled(training="t", group=group, ratio=low) <= sampled(training="t", group=group, ratio=high)


def test_an_exception_fails_its_span_without_quoting_it(telemetry: Telemetry) -> None:
    with pytest.raises(KeyError), spans.chat_span(model="a"):
        raise KeyError("the whole prompt")
    chat = finished(telemetry)["chat a"]
    assert chat.status.status_code is StatusCode.ERROR
    assert (chat.attributes or {})[names.ERROR_TYPE] == "KeyError"
    assert "prompt" not in chat.to_json()


def test_a_train_step_links_to_its_episodes(telemetry: Telemetry) -> None:
    roots = [spans.start_episode(training="t1", task="x", group=0, sample=n) for n in range(2)]
    with spans.train_step_span(training="t1", step=3, episodes=[spans.headers_of(r) for r in roots]):
        pass
    step = finished(telemetry)["train_step"]
    assert [link.context.span_id for link in step.links] == [r.get_span_context().span_id for r in roots]


def test_nothing_is_set_up_without_variables() -> None:
    assert configure(service="test", environ={}).provider is None
    assert (
        configure(service="test", environ={"OTEL_TRACES_EXPORTER": "console", "OTEL_SDK_DISABLED": "true"}).provider
        is None
    )
    with spans.agent_span(dispatch="t.0.0.0.0", headers={}) as span:
        assert not span.is_recording()
    assert spans.headers_of(spans.start_episode(training="t", task="x", group=0, sample=0)) == {}


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"OTEL_TRACES_EXPORTER": "jaeger"}, "want none, console"),
        ({"OTEL_TRACES_EXPORTER": "jsonl"}, "TOOLORCHESTRA_TRACES_FILE"),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "only http/protobuf"),
        ({"OTEL_TRACES_SAMPLER_ARG": "2"}, "between 0 and 1"),
        ({"TOOLORCHESTRA_SPANS": "some"}, "off | default"),
    ],
)
def test_a_wrong_variable_is_named(environ: dict[str, str], message: str) -> None:
    with pytest.raises(TelemetryError) as raised:
        configure(service="test", environ=environ)
    assert message in str(raised.value)
    assert next(iter(environ)) in str(raised.value) or len(environ) > 1


async def test_jsonl_and_console_show_the_tree(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "spans" / "traces.jsonl"
    environ = {"OTEL_TRACES_EXPORTER": "jsonl,console", "TOOLORCHESTRA_TRACES_FILE": str(path)}
    for telemetry in tracing(monkeypatch, environ):
        stored = await run_episode(MemoryBus())
        telemetry.shutdown()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(lines) == 6
    assert {line["context"]["trace_id"] for line in lines} == {f"0x{stored}"}
    shown = capsys.readouterr().err
    assert "invoke_agent" in shown
    assert "\n  execute_tool expert-a" in shown
    assert "\n    chat a" in shown


def test_exporters_survive_what_never_ends(tmp_path: Path) -> None:
    exporter = JsonlSpanExporter(tmp_path / "t.jsonl")
    exporter.shutdown()
    exporter.shutdown()
    tree = TreeSpanExporter()
    assert tree.force_flush()
    tree.shutdown()
