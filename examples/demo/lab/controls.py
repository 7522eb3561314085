"""Positive controls: worlds in which the right choice is known, from easy to the demo's own. See docs/demo.md.

(a) the cheapest of three is right, whatever the task and the descriptions; (b) two topics and two tools whose
descriptions say nothing about the topics; (c) four topics and four of the demo's experts, with prices; (d) what (c)
learned, under aliases and prices that it never saw. Each fails if the prompt hides what is needed, the parser or the
alias map mixes experts up, the combiner's or the objective's sign is wrong, or the base cannot read.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from decimal import Decimal

from toolorchestra.policy.parser import THINK_CLOSE, THINK_OPEN, ToolCall, format_calls
from toolorchestra.tasks.task import Task
from toolorchestra.tools.view import ExpertView, InstanceView, Price

from .routing import Instance, Judge
from .world import DemoWorld, Outcome

Instances = Callable[[int], Instance]
TOPICS = ("chain_sum", "products", "letter_counting", "prime_factorization")
EXPERTS = ("sage", "abacus", "scribe", "tally")
"""(c): for two of the topics an honest description shares a word with the topic, for two none does."""
LEVELS = {
    "cheapest": (("0.1", "0.12", "0.15"), ("0.2", "0.25", "0.3")),
    "middle": (("0.5", "0.6", "0.8"), ("1", "1.2", "1.5")),
    "dearest": (("2", "2.5", "3"), ("7", "8", "9")),
}
"""Control (a): what an expert of each level costs, in and out, US dollars per million tokens."""
SAYINGS = ("knows maps", "loves chess", "reads music", "writes poems", "checks code", "strong at law")
MATCHES = {"chain_sum": "knows maps", "spell_backward": "loves chess"}
"""Control (b): which description is right for which topic; nothing but the reward says so."""


def of_topics(world: DemoWorld, topics: Sequence[str], *, held_out: bool = False) -> Callable[[int], Task]:
    """The n-th task of these topics, from the training stream or the held-out tasks."""
    suite = world.suite
    pool = suite.held_out(suite.held_out_size) if held_out else [suite.train_task(i) for i in range(suite.train_size)]
    wanted = [task for task in pool if task.topic in topics]
    return lambda n: wanted[n % len(wanted)]


def cheapest(world: DemoWorld, words: Sequence[str], *, seed: int, held_out: bool = False) -> tuple[Instances, Judge]:
    """(a): three made-up experts, one of each level of price, whatever they say; only the cheapest is right."""
    task = of_topics(world, TOPICS, held_out=held_out)

    def instance(n: int) -> Instance:
        rng = random.Random(f"cheapest/{seed}/{held_out}/{n}")
        levels = rng.sample(sorted(LEVELS), len(LEVELS))
        named = zip(rng.sample(list(words), len(levels)), rng.sample(SAYINGS, len(levels)), levels, strict=True)
        experts = tuple(
            ExpertView(alias=alias, pool=level, description=text, price=_price(level, rng), latency_ms=1000)
            for alias, text, level in named
        )
        return task(n), InstanceView(price_book="cheapest", policy_price=Price(), experts=experts)

    def judge(task: Task, seen: InstanceView, pool: str) -> Outcome:
        lowest = min(seen.experts, key=lambda e: e.price.output_usd_per_million_tokens)
        return Outcome(right=pool == lowest.pool, usd=0.0, seconds=1.0)

    return instance, judge


def _price(level: str, rng: random.Random) -> Price:
    ins, outs = LEVELS[level]
    return Price(
        input_usd_per_million_tokens=Decimal(rng.choice(ins)), output_usd_per_million_tokens=Decimal(rng.choice(outs))
    )


def by_price(task: Task, seen: InstanceView, rng: random.Random) -> list[str]:
    """What (a)'s warm start imitates: each expert called after its level of price is named, all alike often.

    It teaches to read a price, which the base cannot (it tells the cheaper of two no better than chance), and nothing
    about which level is wanted: the policy starts at a third right.
    """
    calls = {e.pool: format_calls([ToolCall("answer", {"model": e.alias})]) for e in seen.experts}
    return [f"{THINK_OPEN}\n{e.pool}\n{e.description}\n{THINK_CLOSE}\n{calls[e.pool]}" for e in seen.experts]


def matching(world: DemoWorld, words: Sequence[str], *, seed: int, held_out: bool = False) -> tuple[Instances, Judge]:
    """(b): two experts at one price; which is right for a topic is fixed and arbitrary."""
    task = of_topics(world, tuple(MATCHES), held_out=held_out)
    price = Price(input_usd_per_million_tokens=Decimal("0.2"), output_usd_per_million_tokens=Decimal("0.4"))

    def instance(n: int) -> Instance:
        rng = random.Random(f"matching/{seed}/{held_out}/{n}")
        texts = rng.sample(sorted(MATCHES.values()), 2)
        experts = tuple(
            ExpertView(alias=alias, pool=text, description=text, price=price, latency_ms=1000)
            for alias, text in zip(rng.sample(list(words), 2), texts, strict=True)
        )
        return task(n), InstanceView(price_book="matching", policy_price=Price(), experts=experts)

    def judge(task: Task, seen: InstanceView, pool: str) -> Outcome:
        return Outcome(right=pool == MATCHES[task.topic], usd=0.0, seconds=1.0)

    return instance, judge


def small_demo(world: DemoWorld, *, seed: int, suite: str | None = None) -> tuple[Instances, Judge]:
    """(c), and (d) with a suite of unseen aliases or prices: four topics, four experts of the demo."""
    task = of_topics(world, TOPICS, held_out=suite is not None)
    sampler = next((s.sampler for s in world.settings.suites if s.name == suite), world.sampler)

    def instance(n: int) -> Instance:
        return task(n), sampler.sample(random.Random(f"small/{seed}/{suite}/{n}"), tools=EXPERTS)

    return instance, world.outcome


def with_seed(world: DemoWorld, seed: int) -> DemoWorld:
    """The world with another draw of who is right on which task, to see that nothing hangs on one."""
    spec = world.table.spec.model_copy(update={"seed": seed})
    return replace(world, table=world.table.model_copy(update={"spec": spec}))
