"""Builds catalogue and sampler of a training from its resources."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from toolorchestra.api.model import ExpertPrice, TokenPrice
from toolorchestra.api.pool import ExpertPool
from toolorchestra.api.suite import Suite as EvaluationSuite
from toolorchestra.api.toolset import PriceBook as PriceBookSpec
from toolorchestra.api.toolset import Tools
from toolorchestra.tools.catalog import ANSWER, Catalog, CatalogError, ExpertTool
from toolorchestra.tools.price_book import PriceBook, PriceEntry
from toolorchestra.tools.sampler import ViewSampler
from toolorchestra.tools.view import Price


def price_of(price: TokenPrice | ExpertPrice) -> Price:
    """Convert a resource's price to the type that the ledgers use."""
    return Price(
        input_usd_per_million_tokens=price.input_usd_per_million_tokens,
        output_usd_per_million_tokens=price.output_usd_per_million_tokens,
        per_call_usd=price.per_call_usd if isinstance(price, ExpertPrice) else 0,
    )


def build_catalog(pools: Iterable[ExpertPool], *, descriptions: Mapping[str, str] | None = None) -> Catalog:
    """Return the catalogue of the pools with role Answer. A judge or a user simulator is not a tool.

    `descriptions`: texts of `descriptionFrom` by pool name; they override the pool's own description.

    Raises:
        CatalogError: no pool has role Answer, or a pool has no description.
    """
    descriptions = descriptions or {}
    experts = []
    for pool in pools:
        name, spec = pool.metadata.name, pool.spec
        if ANSWER not in spec.roles:
            continue
        description = descriptions.get(name, spec.description)
        if description is None:
            raise CatalogError(f"ExpertPool {name} has no description: the policy chooses by it; set spec.description")
        experts.append(
            ExpertTool(
                name=name,
                description=description,
                price=price_of(spec.price),
                latency_ms=spec.expected_latency_milliseconds,
                roles=frozenset(spec.roles),
            )
        )
    return Catalog(experts)


def build_sampler(
    catalog: Catalog, tools: Tools, *, policy_price: Price, suite: EvaluationSuite | None = None
) -> ViewSampler:
    """Return the sampler for `spec.tools`. Price books and aliases of an evaluation suite override those of the spec.

    Raises:
        CatalogError: the randomisation does not fit the catalogue, or the spec has functions.
    """
    if tools.functions:
        names = ", ".join(function.name for function in tools.functions)
        raise CatalogError(f"spec.tools.functions: {names}: functions are not supported yet; leave them out")
    randomize = tools.randomize
    price_books = (suite.price_books if suite else None) or randomize.price_books
    alias_names = (suite.alias_names if suite else None) or randomize.alias_names
    return ViewSampler(
        catalog,
        policy_price=policy_price,
        min_tools=randomize.min_tools,
        price_books=[_book(book) for book in price_books],
        aliases=randomize.aliases,
        alias_names=alias_names,
    )


def _book(spec: PriceBookSpec) -> PriceBook:
    entries = {
        price.name: PriceEntry(
            input_usd_per_million_tokens=price.input_usd_per_million_tokens,
            output_usd_per_million_tokens=price.output_usd_per_million_tokens,
            per_call_usd=price.per_call_usd,
        )
        for price in spec.prices
    }
    return PriceBook(name=spec.name, prices=entries)
