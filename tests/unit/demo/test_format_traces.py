"""The naive router: honest format, blind to price and skill, right about as often as descriptions are."""

import random
from collections import Counter
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolorchestra.controller.format_traces import (
    MATCH_PROBABILITY,
    choose,
    naive_route,
    naive_router_traces,
    shares_word,
    topic_words,
)
from toolorchestra.policy.parser import Rules, parse
from toolorchestra.policy.prompts import qa_messages, qa_tools
from toolorchestra.tasks.task import GraderSpec, Task
from toolorchestra.tools.view import ExpertView, InstanceView, Price

DESCRIPTIONS = ("exact at sums", "careful with letters", "finds prime factors", "frontier model")


def task(topic: str = "chain_sum") -> Task:
    return Task(id="t", instruction="1 + 1 =", grader=GraderSpec(type="ExactMatch"), source="s", topic=topic)


def view(prices: tuple[str, ...] = ("1", "2", "3", "4"), descriptions: tuple[str, ...] = DESCRIPTIONS) -> InstanceView:
    experts = tuple(
        ExpertView(
            alias=f"answer-{n}",
            pool=f"pool-{n}",
            description=text,
            price=Price(output_usd_per_million_tokens=Decimal(price)),
            latency_ms=1000,
        )
        for n, (text, price) in enumerate(zip(descriptions, prices, strict=True), 1)
    )
    return InstanceView(price_book="own", policy_price=Price(), experts=experts)


@pytest.mark.parametrize(
    ("topic", "description", "alike"),
    [
        ("chain sum", "exact at sums", True),
        ("prime factorization", "finds prime factors", True),
        ("leg counting", "counts legs", True),
        ("letter counting", "careful with letters", True),
        ("number sorting", "sorts anything", True),
        ("chain sum", "small quick model", False),
        ("leg counting", "careful with letters", False),
        ("products", "finds prime factors", False),
        ("", "anything", False),
    ],
)
def test_topic_and_description_share_a_word(topic: str, description: str, alike: bool) -> None:
    assert shares_word(topic, description) is alike


@given(st.text(max_size=20), st.lists(st.text(min_size=1, max_size=30), min_size=1, max_size=6), st.integers(0, 99))
def test_every_trace_is_a_valid_call_of_a_shown_expert(topic: str, descriptions: list[str], seed: int) -> None:
    # The tags themselves cannot be quoted inside the thinking: a parser ends it at the first one.
    descriptions = [d.replace("<", "").replace(">", "") or "x" for d in descriptions]
    seen = view(prices=("1",) * len(descriptions), descriptions=tuple(descriptions))
    text = naive_route(task(topic), seen, random.Random(seed))
    parsed = parse(text, tools=qa_tools(seen), rules=Rules(call_required=True, one_per_tool=True))
    assert parsed.rejection is None
    expert = seen.expert(parsed.calls[0].arguments["model"])
    assert expert is not None
    assert expert.description.strip() in (parsed.thinking or "")


def test_the_choice_does_not_depend_on_prices() -> None:
    dear, cheap = view(("9", "1", "2", "3")), view(("0.1", "7", "8", "9"))
    for seed in range(50):
        a = choose("chain sum", dear.experts, random.Random(seed))
        b = choose("chain sum", cheap.experts, random.Random(seed))
        assert a.pool == b.pool


def test_a_match_is_heeded_as_often_as_it_says() -> None:
    rng, noise = random.Random(3), 1 - MATCH_PROBABILITY
    chosen = Counter(choose("chain sum", view().experts, rng).pool for _ in range(4000))
    assert chosen["pool-1"] / 4000 == pytest.approx(MATCH_PROBABILITY + noise / 4, abs=0.03)
    assert all(chosen[f"pool-{n}"] / 4000 == pytest.approx(noise / 4, abs=0.03) for n in (2, 3, 4))


def test_without_a_match_anyone_is_chosen() -> None:
    rng = random.Random(3)
    chosen = Counter(choose("chess", view().experts, rng).pool for _ in range(4000))
    assert all(count / 4000 == pytest.approx(0.25, abs=0.03) for count in chosen.values())


def test_traces_carry_the_prompt_that_the_policy_will_see() -> None:
    seen = view()
    ((messages, tools, text),) = naive_router_traces([task()], [seen], random.Random(0))
    assert messages == qa_messages(task(), seen)
    assert tools == qa_tools(seen)
    assert text.startswith("<think>\nchain sum\n")
    assert text.endswith("\n</tool_call>")


def test_topics_are_written_as_words() -> None:
    assert topic_words(task("prime_factorization")) == "prime factorization"
    assert topic_words(task("")) == ""
