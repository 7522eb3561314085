"""Views: always solvable, distinct aliases, prices by the book, the same for the same seed."""

from __future__ import annotations

import random
from collections import Counter
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolorchestra.api.pool import ExpertPool
from toolorchestra.api.suite import Suite as EvaluationSuite
from toolorchestra.api.toolset import Tools
from toolorchestra.tools.build import build_catalog, build_sampler
from toolorchestra.tools.catalog import Catalog, CatalogError, ExpertTool
from toolorchestra.tools.price_book import OWN, PriceBook, PriceEntry
from toolorchestra.tools.sampler import ViewSampler
from toolorchestra.tools.view import Preference, Price

POLICY_PRICE = Price(input_usd_per_million_tokens=Decimal("0.2"), output_usd_per_million_tokens=Decimal("0.2"))
WORDS = tuple(f"word{i}" for i in range(12))


def price(amount: int) -> Price:
    return Price(input_usd_per_million_tokens=Decimal(amount), output_usd_per_million_tokens=Decimal(2 * amount))


def expert(name: str, *roles: str) -> ExpertTool:
    return ExpertTool(
        name=name,
        description=f"does {name}",
        price=price(len(name)),
        latency_ms=1000,
        roles=frozenset(roles or ("Answer",)),
    )


EXPERTS = (
    expert("oak"),
    expert("elms"),
    expert("finder", "Search"),
    expert("thinker", "Reason"),
    expert("yew", "Answer"),
)
catalogs = st.lists(st.sampled_from(EXPERTS), min_size=1, unique_by=lambda e: e.name).filter(
    lambda experts: any(e.answers for e in experts)
)


@given(catalogs, st.integers(1, 5), st.booleans(), st.sampled_from([None, WORDS]), st.integers())
def test_every_view_is_solvable_and_well_formed(
    experts: list[ExpertTool], min_tools: int, aliases: bool, names: tuple[str, ...] | None, seed: int
) -> None:
    catalog = Catalog(experts)
    least = min(min_tools, len(experts))
    books = (
        (PriceBook("dear", {"oak": PriceEntry(output_usd_per_million_tokens=Decimal(99))}),)
        if "oak" in catalog.names
        else ()
    )

    def sampler() -> ViewSampler:
        return ViewSampler(
            catalog,
            policy_price=POLICY_PRICE,
            min_tools=least,
            price_books=books,
            aliases=aliases,
            alias_names=names,
        )

    view = sampler().sample(random.Random(seed))
    assert view == sampler().sample(random.Random(seed))
    pools = [e.pool for e in view.experts]
    shown = [e.alias for e in view.experts]
    assert len(set(pools)) == len(pools) == len(set(shown))
    assert least <= len(pools) <= len(experts)
    assert any(e.answers for e in catalog.only(pools))
    if not aliases:
        assert shown == pools
    elif names:
        assert set(shown) <= set(names)
    else:
        assert sorted(shown) == [f"answer-{n}" for n in range(1, len(pools) + 1)]
    by_name = {e.name: e for e in experts}
    for one in view.experts:
        own = by_name[one.pool]
        assert (one.description, one.latency_ms) == (own.description, own.latency_ms)
        assert one.price.input_usd_per_million_tokens == own.price.input_usd_per_million_tokens
        changed = bool(books) and one.pool == "oak"
        assert one.price.output_usd_per_million_tokens == (99 if changed else own.price.output_usd_per_million_tokens)


def test_aliases_positions_and_subsets_carry_no_information() -> None:
    sampler = ViewSampler(
        Catalog([expert("oak"), expert("elm"), expert("yew")]), policy_price=POLICY_PRICE, min_tools=2
    )
    rng = random.Random(0)
    views = [sampler.sample(rng) for _ in range(3000)]
    assert {len(v.experts) for v in views} == {2, 3}
    alias, first, seen = Counter(), Counter(), Counter()  # type: Counter[str], Counter[str], Counter[str]
    for view in views:
        first[view.experts[0].pool] += 1
        for one in view.experts:
            seen[one.pool] += 1
            alias[f"{one.pool}={one.alias}"] += 1
    assert all(900 < n < 1100 for n in first.values())
    assert all(2350 < n < 2650 for n in seen.values())
    ones = [n for name, n in alias.items() if name.endswith("answer-1")]
    assert all(900 < n < 1100 for n in ones)


def test_without_randomisation_all_tools_are_there() -> None:
    sampler = ViewSampler(Catalog(EXPERTS), policy_price=POLICY_PRICE)
    preference = Preference(instruction="Be quick.", weights={"latency": Decimal(1)})
    view = sampler.sample(random.Random(1), preference=preference)
    assert {e.pool for e in view.experts} == {e.name for e in EXPERTS}
    assert (view.price_book, view.policy_price, view.preference) == (OWN, POLICY_PRICE, preference)
    firsts = Counter(sampler.sample(random.Random(seed)).experts[0].pool for seed in range(1000))
    assert all(120 < firsts[e.name] < 280 for e in EXPERTS), "a policy must not learn positions"
    full = sampler.full()
    assert [(e.alias, e.pool) for e in full.experts] == [(e.name, e.name) for e in EXPERTS]


def test_a_book_prices_the_policy_too_and_books_take_turns() -> None:
    books = [PriceBook("a", {"policy": PriceEntry(per_call_usd=Decimal(1))}), PriceBook("b")]
    sampler = ViewSampler(Catalog(EXPERTS), policy_price=POLICY_PRICE, price_books=books)
    views = [sampler.sample(random.Random(seed)) for seed in range(200)]
    assert {v.price_book for v in views} == {"a", "b"}
    for view in views:
        assert view.policy_price.per_call_usd == (1 if view.price_book == "a" else 0)
        assert view.policy_price.input_usd_per_million_tokens == Decimal("0.2")


def test_a_task_may_name_its_tools() -> None:
    sampler = ViewSampler(Catalog(EXPERTS), policy_price=POLICY_PRICE, min_tools=4)
    view = sampler.sample(random.Random(1), tools=("oak", "finder"))
    assert {e.pool for e in view.experts} == {"oak", "finder"}
    with pytest.raises(CatalogError, match="no tool ash; there are oak, elms"):
        sampler.sample(random.Random(1), tools=("ash",))
    with pytest.raises(CatalogError, match="no expert has the role Answer"):
        sampler.sample(random.Random(1), tools=("finder",))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"min_tools": 6}, "minTools is 6; there are 5"),
        ({"min_tools": 0}, "minTools is 0"),
        ({"alias_names": ("a", "a", "b", "c", "d")}, "4 distinct alias names for 5 tools"),
        ({"price_books": [PriceBook("x", {"ash": PriceEntry()})]}, "price book x has prices for ash"),
    ],
)
def test_what_does_not_fit_is_said(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(CatalogError, match=message):
        ViewSampler(Catalog(EXPERTS), policy_price=POLICY_PRICE, **fields)


def pool(name: str, **spec: Any) -> ExpertPool:
    fields = {
        "description": f"does {name}",
        "price": {"inputUSDPerMillionTokens": "0.8", "outputUSDPerMillionTokens": "1.6", "perCallUSD": "0.01"},
        "expectedLatencyMilliseconds": 3000,
        "type": "Endpoint",
        "endpoint": {"url": "http://simulator/v1", "model": name},
    } | spec
    return ExpertPool.model_validate(
        {
            "apiVersion": "toolorchestra.dev/v1alpha1",
            "kind": "ExpertPool",
            "metadata": {"name": name},
            "spec": {k: v for k, v in fields.items() if v is not None},
        }
    )


def test_a_catalogue_is_built_from_pools() -> None:
    catalog = build_catalog([pool("oak"), pool("judge", roles=["Judge"])])
    (oak,) = catalog
    assert (oak.name, oak.description, oak.latency_ms) == ("oak", "does oak", 3000)
    assert oak.price == Price(
        input_usd_per_million_tokens=Decimal("0.8"),
        output_usd_per_million_tokens=Decimal("1.6"),
        per_call_usd=Decimal("0.01"),
    )
    with pytest.raises(CatalogError, match="ExpertPool elm has no description"):
        build_catalog([pool("elm", description=None)])
    (elm,) = build_catalog([pool("elm", description=None)], descriptions={"elm": "from elsewhere"})
    assert elm.description == "from elsewhere"
    with pytest.raises(CatalogError, match="two experts are named 'oak'"):
        build_catalog([pool("oak"), pool("oak")])
    with pytest.raises(CatalogError, match="no expert has the role Answer"):
        build_catalog([pool("judge", roles=["Judge"])])


def test_a_sampler_is_built_from_the_resource() -> None:
    catalog = build_catalog([pool("oak"), pool("elm")])
    book = {"name": "sale", "prices": [{"name": "oak", "inputUSDPerMillionTokens": "0.1"}]}
    spec = {
        "experts": {"type": "Selector", "selector": {}},
        "randomize": {"priceBooks": [book], "aliasNames": ["a", "b"]},
    }
    sampler = build_sampler(catalog, Tools.model_validate(spec), policy_price=POLICY_PRICE)
    view = sampler.sample(random.Random(0))
    assert view.price_book == "sale"
    assert {e.alias for e in view.experts} == {"a", "b"}
    oak = next(e for e in view.experts if e.pool == "oak")
    assert oak.price.input_usd_per_million_tokens == Decimal("0.1")
    assert oak.price.per_call_usd == Decimal("0.01")

    unseen = EvaluationSuite.model_validate({"name": "unseen", "size": 5, "aliasNames": ["x", "y"]})
    view = build_sampler(catalog, Tools.model_validate(spec), policy_price=POLICY_PRICE, suite=unseen).sample(
        random.Random(0)
    )
    assert ({e.alias for e in view.experts}, view.price_book) == ({"x", "y"}, "sale")

    functions = spec | {"functions": [{"name": "python", "type": "CodeInterpreter"}]}
    with pytest.raises(CatalogError, match="functions are not supported yet"):
        build_sampler(catalog, Tools.model_validate(functions), policy_price=POLICY_PRICE)
