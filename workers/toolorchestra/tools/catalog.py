"""The catalogue: all tools that a training may show, with their real properties before randomisation."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from toolorchestra.tools.view import Price

ANSWER = "Answer"
"""The role of an expert that may give the final answer."""


class ToolError(Exception):
    """Base of the errors of tools."""


class CatalogError(ToolError):
    """The tools cannot make up an instance. The text says what to change."""


@dataclass(frozen=True)
class ExpertTool:
    """An expert as its pool declares it. `roles`: those of the pool: `Search`, `Reason`, `Answer`, …"""

    name: str
    """Name of the pool: the key of ledgers, price books and preferences."""
    description: str
    price: Price
    latency_ms: int
    """Expected latency of one call, in ms."""
    roles: frozenset[str] = frozenset({ANSWER})

    @property
    def answers(self) -> bool:
        return ANSWER in self.roles


class ToolRefused(ToolError):
    """A function tool cannot do anything with its arguments. The text is what the policy is told."""


class FunctionTool(Protocol):
    """Interface of tools that are not models (search, retrieval, code, domain functions)."""

    @property
    def name(self) -> str: ...

    @property
    def schema(self) -> Mapping[str, Any]:
        """JSON schema of the function, in OpenAI's form."""

    async def execute(self, arguments: Mapping[str, Any]) -> str:
        """Run the function, and return the observation as text."""


class Catalog:
    """Experts by name, in the given order.

    Raises:
        CatalogError: no expert, two experts of one name, or none with role Answer.
    """

    def __init__(self, experts: Sequence[ExpertTool]) -> None:
        self._experts = {expert.name: expert for expert in experts}
        if len(self._experts) < len(experts):
            names = [expert.name for expert in experts]
            raise CatalogError(f"two experts are named {next(n for n in names if names.count(n) > 1)!r}")
        if not any(expert.answers for expert in experts):
            raise CatalogError(f"no expert has the role {ANSWER}: add it to the roles of an ExpertPool")

    def __len__(self) -> int:
        return len(self._experts)

    def __iter__(self) -> Iterator[ExpertTool]:
        return iter(self._experts.values())

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._experts)

    def only(self, names: Collection[str] | None) -> Catalog:
        """Return the catalogue of the named tools; None: all tools.

        Raises:
            CatalogError: the catalogue does not have a name.
        """
        if names is None:
            return self
        missing = sorted(set(names) - set(self._experts))
        if missing:
            raise CatalogError(f"no tool {', '.join(missing)}; there are {', '.join(self._experts)}")
        return Catalog([expert for expert in self if expert.name in names])
