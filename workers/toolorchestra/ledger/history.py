"""Builds the history from a journal, and decides what of it survives a return to a checkpoint. Pure functions.

Every accepted dispatch has exactly one fate: `trained` in a step of the surviving history, `excluded` with a reason,
`set_aside` because its weights did not survive (or became stale), or `open` while the run continues.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from decimal import Decimal
from functools import lru_cache
from typing import Any

from toolorchestra.ledger.dispatch_set import DispatchSet
from toolorchestra.ledger.journal import Frame, Kind
from toolorchestra.policy.version import PolicyVersion
from toolorchestra.rollout.identity import Dispatch


@dataclass(frozen=True)
class Accepted:
    """An accepted dispatch. `oldest` and `newest` are the versions of its tokens; `at` is the offset of its frame."""

    issue: Dispatch
    oldest: PolicyVersion
    newest: PolicyVersion
    at: int = 0


ScoredKey = tuple[str, str, int | None, str]
"""Suite, system, step of the version, task."""


@dataclass(frozen=True)
class Evaluation:
    """One system on one suite. `version` pins the policy's weights."""

    suite: str
    system: str
    version: str | None = None

    def key(self, task: str) -> ScoredKey:
        step = None if self.version is None else PolicyVersion.parse(self.version).step
        return self.suite, self.system, step, task


@dataclass
class History:
    """Everything in a journal that recovery and accounting need.

    `resume.condense` removes what no return to a checkpoint can bring back, and leaves counts in `settled`.
    """

    incarnations: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    """Pairs of an incarnation and the step at which it started."""
    opened: dict[int, int] = field(default_factory=dict[int, int])
    """Group → live step at its latest opening."""
    accepted: dict[Dispatch, Accepted] = field(default_factory=dict[Dispatch, Accepted])
    fate: dict[Dispatch, str] = field(default_factory=dict[Dispatch, str])
    """Dispatch → `excluded:<reason>` or `set_aside:<reason>`."""
    dropped: set[int] = field(default_factory=set[int])
    steps: dict[int, tuple[Dispatch, ...]] = field(default_factory=dict[int, tuple[Dispatch, ...]])
    """Surviving optimizer steps → the dispatches that each of them trained."""
    allowances: dict[str, Decimal] = field(default_factory=dict[str, Decimal])
    """Dispatches whose bill has not come → the reserved dollars."""
    withdrawn: dict[str, float] = field(default_factory=dict[str, float])
    """The dead ones among them that a worker may have played → Unix time at which their worst case counts."""
    presumed: dict[str, Decimal] = field(default_factory=dict[str, Decimal])
    """Dispatches that count their worst case until their bill comes after all."""
    evaluations: dict[str, Evaluation] = field(default_factory=dict[str, Evaluation])
    """Evaluations, by the uid of their episodes."""
    scored: dict[ScoredKey, tuple[str, str | None]] = field(default_factory=dict[ScoredKey, tuple[str, str | None]])
    """Scored tasks of evaluations → the dispatch, and the policy version to which it was pinned."""
    recorded: DispatchSet = field(default_factory=DispatchSet)
    """Every dispatch whose result is in the journal, whatever the result was."""
    settled: dict[str, int] = field(default_factory=dict[str, int])
    """Accepted dispatches that were condensed, by fate: `trained`, or as in `fate`."""
    spent: Decimal = Decimal(0)
    late: int = 0
    unscored: int = 0
    end: int = 0

    @property
    def incarnation(self) -> int:
        return self.incarnations[-1][0] if self.incarnations else -1

    def survives(self, version: PolicyVersion) -> bool:
        """Return whether every later return to a checkpoint kept these weights."""
        return all(version.step <= step for inc, step in self.incarnations if inc > version.incarnation)

    def evaluated(self, dispatch: str, *, task: str) -> None:
        """Record that an evaluation's dispatch was scored."""
        if (evaluation := self.evaluations.get(Dispatch.parse(dispatch).episode.uid)) is not None:
            self.scored[evaluation.key(task)] = dispatch, evaluation.version

    def scored_before(self, evaluation: Evaluation, *, task: str) -> str | None:
        """Return a dispatch that already scored the task for this evaluation: same suite, system and weights.

        Surviving versions of one step have the same weights, whichever incarnation names them."""
        dispatch, version = self.scored.get(evaluation.key(task), (None, None))
        if version is not None and not self.survives(PolicyVersion.parse(version)):
            return None
        return dispatch

    def trained(self) -> dict[Dispatch, int]:
        """Return dispatch → the surviving step that trained it. ValueError if one was trained twice."""
        found: dict[Dispatch, int] = {}
        for step, dispatches in self.steps.items():
            for dispatch in dispatches:
                if dispatch in found:
                    raise ValueError(f"dispatch {dispatch} was trained in steps {found[dispatch]} and {step}")
                found[dispatch] = step
        return found


def read_history(frames: Iterable[Frame]) -> History:
    """Return the history of the journal's frames, oldest first."""
    history = History()
    for frame in frames:
        enter(history, frame)
    return history


def enter(history: History, frame: Frame) -> None:
    """Add one frame of the journal to the history."""
    history.end = frame.end
    if frame.kind is Kind.NOTE:
        _note(history, frame.head)
    elif frame.kind is not Kind.UNDECODABLE:
        _result(history, frame)


_version = lru_cache(maxsize=64)(PolicyVersion.parse)


def _result(history: History, frame: Frame) -> None:
    text, usd = str(frame.head["issue"]), Decimal(frame.head["usd"])
    if frame.kind is Kind.ACCEPTED:
        dispatch = Dispatch.parse(text)
        versions = _version(frame.head["oldest"]), _version(frame.head["newest"])
        history.accepted[dispatch] = Accepted(dispatch, *versions, at=frame.start)
    elif frame.kind is Kind.LATE:
        history.late += 1
    elif frame.kind is Kind.EVALUATED:
        if frame.head["scored"]:
            history.evaluated(text, task=frame.head["task"])
    else:
        history.unscored += 1
    history.recorded.add(text)
    history.allowances.pop(text, None)
    history.withdrawn.pop(text, None)
    history.spent += usd - history.presumed.pop(text, Decimal(0))


def _note(history: History, head: dict[str, Any]) -> None:
    match head["note"]:
        case "incarnation":
            history.incarnations.append((head["incarnation"], head["step"]))
            history.steps = {s: dispatches for s, dispatches in history.steps.items() if s <= head["step"]}
            history.opened = {number: live for number, live in history.opened.items() if live <= head["step"]}
        case "opened":
            for number in head["groups"]:
                history.opened[number] = head["step"]
                history.dropped.discard(number)
        case "issued":
            amount = Decimal(head["allowance"] or 0)
            history.allowances.update({text: amount for text in head["issues"] if amount > 0})
        case "released":
            for text in head["issues"]:
                history.allowances.pop(text, None)
                history.withdrawn.pop(text, None)
        case "withdrawn":
            history.withdrawn.update({text: head["until"] for text in head["issues"] if text in history.allowances})
        case "presumed":
            for text in head["issues"]:
                history.presumed[text] = history.allowances.pop(text)
                history.withdrawn.pop(text, None)
                history.spent += history.presumed[text]
        case "evaluation":
            history.evaluations[head["uid"]] = Evaluation(head["suite"], head["system"], head["version"])
        case "dropped":
            history.dropped.add(head["group"])
            _end(history, head["issues"], f"excluded:{head['reason']}")
        case "set_aside":
            history.dropped.update(head.get("groups", ()))
            _end(history, head["issues"], f"set_aside:{head['reason']}")
        case "step":
            history.steps[head["step"]] = tuple(Dispatch.parse(text) for text in head["issues"])
        case "spent":
            history.spent += Decimal(head["usd"])
        case _:
            pass  # notes for people: lost, checkpoint


def _end(history: History, dispatches: Iterable[str], fate: str) -> None:
    for text in dispatches:
        history.fate[Dispatch.parse(text)] = fate


@dataclass(frozen=True)
class Recovery:
    """The start of a new incarnation at the checkpoint of step `step`."""

    incarnation: int
    step: int
    next_group: int
    restore: dict[int, tuple[Accepted, ...]]
    """Groups that were unfinished at the checkpoint, with their accepted results."""
    set_aside: tuple[Dispatch, ...]
    """Accepted results whose weights did not survive. Their episodes are dispatched again."""


def recover(history: History, *, step: int) -> Recovery:
    """Return what stays, what is set aside, and the next group number (ledger.md, "Incarnations"). Pure."""
    reopened = [number for number, live in history.opened.items() if live > step]
    left = {
        i.episode.group for s, dispatches in history.steps.items() if s <= step for i in dispatches
    } | history.dropped
    going = {number for number, live in history.opened.items() if live <= step and number not in left}
    standing: dict[int, list[Accepted]] = {number: [] for number in sorted(going)}
    aside: list[Dispatch] = []
    gone = {i for s, dispatches in history.steps.items() if s <= step for i in dispatches} | set(history.fate)
    for dispatch, accepted in history.accepted.items():
        if dispatch in gone:
            continue
        newest = accepted.newest
        kept = dispatch.episode.group in going and newest.step <= step and history.survives(newest)
        if kept:
            standing[dispatch.episode.group].append(accepted)
        else:
            aside.append(dispatch)
    return Recovery(
        incarnation=history.incarnation + 1,
        step=step,
        next_group=min(reopened, default=max(history.opened, default=-1) + 1),
        restore={number: tuple(results) for number, results in standing.items()},
        set_aside=tuple(aside),
    )


@dataclass(frozen=True)
class Account:
    """Accepted dispatches by fate. If `accepted != trained + excluded + set_aside + open`, the ledger is wrong."""

    accepted: int
    trained: int
    excluded: int
    set_aside: int
    open: int
    reasons: dict[str, int]

    @property
    def exact(self) -> bool:
        return self.accepted == self.trained + self.excluded + self.set_aside + self.open


def account(history: History) -> Account:
    """Count each accepted dispatch by its one fate. ValueError if one has two fates."""
    trained = history.trained()
    both = set(trained) & set(history.fate)
    if both:
        raise ValueError(f"dispatch {min(both)} was trained, but it is also {history.fate[min(both)]}")
    unknown = (set(trained) | set(history.fate)) - set(history.accepted)
    if unknown:
        raise ValueError(f"dispatch {min(unknown)} was trained or ended, but it was never accepted")
    fates = Counter(history.settled) + Counter(history.fate.values()) + Counter(trained=len(trained))
    kinds = Counter[str]()
    for fate, n in fates.items():
        kinds[fate.partition(":")[0]] += n
    return Account(
        accepted=len(history.accepted) + sum(history.settled.values()),
        trained=kinds["trained"],
        excluded=kinds["excluded"],
        set_aside=kinds["set_aside"],
        open=len(history.accepted) - len(trained) - len(history.fate),
        reasons={fate: n for fate, n in fates.items() if fate != "trained"},
    )
