"""Text from elsewhere, as a terminal and a log may show it."""

from __future__ import annotations

import io
import json
import logging

from hypothesis import given
from hypothesis import strategies as st

from toolorchestra.telemetry.logs import configure_logs
from toolorchestra.visible import LogText, visible, visible_line

EVIL = "\x1b]0;owned\x07\x9b2J\u202e\r\n12:00:00 ERROR   worker forged: line"


@given(st.text())
def test_nothing_that_a_terminal_obeys_is_left(text: str) -> None:
    shown = visible(text)
    shown.encode()
    assert all(c in "\n\t" or (c.isprintable() or not c.isascii()) for c in shown)
    assert not set(shown) & {"\x1b", "\x9b", "\x07", "\r", "\u202e", "\u2066"}
    assert "\n" not in visible_line(text)
    if text.isprintable():
        assert shown == text


def test_a_log_has_one_line_per_record_and_no_escapes() -> None:
    for format in ("text", "json"):
        stream = io.StringIO()
        handler = configure_logs(service="worker", format=format, stream=stream, environ={})
        try:
            logging.getLogger("experts").warning("pool oak: %s", EVIL)
        finally:
            logging.getLogger().removeHandler(handler)
        text = stream.getvalue()
        assert text.count("\n") == 1
        assert not set(text) & {"\x1b", "\x9b", "\x07", "\r", "\u202e"}
        if format == "json":
            assert "forged" in json.loads(text)["message"]


def test_a_logs_bytes_lose_their_colours_and_keep_their_letters() -> None:
    show = LogText()
    data = "\x1b[36m(pid=1)\x1b[0m Å\r\n\x1b]0;x\x07".encode()
    assert "".join(show(data[i : i + 1]) for i in range(len(data))).endswith("Å\\r\n\\x1b]0;x\\x07")
    assert LogText()(data) == "(pid=1) Å\n\\x1b]0;x\\x07"
