"""What must be true when a run has ended, from its journal, its checkpoint and the provider's own bill."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal

from faults.plan import Plan
from faults.provider import Bill, Charge
from faults.trainers import fingerprint, trained_by
from toolorchestra.controller.assemble import SampleFilters, train_samples
from toolorchestra.ledger.history import History, account, read_history
from toolorchestra.ledger.journal import Frame, Kind, read_frames
from toolorchestra.rollout.codec import decode_trace
from toolorchestra.rollout.trace import Call, Trace
from toolorchestra.runs.run_dir import RunDir
from toolorchestra.weights.checkpoint import CheckpointStore

FILTERS = SampleFilters(require_format=False, require_answer=False)


@dataclass
class Verdict:
    """`problems` empty: all is exact."""

    problems: list[str] = field(default_factory=list[str])
    figures: dict[str, float | int | str] = field(default_factory=dict[str, "float | int | str"])


def judge(plan: Plan, run: RunDir, bill: Bill, *, held: Decimal) -> Verdict:
    """Hold the ledger against what happened. `held`: dollars that were still reserved at the end."""
    verdict = Verdict()
    frames = list(read_frames(run.journal))
    history = read_history(frames)
    traces = {str(f.head["issue"]): decode_trace(f.body) for f in frames if f.kind is not Kind.NOTE and f.body}
    _fates(plan, history, verdict)
    _trained(run, history, traces, verdict)
    _money(history, traces, bill, verdict, held=held)
    _figures(frames, history, verdict)
    return verdict


def _fates(plan: Plan, history: History, verdict: Verdict) -> None:
    """Every accepted episode has exactly one; nothing was trained too late or on lost weights."""
    try:
        count = account(history)
    except ValueError as error:
        verdict.problems.append(f"ledger: {error}")
        return
    verdict.figures |= {"accepted": count.accepted, "trained": count.trained, "aside": count.set_aside}
    verdict.figures |= {"excluded": count.excluded, "open": count.open}
    if not count.exact or count.open:
        verdict.problems.append(f"ledger: {count}")
    if sorted(history.steps) != list(range(1, plan.steps + 1)):
        missing = sorted(set(range(1, plan.steps + 1)) - set(history.steps))
        verdict.problems.append(f"steps: {len(history.steps)} of {plan.steps}, missing {missing[:5]}")
    for dispatch, step in history.trained().items():
        accepted = history.accepted[dispatch]
        if not history.survives(accepted.newest):
            verdict.problems.append(f"step {step} trained {dispatch} of lost weights {accepted.newest}")
        lag = step - 1 - accepted.oldest.step
        if not 0 <= lag <= plan.combination.staleness:
            verdict.problems.append(f"step {step} trained {dispatch}, {lag} steps behind")


def _trained(run: RunDir, history: History, traces: dict[str, Trace], verdict: Verdict) -> None:
    """What the trainers were given, in the history that survived, is what the journal says, each once."""
    checkpoint = CheckpointStore(run.checkpoints).latest()
    if checkpoint is None:
        verdict.problems.append("there is no checkpoint")
        return
    given = Counter(name for batch in trained_by(checkpoint.path) for name in batch)
    told = Counter(
        fingerprint(sample)
        for dispatch in history.trained()
        if (trace := traces.get(str(dispatch))) is not None
        for sample in train_samples(trace, advantage=0.0, filters=FILTERS)
    )
    # A policy that is sure of itself samples the same twice for one prompt: so many times is it told, too.
    twice = sum(number for name, number in (given - told).items() if name in told)
    if twice:
        verdict.problems.append(f"trainers: {twice} samples were trained twice")
    if given != told:
        more, fewer = (given - told).total(), (told - given).total()
        verdict.problems.append(f"trainers: {more} samples that the journal lacks, {fewer} that it names and they lack")


def _money(history: History, traces: dict[str, Trace], bill: Bill, verdict: Verdict, *, held: Decimal) -> None:
    """Nothing that a provider could charge is missing, and what was answered counts exactly."""
    verdict.problems += [f"cap: {text}" for text in bill.over]
    if history.spent < bill.total:
        verdict.problems.append(f"money: ${history.spent} settled, ${bill.total} charged by the provider")
    by_mark: dict[str, list[Charge]] = defaultdict(list)
    for charge in bill.charges:
        if charge.mark:
            by_mark[charge.mark].append(charge)
    wrong: Counter[str] = Counter()
    examples: dict[str, str] = {}
    told = set()
    for dispatch, trace in traces.items():
        for call in _calls(trace):
            mark = str(call.arguments.get("question", "")).partition("#")[2]
            told.add(mark)
            if what := _differs(call, by_mark.get(mark, [])):
                wrong[what] += 1
                examples.setdefault(what, f"{dispatch} #{mark}: ${call.meter.actual_usd}, {call.observation[:60]!r}")
    for what, number in wrong.most_common():
        verdict.problems.append(f"money: {number} calls {what}, as {examples[what]}")
    unseen = sum((c.usd for mark, charges in by_mark.items() if mark not in told for c in charges), Decimal(0))
    blind = history.spent - sum((trace.components.actual_usd for trace in traces.values()), Decimal(0))
    if unseen > blind + held:
        verdict.problems.append(
            f"money: ${unseen} charged in plays that no trace tells of, ${blind} settled and ${held} held for such"
        )
    verdict.figures |= {"unseen_usd": round(float(unseen), 4), "blind_usd": round(float(blind), 4)}
    verdict.figures["held_usd"] = round(float(held), 4)
    verdict.figures |= {"charged_usd": round(float(bill.total), 4), "settled_usd": round(float(history.spent), 4)}
    verdict.figures["cap_usd"] = round(float(bill.cap), 2)


def _calls(trace: Trace) -> Iterator[Call]:
    return (call for turn in trace.turns for call in turn.calls)


def _differs(call: Call, charges: list[Charge]) -> str:
    """What is wrong with a call's bill; empty: nothing."""
    if not call.arguments.get("question"):
        return ""
    charged = sum((charge.usd for charge in charges), Decimal(0))
    how = "+".join(sorted({charge.how for charge in charges})) or "nothing"
    if call.meter.actual_usd < charged:
        return f"({how}, {call.status}) are billed below the provider's charge"
    answered = len(charges) == 1 and charges[0].how in ("ok", "reasoning")
    if call.status == "ok" and answered and call.meter.actual_usd != charged:
        return f"({how}) were answered and are not billed exactly"
    return ""


def _figures(frames: list[Frame], history: History, verdict: Verdict) -> None:
    reasons = Counter(str(f.head.get("reason")) for f in frames if f.kind is Kind.UNSCORED)
    results = sum(f.kind is not Kind.NOTE for f in frames)
    verdict.figures |= {
        "episodes": results,
        "lates": history.late,
        "deferrals": reasons["expert_unavailable"],
        "unscored": history.unscored,
        "incarnations": len(history.incarnations),
        "dropped": len(history.dropped),
    }
