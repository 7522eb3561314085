"""What the controller sets aside for an episode has room for all that its worker reserves: one computation."""

from __future__ import annotations

import json
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from support.real_run import TINY_RUN
from toolorchestra.api.cluster import Limits
from toolorchestra.api.pool import ExpertPool
from toolorchestra.api.training import OrchestratorTraining
from toolorchestra.controller.settings import Settings, SettingsError, episode_limits, settings_of
from toolorchestra.experts.build import build_endpoint
from toolorchestra.experts.chat import ChatReply, ChatRequest, Reserve
from toolorchestra.experts.client import ExpertClient
from toolorchestra.experts.errors import ExpertRefused
from toolorchestra.experts.metering import worst_case_usd as attempt_of
from toolorchestra.experts.usage import Usage
from toolorchestra.experts.worst_case import attempt_usd, episode_usd, most_prompt_bytes
from toolorchestra.policy.fake import FakeEngine, byte_renderer
from toolorchestra.policy.parser import ToolCall, format_calls
from toolorchestra.rollout.episode import Episode, Host
from toolorchestra.rollout.order import Order
from toolorchestra.rollout.trace import Ending, Sampling
from toolorchestra.tasks.grader import Grade, grade
from toolorchestra.tasks.task import GraderSpec, Task
from toolorchestra.tools.view import ExpertView, InstanceView, Price

DOCUMENTS: list[dict[str, Any]] = list(yaml.safe_load_all((TINY_RUN / "training.yaml").read_text()))
POOLS = tuple(ExpertPool.model_validate(one) for one in DOCUMENTS[1:])
RENDERER = byte_renderer()


def training(tasks: list[dict[str, Any]], folder: Path, **rollout: Any) -> OrchestratorTraining:
    file = folder / "tasks.jsonl"
    file.write_text("\n".join(map(json.dumps, tasks)))
    spec = DOCUMENTS[0]["spec"] | {
        "tasks": {"sources": [{"name": "f", "type": "JSONL", "jsonl": {"uri": f"file://{file}"}}]},
        "limits": {"maxSpendUSD": "1000"},
        "evaluation": {"everySteps": 100},
        "rollout": DOCUMENTS[0]["spec"]["rollout"] | {"maxPromptTokens": 200_000, "maxResponseTokens": 4_000} | rollout,
    }
    return OrchestratorTraining.model_validate(DOCUMENTS[0] | {"spec": spec})


def task(number: int, *, text: str, kind: str = "QA") -> dict[str, Any]:
    grader = {"type": "ExactMatch", "data": {"answer": "4"}}
    return {"id": f"t{number}", "instruction": f"{number}: {text}", "topic": "x", "kind": kind, "grader": grader}


def settings(tasks: list[dict[str, Any]], folder: Path, **rollout: Any) -> Settings:
    one = training(tasks, folder, **rollout)
    return settings_of(one, POOLS, find=lambda uri: Path(uri.removeprefix("file://")))


class AtTheirWorst:
    """The real client's reservations; every call takes all of its own, and an attempt is lost before the first."""

    def __init__(self) -> None:
        endpoints = [build_endpoint(pool, secrets=lambda _: "", url="http://x/v1") for pool in POOLS]
        self.client = ExpertClient(endpoints)
        self.lost = False

    def worst_case_usd(self, *, pool: str, request: ChatRequest) -> Decimal:
        return self.client.worst_case_usd(pool=pool, request=request)

    async def ask(self, *, pool: str, request: ChatRequest, reserve: Reserve, **fields: Any) -> ChatReply:
        worst = self.worst_case_usd(pool=pool, request=request)
        wasted = Decimal(0)
        if not self.lost:
            assert reserve(worst), "there is room for an attempt after one that was lost"
            self.lost, wasted = True, worst
        return ChatReply(text="5", usage=Usage(actual_usd=worst + wasted, wasted_usd=wasted))

    async def close(self) -> None: ...


async def graded(one: Task, answer: str | None) -> Grade:
    return grade(one, answer)


@pytest.mark.parametrize("kind", ["QA", "Chat"])
async def test_a_question_of_20_kilobytes_fits(kind: str, tmp_path: Path) -> None:
    """So do six calls at once, and one attempt that is lost."""
    tasks = [task(number, text="x" * 20_000, kind=kind) for number in range(20)]
    made = settings(tasks, tmp_path, maxTurns=2)
    view = InstanceView(
        price_book="own",
        policy_price=Price(),
        experts=(ExpertView(alias="large", pool="large", description="d", price=Price(), latency_ms=1),),
    )
    if kind == "QA":
        outputs = [format_calls([ToolCall("answer", {"model": "large"})])]
    else:
        question = {"model": "large", "question": "y" * 300}
        outputs = [format_calls([ToolCall("ask", question)] * 6)] * 2
    order = Order(
        issue="u.0.0.0.0",
        task=Task(
            **tasks[0] | {"source": "f", "grader": GraderSpec(type="ExactMatch", data={"answer": "4"}), "kind": kind}
        ),
        view=view,
        limits=made.instances.limits,
        sampling=Sampling(),
        allowance_usd=made.allowance,
    )
    host = Host(experts=AtTheirWorst(), grade=graded, engine=FakeEngine(RENDERER, outputs), renderer=RENDERER)
    trace = await Episode(order, host=host).run()
    assert trace.ending is (Ending.ANSWERED if kind == "QA" else Ending.TURN_LIMIT), trace.detail
    assert len([call for turn in trace.turns for call in turn.calls if call.status == "ok"]) == (
        1 if kind == "QA" else 12
    )
    assert 0 < trace.components.actual_usd <= made.allowance


def test_a_run_without_a_cap_knows_its_worst_case_too(tmp_path: Path) -> None:
    """It is what an unknown bill counts."""
    capped = training([task(number, text="a") for number in range(20)], tmp_path)
    free = capped.model_copy(update={"spec": capped.spec.model_copy(update={"limits": Limits()})})
    made = settings_of(free, POOLS, find=lambda uri: Path(uri.removeprefix("file://")))
    assert made.cap is None
    assert (
        made.allowance == settings_of(capped, POOLS, find=lambda uri: Path(uri.removeprefix("file://"))).allowance > 0
    )


def test_only_chats_call_several_experts_at_once(tmp_path: Path) -> None:
    answers = settings([task(number, text="a") for number in range(20)], tmp_path, maxTurns=10).allowance
    chats = settings([task(number, text="a", kind="Chat") for number in range(20)], tmp_path, maxTurns=10).allowance
    assert chats == answers / 11 * 61


def test_a_budget_is_the_allowance(tmp_path: Path) -> None:
    budget = {"episodeBudget": {"maxUSD": "0.5"}}
    assert settings([task(number, text="a") for number in range(20)], tmp_path, **budget).allowance == Decimal("0.5")


@given(st.text(max_size=500), st.integers(1, 200), st.one_of(st.none(), st.integers(1, 9000)))
def test_no_request_that_is_sent_reserves_more_than_the_pools_limits(text: str, limit: int, most: int | None) -> None:
    pool = build_endpoint(POOLS[1], secrets=lambda _: "")
    pool = replace(pool, limits=replace(pool.limits, max_input_tokens=limit))
    request = ChatRequest(messages=({"role": "user", "content": text},), max_output_tokens=most)
    bound = attempt_usd(pool.price, prompt_bytes=most_prompt_bytes(limit), max_output=pool.limits.max_output_tokens)
    if request.size_bytes <= most_prompt_bytes(limit):
        assert attempt_of(pool, request) <= bound


async def test_what_is_longer_is_not_sent() -> None:
    pool = build_endpoint(POOLS[1], secrets=lambda _: "")
    pool = replace(pool, limits=replace(pool.limits, max_input_tokens=100))
    request = ChatRequest(messages=({"role": "user", "content": "é" * 200},))
    assert request.size_bytes > most_prompt_bytes(100)
    async with ExpertClient([pool]) as experts:
        with pytest.raises(ExpertRefused, match="the model takes 100"):
            await experts.ask(pool=pool.pool, request=request, price=Price())


def test_no_expert_costs_nothing() -> None:
    assert episode_usd([], calls=9) == 0


def test_limits_have_the_parallel_calls_of_the_parser() -> None:
    spec = OrchestratorTraining.model_validate(DOCUMENTS[0]).spec
    assert episode_limits(spec).max_parallel_calls == 6


def refused(spec: dict[str, Any]) -> str:
    """What is said of the tiny training with these changes to its spec, before anything is started."""
    document = yaml.safe_load(yaml.safe_dump(DOCUMENTS[0]))
    for part, fields in spec.items():
        document["spec"].setdefault(part, {}).update(fields)
    training = OrchestratorTraining.model_validate(document)
    with pytest.raises(SettingsError) as found:
        settings_of(training, POOLS, find=Path)
    return str(found.value)


def test_a_cap_in_which_no_group_fits_is_refused_before_baselines_are_paid_for() -> None:
    budget = {"episodeBudget": {"maxUSD": "0.3"}}
    said = refused({"limits": {"maxSpendUSD": "0.59"}, "rollout": budget})
    assert "spec.limits.maxSpendUSD: 0.59 is less than one group may cost: 2 episodes of at most $0.3 each" in said
    fits = yaml.safe_load(yaml.safe_dump(DOCUMENTS[0]))
    fits["spec"] |= {"limits": {"maxSpendUSD": "0.60"}, "rollout": fits["spec"]["rollout"] | budget}
    assert settings_of(OrchestratorTraining.model_validate(fits), POOLS, find=Path).cap == Decimal("0.60")


def test_a_budget_that_pays_for_no_call_is_refused() -> None:
    said = refused({"rollout": {"episodeBudget": {"maxUSD": "0"}}})
    assert "spec.rollout.episodeBudget.maxUSD: 0 is too low for any call" in said
