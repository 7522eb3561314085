"""Logs: both forms, joined to spans, without secrets."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace import TracerProvider

from toolorchestra.telemetry.logs import Redactor, configure_logs

KEY = "verysecretvalue42"


@pytest.fixture(autouse=True)
def root_logger() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level


def logged(message: str, *args: object, environ: dict[str, str], error: bool = False) -> str:
    stream = io.StringIO()
    configure_logs(service="worker", stream=stream, environ=environ)
    logger = logging.getLogger("toolorchestra.test")
    try:
        if error:
            raise RuntimeError(message % args)
        logger.info(message, *args)
    except RuntimeError:
        logger.exception("it broke")
    return stream.getvalue()


def test_json_in_a_pod_carries_the_span() -> None:
    with TracerProvider().get_tracer("t").start_as_current_span("s") as span:
        line = json.loads(logged("leased %s", "t1.0.0.0.0", environ={"KUBERNETES_SERVICE_HOST": "10.0.0.1"}))
    assert line["message"] == "leased t1.0.0.0.0"
    assert (line["level"], line["service"], line["logger"]) == ("info", "worker", "toolorchestra.test")
    assert line["trace_id"] == f"{span.get_span_context().trace_id:032x}"
    assert line["span_id"] == f"{span.get_span_context().span_id:016x}"


def test_text_elsewhere() -> None:
    line = logged("leased %s", "x", environ={})
    assert line.endswith("INFO    worker toolorchestra.test: leased x\n")


@pytest.mark.parametrize("form", ["json", "text"])
@pytest.mark.parametrize("error", [False, True])
def test_secrets_never_appear(form: str, error: bool) -> None:
    environ = {"TOOLORCHESTRA_LOG_FORMAT": form, "EXPERT_API_KEY": KEY}
    text = logged("calling with %s at nats://user:hunter22@host:4222", KEY, environ=environ, error=error)
    assert KEY not in text
    assert "hunter22" not in text
    assert "host:4222" in text
    if form == "json":
        assert "***" in json.dumps(json.loads(text))


@pytest.mark.parametrize(
    ("text", "gone"),
    [
        ("Authorization: Bearer abc.def-123456", "abc.def"),
        ("POST https://x/v1?api_key=abcdef123 failed", "abcdef123"),
        ('{"password": "swordfish"}', "swordfish"),
        ("key sk-abcdefgh12345678", "abcdefgh"),
        ("nats://sometoken@10.0.0.1:4222", "sometoken"),
    ],
)
def test_what_looks_like_a_key_is_taken_out(text: str, gone: str) -> None:
    assert gone not in Redactor([])(text)


def test_a_secrets_key_of_any_name_is_known() -> None:
    assert Redactor.of({"SECRET_MODELS_VALUE": "a-plain-value"})("sent a-plain-value") == "sent ***"


def test_a_secret_made_of_a_file_is_known_without_its_last_newline() -> None:
    assert Redactor.of({"SECRET_MODELS_VALUE": "a-plain-value\n"})("sent a-plain-value, twice") == "sent ***, twice"


def test_ordinary_text_stays() -> None:
    text = "96 tokens, staleness 1, http://127.0.0.1:8000/v1, 3 tasks: answered"
    assert Redactor.of({"HOME_TOKEN": "an", "PATH": "/usr/bin"})(text) == text


@given(secret=st.text(min_size=6), before=st.text(), after=st.text())
def test_a_known_secret_never_survives(secret: str, before: str, after: str) -> None:
    if set(secret) != {"*"}:
        assert secret not in Redactor([secret])(before + secret + after)


def test_an_unknown_format_is_named() -> None:
    with pytest.raises(ValueError, match="want auto, json or text"):
        configure_logs(service="x", environ={"TOOLORCHESTRA_LOG_FORMAT": "xml"})
