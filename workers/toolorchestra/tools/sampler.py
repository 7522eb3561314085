"""The sampler draws what one group of episodes sees of the tools: subset, price book, aliases, order.

Invariants: a view is a pure function of the random source's state and the arguments; aliases are distinct; at least
one expert of every view may answer, so an instance is always solvable; ledger names never change, only aliases do.
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

    `min_tools` None: always all tools; else a subset whose size is uniform between it and all of them.
    `price_books` empty: every tool's own price, under the book's name `own`.
    `aliases` False: experts are seen under their pools' names (their order is drawn all the same, for a policy must
    not learn positions). `alias_names`: words to draw aliases from; None: `answer-1`, `answer-2`, …, dealt at random.

    Raises:
        CatalogError: `min_tools` beyond the catalogue, or fewer distinct alias names than tools.
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
                raise CatalogError(f"price book {book.name} prices {', '.join(stray)}, which is no tool here")
        self._catalog, self._policy_price, self._min_tools = catalog, policy_price, min_tools
        self._books = tuple(price_books) or (PriceBook(name=OWN),)
        self._aliases, self._alias_names = aliases, names

    def sample(
        self, rng: random.Random, *, tools: Collection[str] | None = None, preference: Preference | None = None
    ) -> InstanceView:
        """One instance. `tools`: the task's own subset, within which the draw is made.

        Raises:
            CatalogError: `tools` names what is not there, or nothing that may answer.
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
        """Everything, at its own price, under its own name, in the catalogue's order: for baselines and displays."""
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
    """A random subset that holds someone who may answer: one such expert is drawn first, the others from the rest."""
    experts = list(catalog)
    if min_tools is None:
        return experts
    size = rng.randint(min(min_tools, len(experts)), len(experts))
    sure = rng.choice([expert for expert in experts if expert.answers])
    return [sure, *rng.sample([expert for expert in experts if expert is not sure], size - 1)]
