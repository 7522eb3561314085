"""Reading completions: what is the answer, what was written, what was counted, and what is no answer at all."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from support.expert_servers import BOOK_PRICE, POOL_PRICE, REQUEST, Script, client, completion, endpoint, serving
from toolorchestra.experts.classify import classify_reply
from toolorchestra.experts.errors import ExpertRefused, ExpertUnavailable, Reason
from toolorchestra.experts.metering import metered, worst_case_usd
from toolorchestra.experts.reported import MOST_TOKENS, Reported, read_usage
from toolorchestra.experts.usage import Usage
from toolorchestra.experts.verdict import Failed, Refused, Served, Verdict


def judge(fields: Any) -> Verdict:
    body = fields if isinstance(fields, bytes) else json.dumps(fields).encode()
    return classify_reply(status=200, retry_after=None, body=body, now=datetime.now(UTC))


def tokens(prompt: Any = 100, output: Any = 5, total: Any = None, **fields: Any) -> dict[str, Any]:
    return {"prompt_tokens": prompt, "completion_tokens": output, "total_tokens": total} | fields


@pytest.mark.parametrize(
    ("usage", "tokens_in", "tokens_out"),
    [
        (tokens(), 100, 5),
        (tokens(total=2105), 100, 2005),
        (tokens(279, 6, 374, completion_tokens_details={"reasoning_tokens": 89}), 279, 95),
        (tokens(21, 0, 81, completion_tokens_details={"reasoning_tokens": 60}), 21, 60),
        (tokens(100, 5, completion_tokens_details={"reasoning_tokens": 2000}), 100, 2005),
        (tokens(100, 2005, 2105, completion_tokens_details={"reasoning_tokens": 2000}), 100, 2005),
        (tokens(100, 5, 50), 100, 5),
        ({"input_tokens": 100, "output_tokens": 5}, 100, 5),
        (
            {"input_tokens": 3, "output_tokens": 5}
            | {"cache_read_input_tokens": 5000, "cache_creation_input_tokens": 700},
            5703,
            5,
        ),
        ({"prompt_tokens": 100, "completion_tokens": 5, "cache_read_input_tokens": 50}, 100, 5),  # LiteLLM's: all in it
        ({"input_tokens": 0, "output_tokens": 5, "cache_read_input_tokens": 0}, None, 5),
        (tokens(100.0, 5.0), 100, 5),
        (tokens(0, 0, 0), None, None),
        (tokens(100, 0, 100), 100, None),
        (tokens(0, 5), None, 5),
        (tokens(-1, 50.5), None, None),
        (tokens("100", "5"), None, None),
        (tokens(True, False), None, None),
        (tokens(float("nan"), float("inf")), None, None),
        (tokens(MOST_TOKENS + 1, 10**17), None, None),
        (tokens([1], {"a": 1}), None, None),
        (tokens(100, 5, 10**17), 100, 5),
        (tokens(100, 5, prompt_tokens_details=50.5, completion_tokens_details=["x"]), 100, 5),
        ([1, 2], None, None),
        ("many", None, None),
        (None, None, None),
        (-1, None, None),
    ],
)
def test_reports(usage: Any, tokens_in: int | None, tokens_out: int | None) -> None:
    report = read_usage(usage, written_bytes=8)
    assert (report.tokens_in, report.tokens_out) == (tokens_in, tokens_out)
    verdict = judge(completion(usage=usage))
    assert isinstance(verdict, Served), "no report throws a good answer away"
    assert (verdict.text, verdict.tokens_in, verdict.tokens_out) == ("4", tokens_in, tokens_out)


@pytest.mark.parametrize(
    ("fields", "cached"),
    [
        ({"prompt_tokens_details": {"cached_tokens": 40}}, 40),
        ({"prompt_cache_hit_tokens": 30}, 30),
        ({"prompt_tokens_details": {"cached_tokens": 4000}}, 100),
        ({"prompt_tokens_details": {"cached_tokens": -4}}, 0),
        ({"prompt_tokens_details": {"cached_tokens": "40"}}, 0),
        ({"prompt_tokens_details": None}, 0),
    ],
)
def test_what_was_cached_is_part_of_the_prompt(fields: Any, cached: int) -> None:
    assert read_usage(tokens() | fields, written_bytes=8).cached == cached


def test_nothing_written_may_have_taken_nothing() -> None:
    assert read_usage(tokens(100, 0, 100), written_bytes=0) == Reported(100, 0, 0)
    assert read_usage(tokens(0, 0, 0), written_bytes=0) == Reported(), "a prompt has a token"


def test_what_nobody_reported_is_an_estimate_for_the_policy_and_the_worst_case_in_dollars() -> None:
    text = "x" * 800
    verdict = judge(completion(text, usage=tokens(0, 0, 0)))
    assert isinstance(verdict, Served)
    pool = endpoint("http://x/v1")
    usage = metered(Usage(), verdict, REQUEST, nominal=BOOK_PRICE, endpoint=pool)
    assert usage.tokens_out == 200
    assert usage.nominal_usd == BOOK_PRICE.of(tokens_in=usage.tokens_in, tokens_out=200) > 0
    assert usage.actual_usd == worst_case_usd(pool, REQUEST)


def test_a_report_beyond_the_worst_case_is_true_money() -> None:
    verdict = judge(completion(usage=tokens(100_000, 100_000)))
    assert isinstance(verdict, Served)
    usage = metered(Usage(), verdict, REQUEST, nominal=BOOK_PRICE, endpoint=endpoint("http://x/v1"))
    assert usage.actual_usd == POOL_PRICE.of(tokens_in=100_000, tokens_out=100_000)


async def test_a_free_expert_is_not_free() -> None:
    async with serving(Script(completion(usage=tokens(0, 0, 0)))) as url, client(url) as experts:
        reply = await experts.ask(pool="oak", request=REQUEST, price=BOOK_PRICE)
    assert reply.usage_estimated
    assert reply.usage.nominal_usd > 0
    assert reply.usage.actual_usd > 0


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("4", "4"),
        ([{"type": "text", "text": "4"}, {"type": "text", "text": "2"}], "42"),
        ([{"type": "reasoning", "text": r"\boxed{5}"}, {"type": "text", "text": "4"}], "4"),
        ([{"type": "thinking", "thinking": [{"type": "text", "text": "5"}]}, {"type": "text", "text": "4"}], "4"),
        ([{"type": "redacted_thinking", "data": "5"}, {"type": "output_text", "text": "4"}], "4"),
        ([{"text": "4"}, "2"], "42"),
        ([{"type": ["text"], "text": "5"}, 7, None, {"type": "text"}, {"type": "text", "text": "4"}], "4"),
        ({"type": "text", "text": "4"}, "4"),
        ("half \ud800", "half ?"),
    ],
)
def test_only_text_is_the_answer(content: Any, text: str) -> None:
    verdict = judge(completion(content))
    assert isinstance(verdict, Served)
    assert verdict.text == text


def test_thinking_was_written_though_not_said() -> None:
    message = {"content": "4", "reasoning_content": "y" * 400}
    verdict = judge({"choices": [{"message": message, "finish_reason": "stop"}]})
    assert isinstance(verdict, Served)
    assert (verdict.text, verdict.written_bytes) == ("4", 401)


@pytest.mark.parametrize("thinking", [{"reasoning_content": "hm"}, {"reasoning": "hm"}, {}])
def test_thinking_alone_is_an_empty_answer(thinking: dict[str, str]) -> None:
    verdict = judge({"choices": [{"message": {"content": None} | thinking, "finish_reason": "length"}]})
    assert isinstance(verdict, Refused)
    assert verdict.reason is Reason.EMPTY


DONE = [
    "stop",
    "length",
    "tool_calls",
    "function_call",
    "end_turn",
    "eos",
    "max_tokens",
    "model_length",
    "STOP",
    None,
    "",
]
BROKEN = [
    "error",
    "abort",
    "cancelled",
    "insufficient_system_resource",
    "network_error",
    "MALFORMED_FUNCTION_CALL",
    "function_call_filter: MALFORMED_FUNCTION_CALL",
    "OTHER",
    "unknown",
    "timeout",
    "\x1b[2J",
]
FILTERED = [
    "content_filter",
    "content_filter: PROHIBITED_CONTENT",
    "SAFETY",
    "RECITATION",
    "sensitive",
    "refusal",
    "SPII",
]


@pytest.mark.parametrize("finish", DONE)
def test_an_end_is_an_end(finish: str | None) -> None:
    assert isinstance(judge({"choices": [{"message": {"content": "4"}, "finish_reason": finish}]}), Served)


@pytest.mark.parametrize("finish", BROKEN)
async def test_half_a_generation_is_no_answer(finish: str) -> None:
    """What it took is paid: as reported, or at its worst."""
    choices = [{"message": {"content": r"\boxed{4"}, "finish_reason": finish}]
    script = Script(completion(choices=choices), completion(choices=choices, usage=None))
    async with serving(script) as url, client(url) as experts:
        with pytest.raises(ExpertUnavailable) as caught:
            await experts.ask(pool="oak", request=REQUEST, price=BOOK_PRICE, reserve=lambda usd: True)
        worst = experts.worst_case_usd(pool="oak", request=REQUEST)
    assert (caught.value.reason, script.calls) == (Reason.SERVER_ERROR, 2)
    assert caught.value.usage.actual_usd == POOL_PRICE.of(tokens_in=100, tokens_out=50) + worst
    assert caught.value.usage.nominal_usd == 0


@pytest.mark.parametrize("finish", FILTERED)
async def test_what_a_filter_stopped_is_a_refusal(finish: str) -> None:
    choices = [{"message": {"content": "half"}, "finish_reason": finish}]
    async with serving(Script(completion(choices=choices))) as url, client(url) as experts:
        with pytest.raises(ExpertRefused) as caught:
            await experts.ask(pool="oak", request=REQUEST, price=BOOK_PRICE)
    assert caught.value.reason is Reason.CONTENT_FILTER
    assert caught.value.usage.actual_usd == Decimal("0.0002")


@pytest.mark.parametrize(
    "body",
    [
        b'{"choices": [{"message": {"content": "4"}}], "usage": {"prompt_tokens": ' + b"9" * 5000 + b"}}",
        b'{"id": ' + b"1" * 5000 + b', "choices": [{"message": {"content": "4"}}]}',
        b'{"choices": [{"message": {"content": "4"}}], "usage": {"prompt_tokens": NaN, "total_tokens": -Infinity}}',
        b'{"choices": [{"message": {"content": "5"}}], "choices": [{"message": {"content": "4"}}]}',
        b'{"choices": [{"message": {"content": "4"}}], "note": "caf\xe9"}',
        '{"choices": [{"message": {"content": "4"}}]}'.encode("utf-16"),
        b"\xef\xbb\xbf" + b'{"choices": [{"message": {"content": "4"}}]}',
        b'{"choices": [{"message": {"content": "4", "tool_calls": [{"function": 7}, null]}}], "model": 7}',
    ],
)
def test_one_odd_field_does_not_lose_the_answer(body: bytes) -> None:
    verdict = judge(body)
    assert isinstance(verdict, Served)
    assert verdict.text == "4"


@pytest.mark.parametrize("body", [b"[" * 200_000, b'{"error":' * 50_000, b"1" * 5000, b"\xff\xfe\x00", b'"\\ud800"'])
@pytest.mark.parametrize("status", [200, 400, 429, 500])
def test_no_body_makes_it_raise(status: int, body: bytes) -> None:
    verdict = classify_reply(status=status, retry_after="9" * 400, body=body, now=datetime.now(UTC))
    assert isinstance(verdict, Refused if status == 400 else Failed)
    assert verdict.detail
