"""What is tried: the combinations, how often each fault comes, when things are killed. Plain data, drawn by a seed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from decimal import Decimal
from itertools import product
from typing import Literal

GROUPS, SIBLINGS = 8, 4
"""Groups per step and episodes per group."""
ALLOWANCE = Decimal("0.15")
"""Most that one episode may spend: `episodeBudget.maxUSD`."""
USUAL_USD = Decimal("0.006")
"""About what an episode costs here, faults included: from it follows where the first cap stands."""

Bus = Literal["memory", "nats"]
Engines = Literal["scripted", "vllm"]
OnStale = Literal["Wait", "Drop"]
KINDS = (
    "worker",
    "controller",
    "engine",
    "actor",
    "nats",
    "outage",
    "orders",
    "messages",
    "replies",
    "caps",
    "resumes",
)
"""Faults that can be left out by name; `orders` are those that get lost."""


@dataclass(frozen=True)
class Combination:
    """One cell of the table."""

    bus: Bus
    staleness: int
    on_stale: OnStale
    engines: Engines = "scripted"

    @property
    def name(self) -> str:
        tail = "" if self.engines == "scripted" else f"-{self.engines}"
        return f"{self.bus}-s{self.staleness}-{self.on_stale.lower()}{tail}"

    @property
    def when_short(self) -> str:
        """Both are tried with both buses and both bounds."""
        return "Refill" if (self.staleness > 1) == (self.bus == "memory") else "Shrink"


def combinations(*, engines: Engines = "scripted") -> Iterator[Combination]:
    """All of them; with real engines, which are slow, one of each bus and each rule. Where nothing can be stale there
    is nothing to drop, and the training is refused: Drop is tried with a bound of 1 instead of 0."""
    rules: list[tuple[int, OnStale]] = [(0, "Wait"), (4, "Wait"), (1, "Drop"), (4, "Drop")]
    buses: list[Bus] = ["memory", "nats"]
    found = [Combination(bus, *rule, engines=engines) for bus, rule in product(buses, rules)]
    yield from found if engines == "scripted" else (found[1], found[7])


@dataclass(frozen=True)
class MessageRates:
    """Shares of messages."""

    lost_order: float = 0.0008
    """Taken by the bus and never delivered."""
    refused: float = 0.003
    """The bus is not there: BusUnavailable, not taken."""
    lost_ack: float = 0.006
    """Taken, but the sender hears BusUnavailable."""
    twice: float = 0.02
    """A result comes twice in a row, or once more much later."""
    unacked: float = 0.01
    """The controller's acknowledgement is lost: the next controller gets the result again."""


NO_MESSAGE_FAULTS = MessageRates(0, 0, 0, 0, 0)


@dataclass(frozen=True)
class ReplyRates:
    """Shares of an expert's replies; what is left is answered."""

    throttled: float = 0.01
    busy: float = 0.004
    """503, free."""
    broken: float = 0.003
    """500 or 502: half of them had reached the model and are billed."""
    gateway: float = 0.002
    """504 or 524, billed."""
    dropped: float = 0.003
    """The connection ends before the headers, billed."""
    cut: float = 0.003
    """The connection ends inside the body, billed."""
    hung: float = 0.0005
    """No answer within the client's patience, billed."""
    no_usage: float = 0.005
    """Answered and billed; usage is all zero, absent, or odd."""
    reasoning: float = 0.005
    """Answered; the reasoning tokens are in the total only."""
    refused: float = 0.007
    """400: the content. Free."""
    error: float = 0.002
    """200 with half a text and `finish_reason: error`, billed."""
    empty: float = 0.003
    """200 with nothing in it, billed."""


NO_REPLY_FAULTS = ReplyRates(*[0.0] * 12)


@dataclass(frozen=True)
class Event:
    """`at`: how many generations the engines have answered when it is due."""

    at: int
    kind: str


@dataclass(frozen=True)
class Plan:
    """One combination's run. Everything random is drawn from `seed`, as far as processes let it be."""

    combination: Combination
    episodes: int
    seed: int
    without: frozenset[str] = frozenset()
    messages: MessageRates = field(default_factory=MessageRates)
    replies: ReplyRates = field(default_factory=ReplyRates)

    def __post_init__(self) -> None:
        if "messages" in self.without:
            object.__setattr__(self, "messages", NO_MESSAGE_FAULTS)
        if "orders" in self.without:
            object.__setattr__(self, "messages", replace(self.messages, lost_order=0.0))
        if "replies" in self.without:
            object.__setattr__(self, "replies", NO_REPLY_FAULTS)

    @property
    def real(self) -> bool:
        """Real engines: everything takes longer, and a policy that really samples says what it likes."""
        return self.combination.engines == "vllm"

    @property
    def slower(self) -> float:
        """By what every wait is longer than with scripted engines."""
        return 10.0 if self.real else 1.0

    @property
    def steps(self) -> int:
        return max(4, -(-self.episodes // (GROUPS * SIBLINGS)))

    @property
    def in_flight(self) -> int:
        """Episodes under way at most."""
        return (self.combination.staleness + 1) * GROUPS * SIBLINGS

    @property
    def caps(self) -> tuple[Decimal, Decimal]:
        """The first pauses the run somewhere in its middle; the second, which a person sets then, is enough for all."""
        whole = self.episodes * USUAL_USD
        group = SIBLINGS * ALLOWANCE
        enough = 5 * whole + 6 * self.in_flight * ALLOWANCE
        return enough if "caps" in self.without else max(whole * Decimal("0.4"), group) + 2 * group, enough

    def rng(self, *what: object) -> random.Random:
        """A stream of its own for everything that draws."""
        return random.Random(f"{self.seed}/{self.combination.name}/{'/'.join(map(str, what))}")

    def events(self) -> list[Event]:
        """When what is killed: more of it in longer runs, all of it before the last tenth."""
        rng, scale = self.rng("events"), max(1.0, (self.episodes / 10_000) ** 0.5)
        some = {"worker": 10, "controller": 6, "engine": 5, "actor": 4, "outage": 4, "resumes": 1}
        if self.combination.bus == "nats":
            some["nats"] = 4
        few = self.episodes < 2_000
        found = []
        for kind, number in some.items():
            if kind in self.without:
                continue
            times = max(1, number // 4) if few else round(number * scale)
            found += [Event(int(self.episodes * rng.uniform(0.03, 0.9)), kind) for _ in range(times)]
        return sorted(found, key=lambda event: event.at)
