"""The envelope: what is sent is what is read, and nothing else is accepted."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats.js.api import DiscardPolicy, RetentionPolicy, StorageType

from toolorchestra.bus.envelope import Envelope, EnvelopeError, decode, encode, without_body
from toolorchestra.bus.streams import StreamNames, StreamSettings, consumer_configs, stream_configs
from toolorchestra.rollout.identity import Dispatch, EpisodeId
from toolorchestra.telemetry.propagation import TRACE_HEADERS

IDS = st.from_regex(r"[A-Za-z0-9_-]{1,8}(\.[A-Za-z0-9_-]{1,8}){0,5}", fullmatch=True)
TEXT = st.text(st.characters(codec="utf-8"), max_size=200)
PURPOSES = st.from_regex(r"[A-Za-z0-9_-]{1,12}", fullmatch=True)


@given(id_=IDS, body=st.binary(), purpose=PURPOSES, content=TEXT, reason=TEXT)
def test_decode_reads_what_encode_wrote(id_: str, body: bytes, purpose: str, content: str, reason: str) -> None:
    headers = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
    envelope = Envelope(id=id_, body=body, purpose=purpose, content=content, reason=reason, headers=headers)
    sent, payload = encode(envelope)
    assert decode(sent, payload) == envelope
    # Nothing in a header could end it early.
    assert all(re.fullmatch(r"[\x20-\x7e]+", value) for value in sent.values())


@given(text=st.text())
def test_an_id_is_a_part_of_a_subject_or_refused(text: str) -> None:
    try:
        envelope = Envelope(id=text)
    except EnvelopeError:
        return
    subject = StreamNames("t").task_subject(purpose=envelope.purpose, id_=envelope.id)
    assert re.fullmatch(r"to\.t\.tasks\.train(\.[A-Za-z0-9_-]+)+", subject)


def test_an_dispatch_is_an_id() -> None:
    assert Envelope(id=str(Dispatch(EpisodeId("t1", 3, 2), 0, 1))).id == "t1.3.2.0.1"


@pytest.mark.parametrize("id_", ["", ".", "a..b", "a.", "a b", "a.>", "a.*", "a\r\nb", "ü", "a" * 201])
def test_bad_ids(id_: str) -> None:
    with pytest.raises(EnvelopeError, match="message id"):
        Envelope(id=id_)


def test_only_trace_headers_travel() -> None:
    with pytest.raises(EnvelopeError, match=", ".join(TRACE_HEADERS)):
        Envelope(id="a", headers={"Authorization": "x"})


@pytest.mark.parametrize("headers", [None, {}, {"To-Envelope": "2", "To-Id": "a"}, {"To-Envelope": "1"}])
def test_anything_else_is_refused(headers: dict[str, str] | None) -> None:
    with pytest.raises(EnvelopeError):
        decode(headers, b"")


def test_a_very_long_reason_is_cut() -> None:
    sent, _ = encode(Envelope(id="a", reason="x" * 10_000))
    assert len(decode(sent, b"").reason) == 1000


def test_a_reason_that_is_no_text_is_told_all_the_same() -> None:
    sent, _ = encode(Envelope(id="a", reason="half \ud800 a pair"))
    assert decode(sent, b"").reason == "half ? a pair"


def test_what_the_bus_itself_says_has_no_body() -> None:
    said = without_body(Envelope(id="a", body=b"order", content="order/1", purpose="p"), reason="lost")
    assert (said.id, said.body, said.content, said.purpose, said.reason) == ("a", b"", "", "p", "lost")


def test_streams_refuse_instead_of_dropping() -> None:
    configs = stream_configs("t1", StreamSettings(replicas=3, max_tasks=7))
    assert [c.name for c in configs] == ["TO_t1_TASKS", "TO_t1_RESULTS", "TO_t1_DEAD", "TO_t1_ADVISORIES"]
    for config in configs:
        assert (config.retention, config.discard) == (RetentionPolicy.WORK_QUEUE, DiscardPolicy.NEW)
        assert (config.storage, config.num_replicas) == (StorageType.FILE, 3)
    assert [c.max_msgs for c in configs] == [7, -1, -1, -1]
    consumers = consumer_configs("t1", StreamSettings(max_deliver=3))
    assert [(s, c.durable_name, c.max_deliver) for s, c in consumers] == [
        ("TO_t1_TASKS", "workers", 3),
        ("TO_t1_RESULTS", "controller", -1),
        ("TO_t1_DEAD", "controller", -1),
        ("TO_t1_ADVISORIES", "controller", -1),
    ]


@pytest.mark.parametrize("uid", ["", "a.b", "a b", "a>", "x" * 41])
def test_bad_uids(uid: str) -> None:
    with pytest.raises(ValueError, match="training uid"):
        StreamNames(uid)
