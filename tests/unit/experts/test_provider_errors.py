"""Whose affair an error is, by the bodies that providers are known to send: `provider_errors.jsonl`, shortened from
what their users published."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from toolorchestra.experts.classify import classify_reply
from toolorchestra.experts.errors import Reason
from toolorchestra.experts.verdict import Failed, Refused, Verdict

CASES = [json.loads(line) for line in Path(__file__).with_name("provider_errors.jsonl").read_text().splitlines()]


def judge(body: Any, *, status: int = 400) -> Verdict:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return classify_reply(status=status, retry_after=None, body=raw, now=datetime.now(UTC))


@pytest.mark.parametrize("case", CASES, ids=[f"{number}-{case['provider']}" for number, case in enumerate(CASES)])
def test_published_errors(case: dict[str, Any]) -> None:
    body = case["text"].encode() if "text" in case else case["body"]
    verdict = judge(body, status=case["status"])
    reason = Reason(case["means"])
    assert isinstance(verdict, Failed if reason is Reason.MISCONFIGURED else Refused), verdict
    assert verdict.reason is reason, verdict
    if isinstance(verdict, Failed):
        assert not verdict.retry, "no retry can help"
        assert not verdict.maybe_paid


def test_a_gateways_own_words_do_not_hide_its_providers() -> None:
    body = {"error": {"message": "Provider returned error", "code": 400, "metadata": {"raw": "odd words"}}}
    verdict = judge(body)
    assert isinstance(verdict, Refused)
    assert verdict.detail == "Provider returned error: odd words"


@pytest.mark.parametrize("code", [401, 402, 403, 404])
def test_an_error_with_status_200_is_an_error(code: int) -> None:
    verdict = judge({"error": {"code": code, "message": "no"}}, status=200)
    assert isinstance(verdict, Failed)
    assert (verdict.reason, verdict.maybe_paid) == (Reason.MISCONFIGURED, False)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"error": {"code": 502, "message": "upstream died"}}, Reason.SERVER_ERROR),
        ({"error": {"code": "429", "message": "slow"}, "choices": None}, Reason.THROTTLED),
        ({"error": "overloaded"}, Reason.SERVER_ERROR),
        ({"object": "error", "message": "odd"}, Reason.SERVER_ERROR),
        (
            {"choices": [{"error": {"code": 502, "message": "died"}, "message": {"content": "half"}}]},
            Reason.SERVER_ERROR,
        ),
        ({"error": {"code": 529, "message": "x"}, "choices": [{"message": {"content": "half"}}]}, Reason.SERVER_ERROR),
    ],
)
def test_an_error_that_came_after_the_headers_may_have_been_paid(body: Any, reason: Reason) -> None:
    verdict = judge(body, status=200)
    assert isinstance(verdict, Failed)
    assert (verdict.reason, verdict.maybe_paid, verdict.retry) == (reason, True, True)


@pytest.mark.parametrize("empty", [None, "", {}, [], 0, False])
def test_an_empty_error_is_none(empty: Any) -> None:
    body = {"error": empty, "choices": [{"message": {"content": "4"}, "finish_reason": "stop"}]}
    assert not isinstance(judge(body, status=200), Failed)


def test_what_a_stranger_says_cannot_move_a_terminal() -> None:
    verdict = judge({"error": {"message": "bad\x1b[2J\r\nthing\u202e \ud800"}})
    assert isinstance(verdict, Refused)
    assert verdict.detail == "bad [2J thing ?"
