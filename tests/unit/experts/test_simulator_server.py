"""The simulator on a real socket, asked by the real client; cassettes around it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import aiohttp
import pytest

from support.expert_servers import BOOK_PRICE, FAST, REQUEST, TASK, client, skill_table
from toolorchestra.api.skill_table import SkillTable
from toolorchestra.experts.answerer import answer_messages, template
from toolorchestra.experts.cassette import CassetteError, RecordingExperts, ReplayedExperts
from toolorchestra.experts.chat import ChatRequest
from toolorchestra.experts.errors import ExpertUnavailable, Reason, UnknownPool
from toolorchestra.experts.serve import SimulatorError, start_simulator
from toolorchestra.tasks.answer import extract_answer
from toolorchestra.tasks.grader import grade
from toolorchestra.tasks.task import GraderSpec

TABLE = skill_table(
    "m",
    accuracy="0",
    topics=[{"topic": "sums", "accuracy": "1", "tokensOut": 200}],
    latencyMilliseconds={"p50": 2000, "p99": 2000},
)


@asynccontextmanager
async def simulator(table: SkillTable = TABLE, *, time_scale: float = 0.0) -> AsyncIterator[str]:
    runner, url = await start_simulator(table, host="127.0.0.1", port=0, time_scale=time_scale)
    try:
        yield url
    finally:
        await runner.cleanup()


async def test_it_answers_by_the_table_and_says_it_is_simulated() -> None:
    async with simulator() as url, client(url, simulated=True) as experts:
        reply = await experts.ask(pool="oak", request=REQUEST, price=BOOK_PRICE, task=TASK)
        again = await experts.ask(pool="oak", request=REQUEST, price=BOOK_PRICE, task=TASK)
        other = TASK.model_copy(update={"topic": "letters", "id": "letters/1"})
        wrong = await experts.ask(pool="oak", request=REQUEST, price=BOOK_PRICE, task=other)
    assert grade(TASK, extract_answer(reply.text)).outcome == 1.0
    assert grade(other, extract_answer(wrong.text)).outcome == 0.0
    assert reply.usage.simulated
    assert reply.usage.service_seconds == pytest.approx(2.0)
    assert 150 <= reply.usage.tokens_out <= 250
    assert 75 <= wrong.usage.tokens_out <= 125
    assert (again.text, again.usage.tokens_out) == (reply.text, reply.usage.tokens_out), "siblings see one world"


async def test_time_is_scaled() -> None:
    async with simulator(time_scale=0.05) as url, client(url, simulated=True) as experts:
        reply = await experts.ask(pool="oak", request=REQUEST, price=BOOK_PRICE, task=TASK)
    assert reply.usage.service_seconds == pytest.approx(2.0)
    assert 0.1 <= reply.usage.wall_seconds < 1.9


@pytest.mark.parametrize(("said", "counted"), [(None, 10), (100, 100), (100_000, 293)])
async def test_prompts_count_as_the_table_says_within_what_is_possible(said: int | None, counted: int) -> None:
    async with simulator(skill_table("m", tokensIn=said)) as url, client(url, simulated=True) as experts:
        reply = await experts.ask(pool="oak", request=REQUEST, price=BOOK_PRICE, task=TASK)
        worst = experts.worst_case_usd(pool="oak", request=REQUEST)
    assert reply.usage.tokens_in == counted
    assert reply.usage.actual_usd <= worst


async def test_the_output_limit_is_kept() -> None:
    request = ChatRequest(messages=REQUEST.messages, max_output_tokens=10)
    async with simulator() as url, client(url, simulated=True) as experts:
        reply = await experts.ask(pool="oak", request=request, price=BOOK_PRICE, task=TASK)
    assert reply.usage.tokens_out == 10


async def test_a_very_long_answer_fits_the_header() -> None:
    task = TASK.model_copy(update={"grader": GraderSpec(type="ExactMatch", data={"answer": "w" * 50_000})})
    async with simulator() as url, client(url, simulated=True) as experts:
        reply = await experts.ask(pool="oak", request=REQUEST, price=BOOK_PRICE, task=task)
    assert len(extract_answer(reply.text)) == 50_000


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("http500", Reason.SERVER_ERROR),
        ("garbage", Reason.GARBAGE),
        ("hang", Reason.TIMEOUT),
    ],
)
async def test_faults_look_like_faults(fault: str, reason: Reason) -> None:
    async with (
        simulator(skill_table("m", faults={fault: "1"})) as url,
        client(url, simulated=True, timeout_seconds=0.2) as experts,
    ):
        with pytest.raises(ExpertUnavailable) as caught:
            await experts.ask(pool="oak", request=REQUEST, price=BOOK_PRICE, task=TASK)
    assert caught.value.reason is reason


async def test_some_faults_are_survived() -> None:
    async with (
        simulator(skill_table("m", faults={"http500": "0.1"})) as url,
        client(url, simulated=True, retry=replace(FAST, attempts=6, paid_attempts=6)) as experts,
    ):
        replies = await asyncio.gather(
            *(
                experts.ask(pool="oak", request=REQUEST, price=BOOK_PRICE, task=TASK, reserve=lambda usd: True)
                for _ in range(60)
            )
        )
    assert len(replies) == 60


async def test_bad_requests_are_told_what_is_wrong() -> None:
    async with simulator() as url, aiohttp.ClientSession() as session:
        for body, status, text in [
            ({"model": "elm", "messages": []}, 404, "has m"),
            ({"model": "m"}, 400, "messages"),
            ([1], 400, "JSON object"),
            ({"model": "m", "messages": [], "stream": True}, 400, "stream"),
        ]:
            async with session.post(f"{url}/chat/completions", json=body) as reply:
                assert reply.status == status
                assert text in await reply.text()
        async with session.post(
            f"{url}/chat/completions", json={"model": "m", "messages": []}, headers={"x-simulated-task": "?"}
        ) as reply:
            assert reply.status == 400
        async with session.get(f"{url}/models") as reply:
            assert [m["id"] for m in (await reply.json())["data"]] == ["m"]
        async with session.get(f"{url.removesuffix('/v1')}/health") as reply:
            assert (await reply.json())["simulated"] is True


async def test_a_taken_port_is_said() -> None:
    async with simulator() as url:
        port = int(url.rsplit(":", 1)[1].removesuffix("/v1"))
        with pytest.raises(SimulatorError, match=f"port {port} on 127.0.0.1 is taken"):
            await start_simulator(TABLE, host="127.0.0.1", port=port, time_scale=0)


async def test_a_cassette_plays_what_was_recorded(tmp_path: Path) -> None:
    path = tmp_path / "calls.jsonl"
    async with simulator() as url:
        recorder = RecordingExperts(client(url, simulated=True), path)
        reply = await recorder.ask(pool="oak", request=REQUEST, price=BOOK_PRICE, task=TASK)
        assert recorder.worst_case_usd(pool="oak", request=REQUEST) > 0
    gone = ChatRequest(messages=({"role": "user", "content": "nobody is there"},))
    with pytest.raises(ExpertUnavailable):  # the server is gone: that is recorded too
        await recorder.ask(pool="oak", request=gone, price=BOOK_PRICE)
    recorded = path.read_bytes()
    with pytest.raises(UnknownPool):  # no call was made: nothing is recorded
        await recorder.ask(pool="elm", request=gone, price=BOOK_PRICE)
    assert path.read_bytes() == recorded
    await recorder.close()

    replayed = ReplayedExperts(path)
    dearer = BOOK_PRICE.model_copy(update={"per_call_usd": Decimal(1)})
    for _ in range(2):
        again = await replayed.ask(pool="oak", request=REQUEST, price=dearer)
        assert again.text == reply.text
        assert again.usage.nominal_usd == reply.usage.nominal_usd + 1
        assert again.usage.actual_usd == 0
        assert again.usage.service_seconds == reply.usage.service_seconds
    with pytest.raises(ExpertUnavailable, match="connection"):
        await replayed.ask(pool="oak", request=gone, price=BOOK_PRICE)
    with pytest.raises(CassetteError, match="holds no call to oak"):
        await replayed.ask(pool="oak", request=ChatRequest(messages=()), price=BOOK_PRICE)


def test_a_broken_cassette_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "calls.jsonl"
    path.write_text('{"key": "a", "pool": "b"}\n{"half"', encoding="utf-8")
    with pytest.raises(CassetteError, match=r"calls\.jsonl:2"):
        ReplayedExperts(path)


def test_the_answer_prompt_is_a_versioned_file() -> None:
    (message,) = answer_messages("What is {x}?")
    assert message["role"] == "user"
    assert message["content"].endswith("What is {x}?")
    assert "\\boxed{}" in template("answer.v1")
    with pytest.raises(FileNotFoundError):
        template("answer.v0")
