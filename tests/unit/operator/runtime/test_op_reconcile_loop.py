"""The workers: what follows each way in which a look can end, and that none of them ends a worker."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest

from toolorchestra.kube.errors import ApiError, Conflict, Forbidden, Invalid, Throttled, Unavailable
from toolorchestra.telemetry import setup as telemetry
from toolorchestra_operator.kubernetes.backoff import Backoff
from toolorchestra_operator.kubernetes.manifest import Key, Manifest, Ref
from toolorchestra_operator.messaging.servers import MessagingPending, MessagingUnreachable
from toolorchestra_operator.planning.carry_out import NameTaken
from toolorchestra_operator.planning.plan import Emit, Plan
from toolorchestra_operator.runtime.key_queue import KeyQueue
from toolorchestra_operator.runtime.liveness import Pulse
from toolorchestra_operator.runtime.metrics import Meter, Outcome
from toolorchestra_operator.runtime.reconcile_loop import ReconcileLoop, Reconciler
from toolorchestra_operator.runtime.refused import refused

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
KEY = Key("OrchestratorTraining", "team", "math")
OTHER = Key("OrchestratorTraining", "team", "code")
ABOUT: dict[str, Any] = {"verb": "create", "resource": "Job team/math-1-head (batch/v1)"}


def forbidden() -> Forbidden:
    return Forbidden('jobs.batch is forbidden: User "operator" cannot create resource "jobs"', code=403, **ABOUT)


@dataclass
class Seen:
    parent: Manifest


@dataclass
class World:
    """A reconciler and what it works on, in memory. `outcomes`: what each look of a key does; the last one repeats."""

    outcomes: Mapping[Key, list[Plan | Exception | None]]
    now: float = 1000.0
    looks: list[tuple[Key, float]] = field(default_factory=list)
    done: list[Plan] = field(default_factory=list)
    status: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.queue = KeyQueue(clock=lambda: self.now)
        self.meter = Meter()
        self.loop = ReconcileLoop(
            queue=self.queue,
            reconcilers={"OrchestratorTraining": Reconciler(lambda key: self.observe(key), self.reconcile)},
            find=self.find,
            carry_out=self.carry_out,
            backoff=Backoff(draw=lambda: 0.5),
            meter=self.meter,
            now=lambda: NOW,
            draw=lambda: 0.5,
        )

    def parent(self, key: Key) -> Manifest:
        return {
            "apiVersion": "toolorchestra.dev/v1alpha1",
            "kind": key.kind,
            "metadata": {"namespace": key.namespace, "name": key.name, "uid": "u", "generation": 3},
            "status": self.status,
        }

    async def observe(self, key: Key) -> Seen | None:
        number = len([one for one, _ in self.looks if one == key])
        self.looks.append((key, self.now))
        planned = self.outcomes[key]
        self.next = planned[min(number, len(planned) - 1)]
        if isinstance(self.next, Exception):
            raise self.next
        return None if self.next is None else Seen(self.parent(key))

    def reconcile(self, observed: Seen, now: datetime) -> Plan:
        assert now == NOW
        assert isinstance(self.next, Plan)
        return self.next

    async def find(self, key: Key) -> Manifest | None:
        return self.parent(key)

    async def carry_out(self, plan: Plan, *, parent: Manifest) -> None:
        self.done.append(plan)
        if plan.status is not None:
            self.status = dict(plan.status)

    async def looked(self, times: int, *, key: Key = KEY) -> list[float]:
        """Let `times` looks happen, with the time between them passing at once; the pauses."""
        self.queue.add(key)
        for _ in range(times):
            wait = self.queue.wait()
            assert wait is not None, f"nothing follows after {len(self.looks)} looks"
            self.now += wait
            taken = self.queue.take()
            assert taken is not None
            await self.loop.look(taken)
        at = [when for _, when in self.looks]
        return [round(later - earlier, 3) for earlier, later in itertools.pairwise(at)]

    def count(self, name: str, **labels: str) -> float:
        return self.meter.registry.get_sample_value(f"toolorchestra_operator_{name}", labels) or 0.0


def world(*outcomes: Plan | Exception | None) -> World:
    return World({KEY: list(outcomes)})


async def test_a_steady_resource_is_left_alone_until_the_resync() -> None:
    steady = world(Plan())
    await steady.looked(1)
    assert steady.queue.wait() is None
    assert not steady.done
    assert steady.count("reconcile_seconds_count", kind=KEY.kind, outcome="unchanged") == 1


async def test_a_plan_is_carried_out_and_its_requeue_obeyed() -> None:
    planned = Plan((Emit("Normal", "Accepted", ""),), {"attempt": 1}, requeue_after=30.0)
    changing = world(planned, Plan(requeue_after=7.0), Plan())
    assert await changing.looked(3) == [30.0, 7.0]
    assert changing.done == [planned]
    assert changing.queue.wait() is None
    assert changing.count("actions_total", kind=KEY.kind, action="Emit") == 1
    assert changing.count("actions_total", kind=KEY.kind, action="Status") == 1


async def test_a_parent_that_is_gone_is_forgotten() -> None:
    gone = world(None)
    await gone.looked(1)
    assert gone.queue.wait() is None
    assert gone.count("reconcile_seconds_count", kind=KEY.kind, outcome="gone") == 1


async def test_a_conflict_is_looked_at_again_at_once_but_not_for_ever() -> None:
    pauses = await world(Conflict("changed", code=409, **ABOUT)).looked(9)
    assert pauses[:5] == [0.1] * 5
    assert pauses[5:] == [16.0, 30.0, 30.0]


async def test_throttling_waits_as_long_as_the_server_says_whatever_happens() -> None:
    throttled = world(Throttled("slow down", code=429, retry_after=12.0, **ABOUT), Plan())
    await throttled.looked(1)
    throttled.queue.add(KEY)
    assert throttled.queue.wait() == pytest.approx(12.0)


async def test_an_api_server_that_is_away_is_asked_at_most_every_half_minute_and_at_least() -> None:
    away = world(Unavailable("connection refused", **ABOUT))
    assert await away.looked(10) == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]
    assert not away.done, "nobody can be told"


async def test_any_other_error_backs_off_up_to_the_resync_and_starts_anew_after_a_success() -> None:
    broken = world(*[ValueError("a bug")] * 12, Plan(), ValueError("a bug"))
    pauses = await broken.looked(13)
    assert pauses[:4] == [0.5, 1.0, 2.0, 4.0]
    assert max(pauses) == 300.0
    assert await broken.looked(2) == [*pauses, 0.1, 0.5]
    assert broken.count("reconcile_failures_total", kind=KEY.kind, error="ValueError") == 14
    (said,) = broken.status["conditions"]
    assert (said["type"], said["status"], said["reason"]) == ("Accepted", "False", "OperatorFailed")
    assert "ValueError: a bug" in said["message"]
    (told,) = (plan for plan in broken.done if plan.status is not None)
    assert [type(action) for action in told.actions] == [Emit], "once, with an event"


async def test_events_of_a_failing_look_do_not_make_it_spin() -> None:
    broken = world(ValueError("a bug"))
    await broken.looked(8)
    for _ in range(20):
        broken.queue.add(KEY)
        await broken.looked(1)
    at = [when for _, when in broken.looks][8:]
    assert all(later - earlier >= 0.999 for earlier, later in itertools.pairwise(at))


async def test_a_refusal_is_said_on_the_resource_once_and_tried_at_the_pace_of_the_resync() -> None:
    denied = world(forbidden())
    denied.status = {"attempt": 2, "conditions": []}
    pauses = await denied.looked(9)
    assert pauses[-1] == 300.0
    assert len(denied.done) == 1, "it is said once"
    [condition] = denied.status["conditions"]
    assert (condition["type"], condition["status"], condition["reason"]) == ("Accepted", "False", "Forbidden")
    assert 'cannot create resource "jobs"' in condition["message"]
    assert "service account" in condition["message"]
    assert condition["observedGeneration"] == 3
    assert denied.status["attempt"] == 2, "the rest of the status stays"
    assert [type(action) for action in denied.done[0].actions] == [Emit]


@pytest.mark.parametrize("changed", [False, True])
async def test_what_was_seen_of_it_is_told_beside_a_refusal(changed: bool) -> None:
    """A plan writes its status last: what runs must not stand still in it because of what may not be made. Unless the
    parent has changed since: then it is about another one."""
    ready = {"type": "ClusterReady", "status": "True", "reason": "ClusterReady", "message": ""}
    accepted = {"type": "Accepted", "status": "True", "reason": "Accepted", "message": ""}
    wanted = Plan((Emit("Normal", "ClusterReady", "not told"),), {"step": 3, "conditions": [ready, accepted]})
    denied = world(wanted)
    carry_out, find = denied.carry_out, denied.find

    async def deny(plan: Plan, *, parent: Manifest) -> None:
        if plan is wanted:
            raise forbidden()
        await carry_out(plan, parent=parent)

    async def find_changed(key: Key) -> Manifest | None:
        live = await find(key)
        assert live is not None
        return {**live, "metadata": {**live["metadata"], "resourceVersion": "another"}}

    object.__setattr__(denied.loop, "carry_out", deny)
    if changed:
        object.__setattr__(denied.loop, "find", find_changed)
    await denied.looked(3)
    found = {one["type"]: one["status"] for one in denied.status["conditions"]}
    assert found == {"Accepted": "False"} | ({} if changed else {"ClusterReady": "True"})
    assert denied.status.get("step") == (None if changed else 3)
    (said,) = denied.done
    assert len(said.actions) == len(found), "each change is an event"


async def test_a_name_that_is_taken_for_a_moment_is_not_worth_a_word() -> None:
    error = NameTaken(Ref("v1", "Service", "team", "math-1"), "Service x (u2)")
    short = world(error, error, Plan())
    await short.looked(3)
    assert not short.done
    long = world(error)
    await long.looked(4)
    assert long.status["conditions"][0]["reason"] == "NameTaken"


async def test_that_a_refusal_cannot_be_said_ends_nothing() -> None:
    denied = world(forbidden(), Plan())

    async def deaf(plan: Plan, *, parent: Manifest) -> None:
        raise forbidden()

    object.__setattr__(denied.loop, "carry_out", deaf)
    await denied.looked(2)


async def test_nats_that_is_away_is_told_on_the_resource_and_asked_again_soon() -> None:
    """A plan writes its status last: without this, nobody would see why it is never carried out."""
    away = world(MessagingUnreachable("NATS at nats://nats:4222: no answer in time"))
    pauses = await away.looked(12)
    assert max(pauses) == 30.0, "NATS that is back should not wait long for us"
    (condition,) = away.status["conditions"]
    assert (condition["type"], condition["status"]) == ("MessagingReady", "False")
    assert (condition["reason"], condition["message"]) == (
        "MessagingUnreachable",
        "NATS at nats://nats:4222: no answer in time",
    )
    assert len(away.done) == 1, "said once"


async def test_nats_that_has_not_answered_yet_is_asked_again_and_nothing_is_told() -> None:
    slow = world(MessagingPending("NATS at nats://nats:4222: it has not answered yet"))
    assert set(await slow.looked(8)) == {1.0}
    assert not slow.done


@pytest.mark.parametrize("error", [forbidden(), Invalid("spec.replicas: must be positive", code=422, **ABOUT)])
def test_what_is_said_of_a_refusal_is_said_again_only_when_it_changes(error: Forbidden | Invalid) -> None:
    parent: dict[str, Any] = {"metadata": {"generation": 1}, "status": {}}
    first = refused(parent, error, NOW)
    assert first.status is not None
    assert refused({**parent, "status": first.status}, error, NOW).empty
    other = Forbidden("another right", code=403, **ABOUT)
    assert not refused({**parent, "status": first.status}, other, NOW).empty


async def test_a_look_that_hangs_is_cut_off() -> None:
    hanging = world(Plan())

    async def hang(key: Key) -> Seen | None:
        await asyncio.Event().wait()
        raise AssertionError

    hanging.observe = hang  # type: ignore[method-assign]
    object.__setattr__(hanging.loop, "pass_seconds", 0.01)
    await asyncio.wait_for(hanging.looked(1), 10)
    assert hanging.count("reconcile_failures_total", kind=KEY.kind, error="TimeoutError") == 1
    assert KEY in hanging.queue


async def running(subject: World, until: asyncio.Event) -> Pulse:
    """A worker at real time, until something has happened; then it is cancelled."""
    subject.queue.clock, pulse = asyncio.get_running_loop().time, Pulse()
    worker = asyncio.create_task(subject.loop.work(pulse))
    await asyncio.wait_for(until.wait(), 20)
    assert pulse.running
    worker.cancel()
    with pytest.raises(asyncio.CancelledError):
        await worker
    return pulse


async def test_no_error_ends_a_worker() -> None:
    errors: list[Plan | Exception | None] = [ValueError("a bug"), KeyError("b"), Unavailable("away", **ABOUT), None]
    subject = World({KEY: [ApiError("?", **ABOUT), Plan()], OTHER: errors})
    subject.queue.add(KEY)
    subject.queue.add(OTHER)
    ended, looked = asyncio.Event(), subject.meter.looked

    def meter(key: Key, *, seconds: float, outcome: Outcome) -> None:
        looked(key, seconds=seconds, outcome=outcome)
        if outcome == "gone":
            ended.set()

    subject.meter.looked = meter  # type: ignore[method-assign]
    pulse = await running(subject, ended)
    assert len(subject.looks) == 6
    assert not pulse.running, "the probe sees that it has ended"


async def test_a_look_that_is_cancelled_leaves_its_key_in_the_queue() -> None:
    subject, begun = world(Plan((Emit("Normal", "Accepted", ""),))), asyncio.Event()

    async def slow(plan: Plan, *, parent: Manifest) -> None:
        begun.set()
        await asyncio.Event().wait()

    object.__setattr__(subject.loop, "carry_out", slow)
    subject.queue.add(KEY)
    pulse = await running(subject, begun)
    assert KEY in subject.queue
    assert not pulse.running


async def test_only_looks_that_did_something_or_failed_have_a_span(monkeypatch: pytest.MonkeyPatch) -> None:
    set_up = telemetry.configure(
        service="operator", environ={"OTEL_TRACES_EXPORTER": "memory", "TOOLORCHESTRA_SPANS": "default"}, install=False
    )
    assert set_up.provider is not None
    assert set_up.memory is not None
    tracer = set_up.provider.get_tracer("test")
    monkeypatch.setattr("toolorchestra_operator.runtime.reconcile_loop.tracer", lambda: tracer)
    subject = world(Plan(requeue_after=1.0), Plan((Emit("Normal", "Accepted", ""),), requeue_after=1.0), ValueError())
    await subject.looked(3)
    spans = set_up.memory.get_finished_spans()
    assert [span.name for span in spans] == ["reconcile", "reconcile"]
    assert [dict(span.attributes or {}) for span in spans] == [
        {"toolorchestra.training": "math", "k8s.namespace.name": "team", "toolorchestra.actions": ("Emit",)},
        {"toolorchestra.training": "math", "k8s.namespace.name": "team", "error.type": "ValueError"},
    ]
