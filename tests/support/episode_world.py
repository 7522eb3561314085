"""A small world for episode tests: two experts behind aliases, one task, scripted outputs of the policy."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from toolorchestra.experts.chat import ChatReply, ChatRequest, Reserve
from toolorchestra.experts.usage import Usage
from toolorchestra.policy.fake import FakeEngine, byte_renderer
from toolorchestra.policy.parser import ToolCall, format_calls
from toolorchestra.rollout.episode import Episode, Host
from toolorchestra.rollout.order import EpisodeLimits, Order
from toolorchestra.rollout.trace import Sampling, Trace
from toolorchestra.tasks.grader import Grade, grade, grade_of
from toolorchestra.tasks.gym import ReasoningGymGrader, score
from toolorchestra.tasks.task import GraderSpec, Task
from toolorchestra.tools.view import ExpertView, InstanceView, Price

RENDERER = byte_renderer()
MILLION = Decimal(1_000_000)


def price(dollars_per_token: str) -> Price:
    amount = Decimal(dollars_per_token) * MILLION
    return Price(input_usd_per_million_tokens=amount, output_usd_per_million_tokens=amount)


OAK = ExpertView(alias="oak", pool="pool-cheap", description="good at sums", price=price("0.001"), latency_ms=1000)
ELM = ExpertView(alias="elm", pool="pool-dear", description="good at all", price=price("0.01"), latency_ms=9000)
VIEW = InstanceView(price_book="own", policy_price=price("0.0001"), experts=(ELM, OAK))
QA_TASK = Task(
    id="t1", instruction="2 + 2?", grader=GraderSpec(type="ExactMatch", data={"answer": "4"}), source="s", topic="sums"
)
CHAT_TASK = QA_TASK.model_copy(update={"kind": "Chat"})
LIMITS = EpisodeLimits(max_turns=4, max_prompt_tokens=6000, max_response_tokens=900, timeout_seconds=20.0)

Reply = str | Exception


@dataclass
class FakeExperts:
    """Answers by pool from a table; 10 tokens in, 5 out, $0.5 and 2 s of service for each call."""

    replies: dict[str, Reply | Callable[[], Reply]] = field(default_factory=dict)
    worst_usd: Decimal = Decimal("0.5")
    actual_usd: Decimal = Decimal("0.5")
    asked: list[tuple[str, ChatRequest]] = field(default_factory=list)
    gate: asyncio.Event | None = None
    called: asyncio.Queue[str] = field(default_factory=asyncio.Queue)
    """Pools in the order they are asked: wait for a call with `await called.get()`."""
    in_flight: int = 0
    most_in_flight: int = 0

    def worst_case_usd(self, *, pool: str, request: ChatRequest) -> Decimal:
        return self.worst_usd

    def usage(self, at: Price) -> Usage:
        return Usage(
            tokens_in=10,
            tokens_out=5,
            nominal_usd=at.of(tokens_in=10, tokens_out=5),
            actual_usd=self.actual_usd,
            service_seconds=2.0,
        )

    async def ask(
        self,
        *,
        pool: str,
        request: ChatRequest,
        price: Price,
        task: Task | None = None,
        reserve: Reserve | None = None,
    ) -> ChatReply:
        self.asked.append((pool, request))
        self.called.put_nowait(pool)
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await (self.gate.wait() if self.gate is not None else asyncio.sleep(0))
        finally:
            self.in_flight -= 1
        found = self.replies.get(pool, r"so \boxed{4}")
        reply = found() if callable(found) else found
        if isinstance(reply, Exception):
            raise reply
        return ChatReply(text=reply, usage=self.usage(price))

    async def close(self) -> None: ...


async def grade_now(task: Task, answer: str | None) -> Grade:
    """In this process: the answers are the tests' own."""
    if task.grader.type == "ReasoningGym" and answer is not None:
        return grade_of(score(ReasoningGymGrader().job(task, answer)))
    return grade(task, answer)


def answer(alias: str) -> str:
    return format_calls([ToolCall("answer", {"model": alias})])


def ask(*asked: tuple[str, str]) -> str:
    return format_calls([ToolCall("ask", {"model": alias, "question": question}) for alias, question in asked])


def order_of(task: Task = QA_TASK, *, limits: EpisodeLimits = LIMITS, **fields: Any) -> Order:
    given = {"issue": "uid.0.0.0.0", "task": task, "view": VIEW, "limits": limits, "sampling": Sampling(seed=7)}
    return Order(**{**given, **fields})


def host_of(
    outputs: Iterable[str] | Callable[[str], str] = (), *, experts: FakeExperts | None = None, **fields: Any
) -> Host:
    engine = fields.pop("engine", None) or FakeEngine(RENDERER, outputs)
    return Host(experts=experts or FakeExperts(), grade=grade_now, engine=engine, renderer=RENDERER, **fields)


async def play(order: Order, host: Host) -> Trace:
    return await Episode(order, host=host).run()
