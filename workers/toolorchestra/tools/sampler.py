"""Samples the view of the tools for one group of episodes: subset, price book, aliases, order.

Invariants: a view is a pure function of the random generator's state and the arguments; aliases are distinct; at least
one expert of every view has role Answer, so an instance can always be answered; randomisation changes aliases, never
the names in ledgers.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from typing import Final

from toolorchestra.tools.catalog import Catalog, CatalogError, ExpertTool
from toolorchestra.tools.price_book import OWN, POLICY, PriceBook
from toolorchestra.tools.view import ExpertView, InstanceView, Preference, Price

_ALIAS_STEM: Final = "answer"


class ViewSampler:
    """Draws instances from a catalogue.

    `min_tools` None: always all tools; else a subset with a uniform size between it and all tools.
    `price_books` empty: every tool's own price, under the book's name `own`.
    `aliases` False: experts have their pools' names. (Their order is still random, because a policy must not learn
    positions.) `alias_names`: words to draw aliases from; None: `answer-1`, `answer-2`, …, in random order.

    Raises:
        CatalogError: `min_tools` exceeds the catalogue, fewer distinct alias names than tools, or a price book with an
            unknown tool.
    """

    def __init__(
        self,
        catalog: Catalog,
        *,
        policy_price: Price,
        min_tools: int | None = None,
        price_books: Sequence[PriceBook] = (),
        aliases: bool = True,
        alias_names: Sequence[str] | None = None,
    ) -> None:
        if min_tools is not None and not 1 <= min_tools <= len(catalog):
            raise CatalogError(f"minTools is {min_tools}; there are {len(catalog)} tools")
        names = tuple(dict.fromkeys(alias_names)) if alias_names is not None else None
        if names is not None and len(names) < len(catalog):
            raise CatalogError(f"{len(names)} distinct alias names for {len(catalog)} tools: give at least as many")
        known = {*catalog.names, POLICY}
        for book in price_books:
            stray = sorted(set(book.prices) - known)
            if stray:
                raise CatalogError(
                    f"price book {book.name} has prices for {', '.join(stray)}, which is not a tool of this training"
                )
        self._catalog, self._policy_price, self._min_tools = catalog, policy_price, min_tools
        self._books = tuple(price_books) or (PriceBook(name=OWN),)
        self._aliases, self._alias_names = aliases, names

    def sample(
        self, rng: random.Random, *, tools: Collection[str] | None = None, preference: Preference | None = None
    ) -> InstanceView:
        """Draw one instance. `tools`: the task's own subset, from which the tools are drawn.

        Raises:
            CatalogError: `tools` has an unknown name, or no expert with role Answer.
        """
        catalog = self._catalog.only(tools)
        experts = _subset(catalog, min_tools=self._min_tools, rng=rng)
        rng.shuffle(experts)
        book = rng.choice(self._books)
        return InstanceView(
            price_book=book.name,
            policy_price=book.price(POLICY, own=self._policy_price),
            experts=tuple(
                ExpertView(
                    alias=alias,
                    pool=expert.name,
                    description=expert.description,
                    price=book.price(expert.name, own=expert.price),
                    latency_ms=expert.latency_ms,
                )
                for alias, expert in zip(self._draw_aliases(experts, rng), experts, strict=True)
            ),
            preference=preference,
        )

    def full(self, *, preference: Preference | None = None) -> InstanceView:
        """Return all experts with their own prices and names, in the catalogue's order: for baselines and displays."""
        experts = tuple(
            ExpertView(alias=e.name, pool=e.name, description=e.description, price=e.price, latency_ms=e.latency_ms)
            for e in self._catalog
        )
        return InstanceView(price_book=OWN, policy_price=self._policy_price, experts=experts, preference=preference)

    def _draw_aliases(self, experts: Sequence[ExpertTool], rng: random.Random) -> list[str]:
        if not self._aliases:
            return [expert.name for expert in experts]
        names = self._alias_names or tuple(f"{_ALIAS_STEM}-{n}" for n in range(1, len(experts) + 1))
        return rng.sample(names, len(experts))


def _subset(catalog: Catalog, *, min_tools: int | None, rng: random.Random) -> list[ExpertTool]:
    """Draw a random subset with an expert that may answer: draw such an expert first, the others from the rest."""
    experts = list(catalog)
    if min_tools is None:
        return experts
    size = rng.randint(min(min_tools, len(experts)), len(experts))
    sure = rng.choice([expert for expert in experts if expert.answers])
    return [sure, *rng.sample([expert for expert in experts if expert is not sure], size - 1)]
