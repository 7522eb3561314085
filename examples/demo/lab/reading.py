"""Synthetic reading: tool lists and questions about them, so that a small base can look up what it has been shown.

Nothing here says which expert suits which task: in chats the expert that is quoted is drawn at random. What the base
gets is what any real base model brings: the chat format, copying, comparing numbers, and what a question is about.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from toolorchestra.controller.format_traces import naive_route
from toolorchestra.policy.prompts import qa_messages, qa_tools
from toolorchestra.tasks.task import GraderSpec, Task
from toolorchestra.tools.view import ExpertView, InstanceView, Price

from .tokens import PRICES

SUBJECTS = (
    "sums", "products", "prime factors", "primes", "letters", "spelling", "legs", "animals", "words", "numbers",
    "fractions", "equations", "algebra", "geometry", "logic", "puzzles", "chess", "music", "history", "law",
    "medicine", "chemistry", "physics", "biology", "poems", "stories", "code", "tables", "dates", "maps",
    "recipes", "grammar", "translation", "planning", "sorting", "counting", "search", "proofs", "graphs", "units",
)  # fmt: skip
HEADS = (
    "exact at", "careful with", "expert in", "good at", "strong at", "trained on", "made for", "best at", "counts",
    "finds", "knows", "loves", "reads", "checks", "writes", "solves", "weak at", "new to",
)  # fmt: skip
GENERAL = (
    "frontier model for any problem", "small quick model for simple problems", "large model for hard problems",
    "old model for many problems", "general model for most questions", "tiny model for short questions",
    "slow deep model for any question", "cheap model for simple questions", "open model for many questions",
)  # fmt: skip
LATENCIES_MS = (300, 500, 800, 1000, 1500, 2000, 2500, 3000, 4000, 5000, 6000, 7000, 8000, 9000, 12000, 15000, 20000)


@dataclass(frozen=True)
class Turn:
    """What is asked, and the answer that is to be learned."""

    question: str
    answer: str


def description(rng: random.Random) -> str:
    """What an expert may say of itself."""
    kind = rng.random()
    if kind < 0.15:
        return rng.choice(GENERAL)
    head, *subjects = rng.choice(HEADS), *rng.sample(SUBJECTS, 6)
    if kind < 0.6:
        return f"{head} {subjects[0]} and {subjects[1]}"
    if kind < 0.75:
        return f"{head} {subjects[0]}, {rng.choice(HEADS)} {subjects[1]}"
    if kind < 0.85:
        return f"{head} {subjects[0]}"
    many = rng.randint(3, 6)
    return f"{head} {', '.join(subjects[: many - 1])} and {subjects[many - 1]}"


def view(rng: random.Random, words: Sequence[str], *, most: int) -> InstanceView:
    """A made-up instance of 2 to `most` experts with distinct descriptions, aliases and output prices."""
    n = rng.randint(max(2, most - 3), most)
    described: set[str] = set()
    while len(described) < n:
        described.add(description(rng))
    texts = sorted(described)
    rng.shuffle(texts)
    outs = rng.sample([p for p in PRICES if Decimal(p) >= Decimal("0.1")], n)
    latencies = rng.sample(LATENCIES_MS, n)
    experts = tuple(
        ExpertView(alias=alias, pool=alias, description=text, price=_price(out, rng), latency_ms=latency)
        for alias, text, out, latency in zip(rng.sample(list(words), n), texts, outs, latencies, strict=True)
    )
    return InstanceView(price_book="reading", policy_price=Price(), experts=experts)


def _price(out: str, rng: random.Random) -> Price:
    ins = [p for p in PRICES if Decimal(out) / 10 <= Decimal(p) <= Decimal(out)]
    return Price(input_usd_per_million_tokens=Decimal(rng.choice(ins)), output_usd_per_million_tokens=Decimal(out))


def lookups(seen: InstanceView, rng: random.Random, n: int) -> list[Turn]:
    """Questions that the tool list alone answers."""
    return [_lookup(seen, rng) for _ in range(n)]


def _lookup(seen: InstanceView, rng: random.Random) -> Turn:
    e = rng.choice(seen.experts)
    experts = seen.experts
    match rng.randrange(10):
        case 0 | 1 | 9:
            return Turn(f"Which model is this?\n{e.description}", e.alias)
        case 2:
            return Turn(f"What does it say?\n{e.alias}", e.description)
        case 3:
            return Turn(f"What does it cost?\n{e.alias}", _out(e))
        case 4:
            return Turn(f"What does it cost?\n{e.description}", _out(e))
        case 5:
            cheapest = min(experts, key=_price_out)
            return Turn("Which model is the cheapest?", f"{cheapest.description}\n{cheapest.alias}")
        case 6:
            dearest = max(experts, key=_price_out)
            return Turn("Which model is the dearest?", f"{dearest.description}\n{dearest.alias}")
        case 7:
            fastest = min(experts, key=lambda x: x.latency_ms)
            return Turn("Which model is the fastest?", f"{fastest.description}\n{fastest.alias}")
        case _:
            pair = rng.sample(experts, 2)
            cheaper = min(pair, key=_price_out)
            listed = "\n".join(x.description for x in pair)
            return Turn(f"Which is cheaper?\n{listed}", f"{cheaper.description}\n{cheaper.alias}")


def _price_out(expert: ExpertView) -> Decimal:
    return expert.price.output_usd_per_million_tokens


def _out(expert: ExpertView) -> str:
    return f"${_price_out(expert).normalize():f}"


def document(
    rng: random.Random, words: Sequence[str], questions: Sequence[tuple[str, str]], *, turns: int = 8, most: int = 7
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(messages, tools): half of the time a task first, with a call of anyone, then look-ups; the answers are learned.

    `questions` are (topic, question) pairs of real tasks.
    """
    seen = view(rng, words, most=most)
    spoken: list[Turn] = []
    topic, question = rng.choice(questions)
    task = Task(id="reading", instruction=question, grader=GraderSpec(type="ExactMatch"), source="reading", topic=topic)
    messages = qa_messages(task, seen)
    if rng.random() < 0.6:
        spoken.append(Turn(messages[1]["content"], naive_route(task, seen, rng, match_probability=0.0)))
    elif rng.random() < 0.25:
        spoken.append(Turn(f"Name the topic.\n{question}", topic.replace("_", " ")))
    spoken += lookups(seen, rng, turns - len(spoken))
    said = [m for t in spoken for m in (("user", t.question), ("assistant", t.answer))]
    return [messages[0], *({"role": r, "content": c} for r, c in said)], qa_tools(seen)
