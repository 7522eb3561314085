"""Makes measurements for metrics from records: results, steps, evaluations and the ledger. Pure.

Invariants: every number comes from a record that the run keeps anyway, so metrics, metrics.jsonl and the journal agree.
Labels come from closed lists (endings, verdicts, pools, suites, reasons of the code), never from a text of a worker or
an expert. `Recorder.write` gets one of these functions and its record. It calls the function only where metrics are
exported, and an error in it does not end the run.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

from toolorchestra.bus.protocol import Depth
from toolorchestra.controller.arrival import Arrival
from toolorchestra.ledger.journalled import Verdict
from toolorchestra.ledger.ledger import GroupState, Ledger
from toolorchestra.ledger.sibling import SiblingStatus
from toolorchestra.rollout.identity import Dispatch
from toolorchestra.rollout.trace import Ending, Trace
from toolorchestra.telemetry import metrics as m
from toolorchestra.telemetry import names
from toolorchestra.telemetry.metrics import Instrument, Measurement

Purpose = Literal["train", "evaluate"]

POLICY = "policy"
"""Pool label for the policy's own cost and tokens."""
OTHER = "other"
"""Label for values that are in none of the closed lists."""
PHASES = ("generate_wait", "reward", "train", "sync")
ENGINE_STATES = ("starting", "ready", "restarting")
_CAUSES = frozenset(Ending) | {"lost", "restored", "stale", "spend_cap", "weights_lost"}
_WASTED: frozenset[Verdict] = frozenset({"late", "failed", "deferred"})


def beginning() -> Iterator[Measurement]:
    """Yield zeros for the metrics of alerts: a series that begins with its first event cannot show its absence."""
    train = {names.LABEL_PURPOSE: "train"}
    accepted = {names.LABEL_ENDING: Ending.ANSWERED.value, names.LABEL_OUTCOME: "accepted"}
    yield Measurement(m.RESULTS, 0, train | accepted)
    yield Measurement(m.STEPS, 0, {names.LABEL_KIND: "train"})
    yield Measurement(m.DEAD_LETTERS, 0)


def of_dispatch(dispatch: str, *, purpose: str) -> Iterator[Measurement]:
    """Yield the measurement of a dispatch; `again`: not the episode's first dispatch in this incarnation."""
    again = "again" if Dispatch.parse(dispatch).n else "first"
    yield Measurement(m.ISSUES, 1, {names.LABEL_PURPOSE: purpose, names.LABEL_SENDING: again})


def of_dead_letter() -> Iterator[Measurement]:
    """Yield the measurement of one dead letter."""
    yield Measurement(m.DEAD_LETTERS, 1)


# ── results ────────────────────────────────────────────────────────────────────────────────────────────────────────


def of_arrival(arrival: Arrival, *, verdict: Verdict, purpose: Purpose) -> Iterator[Measurement]:
    """Yield the measurements of one result and its verdict. A duplicate was measured when it first came."""
    trace = arrival.trace
    ending = Ending.WORKER_LOST if trace is None else trace.ending
    labels = {names.LABEL_PURPOSE: purpose, names.LABEL_ENDING: ending.value, names.LABEL_OUTCOME: verdict}
    yield Measurement(m.RESULTS, 1, labels)
    if trace is None or verdict == "duplicate":
        return
    yield from _of_trace(trace, purpose=purpose)
    if purpose == "train" and verdict in _WASTED:
        yield from of_wasted([trace], reason=verdict)


def of_wasted(traces: Iterable[Trace], *, reason: str) -> Iterator[Measurement]:
    """Yield the measurements of results that no step will use."""
    labels = {names.LABEL_OUTCOME: reason}
    for trace in traces:
        yield Measurement(m.WASTED, 1, labels)
        yield Measurement(m.WASTED_TOKENS, sum(turn.meter.tokens_out for turn in trace.turns), labels)


def of_excluded(reasons: Iterable[str]) -> Iterator[Measurement]:
    """Yield the measurements of episodes that will not get a result, by reason."""
    for reason, n in Counter(reason if reason in _CAUSES else OTHER for reason in reasons).items():
        yield Measurement(m.EXCLUDED, n, {names.LABEL_ENDING: reason})


def _of_trace(trace: Trace, *, purpose: Purpose) -> Iterator[Measurement]:
    for_what = {names.LABEL_PURPOSE: purpose}
    pools = {expert.pool for expert in trace.view.experts}
    usd: defaultdict[tuple[str, str], float] = defaultdict(float)
    tokens: Counter[tuple[str, str]] = Counter()
    meters = [(POLICY, turn.meter) for turn in trace.turns]
    for turn in trace.turns:
        if turn.meter.service_seconds:
            yield Measurement(m.TURN_TIME, turn.meter.service_seconds, for_what)
        for call in turn.calls:
            pool = call.name if call.name in pools else OTHER
            outcome = {names.LABEL_POOL: pool, names.LABEL_OUTCOME: call.status}
            yield Measurement(m.CALLS, 1, outcome)
            if call.status in ("ok", "refused"):
                yield Measurement(m.CALL_TIME, call.meter.service_seconds, outcome)
            meters.append((pool, call.meter))
    for pool, meter in meters:
        usd[pool, "nominal"] += float(meter.nominal_usd)
        usd[pool, "actual"] += float(meter.actual_usd)
        tokens[pool, "prompt"] += meter.tokens_in
        tokens[pool, "completion"] += meter.tokens_out
    for (pool, price), dollars in usd.items():
        yield Measurement(m.USD, dollars, for_what | {names.LABEL_POOL: pool, names.LABEL_PRICE: price})
    for (pool, kind), n in tokens.items():
        yield Measurement(m.TOKENS, n, for_what | {names.LABEL_POOL: pool, names.LABEL_KIND: kind})
    yield Measurement(m.EPISODE_TIME, trace.components.wall_seconds, for_what)


# ── steps and evaluations ──────────────────────────────────────────────────────────────────────────────────────────


def of_step(row: Mapping[str, Any], lags: Sequence[int]) -> Iterator[Measurement]:
    """Yield the measurements of a step, from its line in metrics.jsonl and the staleness of its episodes (`lags`)."""
    seconds = row["seconds"]
    yield Measurement(m.STEPS, 1, {names.LABEL_KIND: "train" if row["samples"] else "empty"})
    yield Measurement(m.STEP, row["step"])
    yield Measurement(m.STEP_TIME, seconds["total"])
    for phase in PHASES:
        yield Measurement(m.PHASE_TIME, seconds[phase], {names.LABEL_PHASE: phase})
    yield Measurement(m.IDLE, row["trainer_idle_fraction"])
    yield Measurement(m.PAUSE, row["engine_pause_seconds"])
    yield Measurement(m.TRAINED_EPISODES, row["episodes"])
    yield Measurement(m.TRAINED_GROUPS, row["groups_trained"])
    yield Measurement(m.FORKS, row["forks"])
    for reason, n in row["groups_dropped"].items():
        yield Measurement(m.DROPPED_GROUPS, n, {names.LABEL_OUTCOME: reason})
    counted: tuple[tuple[str, Instrument], ...] = (("tokens", m.TRAINER_TOKENS), ("trained_tokens", m.TRAINED_TOKENS))
    for key, instrument in (*counted, *m.TRAIN.items()):
        if key in row:
            yield Measurement(instrument, row[key])
    for lag in lags:
        yield Measurement(m.STALENESS, lag)


def of_warm_step() -> Iterator[Measurement]:
    """Yield the measurement of one step of the warm start."""
    yield Measurement(m.STEPS, 1, {names.LABEL_KIND: "warm"})


def of_evaluation(suite: str, figures: Mapping[str, float]) -> Iterator[Measurement]:
    """Yield the measurements of the status field `evaluation`: step, reward, accuracy, dollars, tasks."""
    for key, instrument in m.EVALUATION.items():
        yield Measurement(instrument, figures[key], {names.LABEL_SUITE: suite})


# ── current state ──────────────────────────────────────────────────────────────────────────────────────────────────


def of_books(ledger: Ledger, *, now: float) -> Iterator[Measurement]:
    """Yield the ledger's groups, episodes and money. `now`: Unix seconds."""
    yield Measurement(m.STEP, ledger.step)
    yield Measurement(m.INCARNATION, ledger.incarnation)
    if ledger.steps is not None:
        yield Measurement(m.STEPS_GOAL, ledger.steps)
    states = Counter(group.state for group in ledger.groups.values())
    for state in GroupState:
        yield Measurement(m.GROUPS, states[state], {names.LABEL_STATE: state.value})
    siblings = [sibling for group in ledger.groups.values() for sibling in group.siblings]
    statuses = Counter(sibling.status for sibling in siblings)
    for status in (SiblingStatus.LIVE, SiblingStatus.DEFERRED, SiblingStatus.WAITING):
        yield Measurement(m.OPEN_EPISODES, statuses[status], {names.LABEL_STATE: status.value})
    oldest = min((s.dispatched_at for s in siblings if s.status is SiblingStatus.LIVE), default=now)
    yield Measurement(m.OLDEST, max(0.0, now - oldest))
    spend = ledger.spend
    yield Measurement(m.SPEND, float(spend.settled), {names.LABEL_STATE: "settled"})
    yield Measurement(m.SPEND, float(spend.held), {names.LABEL_STATE: "reserved"})
    if spend.cap is not None:
        yield Measurement(m.CAP, float(spend.cap))


def of_experts(pools: Iterable[str], *, waited_for: set[str]) -> Iterator[Measurement]:
    """Yield 1 for each expert that episodes wait for, else 0."""
    for pool in pools:
        yield Measurement(m.EXPERT_OUT, float(pool in waited_for), {names.LABEL_POOL: pool})


def of_engines(states: Sequence[str]) -> Iterator[Measurement]:
    """Yield the number of engines by state."""
    found = Counter(states)
    for state in ENGINE_STATES:
        yield Measurement(m.ENGINES, found[state], {names.LABEL_STATE: state})


def of_depth(depth: Depth) -> Iterator[Measurement]:
    """Yield the depth of the bus's queues."""
    for state, n in (("queued", depth.queued), ("leased", depth.leased), ("results", depth.results)):
        yield Measurement(m.QUEUE, n, {names.LABEL_STATE: state})
    yield Measurement(m.REDELIVERED, depth.redelivered)
