"""The demo's world is what it claims to be: routing pays, nothing simpler does, and the base reads its prompts."""

import json
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from statistics import mean

import pytest
from demo.lab.routing import Choice, Instance, Score, alone
from demo.lab.world import DemoWorld, load_world

from toolorchestra.controller.format_traces import naive_route, shares_word
from toolorchestra.policy.prompts import qa_messages, qa_tools
from toolorchestra.policy.renderer import Renderer

DEMO = Path(__file__).parents[3] / "examples" / "demo"
BASE = DEMO / "base"
COST_SHARE = 0.30


@pytest.fixture(scope="module")
def world() -> DemoWorld:
    return load_world(DEMO)


@pytest.fixture(scope="module")
def suites(world: DemoWorld) -> dict[str, list[Instance]]:
    return {suite.name: world.held_out(suite, seed=0) for suite in world.settings.suites}


def pools_of(instances: Sequence[Instance]) -> list[str]:
    return sorted(e.pool for e in instances[0][1].experts)


def best_of(scores: dict[str, Score]) -> Score:
    return max(scores.values(), key=lambda s: (s.accuracy, -s.usd))


def test_every_suite_is_large_and_varied(suites: dict[str, list[Instance]]) -> None:
    assert set(suites) == {"held-out", "unseen-aliases", "unseen-prices"}
    for instances in suites.values():
        assert len(instances) >= 300
        assert len({task.topic for task, _ in instances}) >= 4
        assert len(pools_of(instances)) >= 4


def test_only_routing_clears_both_bars(world: DemoWorld, suites: dict[str, list[Instance]]) -> None:
    for instances in suites.values():
        attempts = {pool: alone(instances, world.outcome, pool) for pool in pools_of(instances)}
        scores = {pool: Score.of(choices) for pool, choices in attempts.items()}
        best = best_of(scores)
        for pool, score in scores.items():
            assert score.accuracy < best.accuracy or score.usd > COST_SHARE * best.usd, pool
        random_router = Score(mean(s.accuracy for s in scores.values()), mean(s.usd for s in scores.values()))
        assert random_router.accuracy < best.accuracy
        oracle = [
            min(row, key=lambda c: (not c.right, c.usd)) for row in zip(*attempts.values(), strict=True)
        ]  # cheapest right
        assert Score.of(oracle).accuracy > best.accuracy + 0.08
        assert Score.of(oracle).usd < 0.2 * best.usd


def test_no_expert_is_best_everywhere(world: DemoWorld, suites: dict[str, list[Instance]]) -> None:
    instances = suites["held-out"]
    topics = sorted({task.topic for task, _ in instances})

    def accuracy(choices: list[Choice], topic: str) -> float:
        return mean(c.right for c, (task, _) in zip(choices, instances, strict=True) if task.topic == topic)

    table = {p: [accuracy(alone(instances, world.outcome, p), t) for t in topics] for p in pools_of(instances)}
    best = [max(column) for column in zip(*table.values(), strict=True)]
    assert not any(row == best for row in table.values())


def test_the_dearest_costs_at_most_fifty_times_the_cheapest(
    suites: dict[str, list[Instance]], world: DemoWorld
) -> None:
    views = {view.price_book: view for instances in suites.values() for _, view in instances}
    assert len(views) == 5
    for seen in views.values():
        lists = [e.price.output_usd_per_million_tokens for e in seen.experts]
        assert max(lists) / min(lists) <= 50
    for instances in suites.values():
        usd = [Score.of(alone(instances, world.outcome, pool)).usd for pool in pools_of(instances)]
        assert max(usd) / min(usd) <= 50


def test_unseen_means_unseen(world: DemoWorld) -> None:
    spec = world.training.spec
    suites = {suite.name: suite for suite in spec.evaluation.suites}
    seen = set(spec.tools.randomize.alias_names or ())
    unseen = set(suites["unseen-aliases"].alias_names or ())
    assert len(seen) >= 100
    assert len(unseen) >= 100
    assert not seen & unseen
    trained = {(p.name, p.output_usd_per_million_tokens) for b in spec.tools.randomize.price_books for p in b.prices}
    for book in suites["unseen-prices"].price_books or ():
        prices = {(p.name, p.output_usd_per_million_tokens) for p in book.prices}
        assert len(prices & trained) <= 1, f"{book.name} repeats trained prices"


def test_a_description_overpromises(world: DemoWorld, suites: dict[str, list[Instance]]) -> None:
    """Some expert's description matches most topics while it is right less often than the others."""
    instances = suites["held-out"]
    view = instances[0][1]
    topics = sorted({task.topic for task, _ in instances})
    matches = {e.pool: sum(shares_word(t.replace("_", " "), e.description) for t in topics) for e in view.experts}
    loudest = max(matches, key=lambda p: matches[p])
    assert matches[loudest] >= 4
    assert Score.of(alone(instances, world.outcome, loudest)).accuracy < 0.5


def test_what_descriptions_say_is_not_enough(world: DemoWorld, suites: dict[str, list[Instance]]) -> None:
    """Even the luckiest greedy reading of the naive router's traces misses: on some topics only a liar matches."""
    for instances in suites.values():
        scores = {p: Score.of(alone(instances, world.outcome, p)) for p in pools_of(instances)}
        lucky: list[Choice] = []
        for task, view in instances:
            matching = [e for e in view.experts if shares_word(task.topic.replace("_", " "), e.description)]
            assert matching, task.topic
            found = [world.outcome(task, view, e.pool) for e in matching]
            lucky.append(Choice("", any(o.right for o in found), min(o.usd for o in found), 0.0))
        assert Score.of(lucky).accuracy < best_of(scores).accuracy - 0.03


def test_the_base_is_small_and_its_prompts_are_what_transformers_renders(suites: dict[str, list[Instance]]) -> None:
    from transformers import AutoTokenizer

    assert (BASE / "model.safetensors").stat().st_size <= 15_000_000
    config = json.loads((BASE / "config.json").read_text())
    assert config["architectures"] == ["Qwen3ForCausalLM"]
    assert config["tie_word_embeddings"] is False
    renderer, tokenizer = Renderer.load(BASE), AutoTokenizer.from_pretrained(BASE)
    for task, view in suites["held-out"][:12]:
        messages, tools = qa_messages(task, view), qa_tools(view)
        want = tokenizer.apply_chat_template(
            messages, tools=tools, add_generation_prompt=True, tokenize=True, return_dict=False
        )
        assert list(renderer.render(messages, tools=tools)) == list(want)
    assert renderer.stop_token_ids[0] == json.loads((BASE / "generation_config.json").read_text())["eos_token_id"]


def test_words_prices_and_calls_are_few_tokens(world: DemoWorld, suites: dict[str, list[Instance]]) -> None:
    import random

    renderer = Renderer.load(BASE)
    for instances in suites.values():
        for task, view in instances[:60]:
            assert all(len(renderer.encode(e.alias)) == 1 for e in view.experts)
            prices = [e.price.output_usd_per_million_tokens for e in view.experts]
            assert all(len(renderer.encode(f"${Decimal(p).normalize():f}")) == 1 for p in prices)
            text = naive_route(task, view, random.Random(0))
            ids = renderer.encode(text)
            assert renderer.decode(ids) == text
            assert len(ids) < world.settings.instances.limits.max_response_tokens
            prompt = renderer.render(qa_messages(task, view), tools=qa_tools(view))
            assert len(prompt) < 250
