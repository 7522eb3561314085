"""A bundle: all resources of the given files, and checks of their references to each other.

Invariant: a bundle that `load` returned is consistent: names are unique by kind, every named pool exists, and every
selector matches a pool.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from toolorchestra.api.evaluation import Evaluation
from toolorchestra.api.explain import did_you_mean
from toolorchestra.api.mistakes import Mistake, ResourceError
from toolorchestra.api.pool import ExpertPool
from toolorchestra.api.resource import Resource
from toolorchestra.api.schema import Path
from toolorchestra.api.skill_table import SkillTable
from toolorchestra.api.suite import Suite
from toolorchestra.api.synthesis import Synthesis
from toolorchestra.api.toolset import PriceBook, Tools
from toolorchestra.api.training import AuxiliaryModels, OrchestratorTraining

EXPERT_ROLES = frozenset({"Search", "Reason", "Answer", "Call"})

Finding = tuple[Path, str]


def _labels(pool: ExpertPool) -> str:
    return ", ".join(f"{key}={value}" for key, value in pool.metadata.labels.items()) or "no labels"


@dataclass(frozen=True)
class Bundle:
    """Resources by kind, in the order of the files."""

    pools: tuple[ExpertPool, ...] = ()
    trainings: tuple[OrchestratorTraining, ...] = ()
    skill_tables: tuple[SkillTable, ...] = ()
    syntheses: tuple[Synthesis, ...] = ()
    evaluations: tuple[Evaluation, ...] = ()

    @classmethod
    def of(cls, resources: Sequence[Resource]) -> Bundle:
        """Return a bundle with the resources sorted by kind."""
        return cls(
            pools=tuple(one for one in resources if isinstance(one, ExpertPool)),
            trainings=tuple(one for one in resources if isinstance(one, OrchestratorTraining)),
            skill_tables=tuple(one for one in resources if isinstance(one, SkillTable)),
            syntheses=tuple(one for one in resources if isinstance(one, Synthesis)),
            evaluations=tuple(one for one in resources if isinstance(one, Evaluation)),
        )

    def pool(self, name: str) -> ExpertPool | None:
        """Return the pool of that name, or None."""
        return next((pool for pool in self.pools if pool.metadata.name == name), None)

    def experts(self, tools: Tools) -> tuple[ExpertPool, ...]:
        """Return the pools that these tools select by label or name, and that have a role that an episode uses."""
        chosen = tools.experts
        if chosen.selector is not None:
            return tuple(
                pool
                for pool in self.pools
                if chosen.selector.matches(pool.metadata.labels) and EXPERT_ROLES.intersection(pool.spec.roles)
            )
        named = (self.pool(name) for name in chosen.names or ())
        return tuple(pool for pool in named if pool is not None)

    def training(self, name: str | None = None) -> OrchestratorTraining:
        """Return the training of that name, or the only one. ResourceError: there is none, or a name is needed."""
        chosen = [one for one in self.trainings if name is None or one.metadata.name == name]
        if len(chosen) == 1:
            return chosen[0]
        names = [one.metadata.name for one in self.trainings]
        if not names:
            message = "no OrchestratorTraining in the given files"
        elif name is not None:
            message = f"no OrchestratorTraining named {name}; {did_you_mean(name, names)}"
        else:
            message = f"more than one OrchestratorTraining ({', '.join(names)}): say which with --name"
        raise ResourceError([Mistake(file="the given files", message=message)])

    def findings(self, resource: Resource) -> Iterator[Finding]:
        """Yield where a resource contradicts the rest of the bundle: the path, and what would be right."""
        if isinstance(resource, OrchestratorTraining):
            spec = resource.spec
            yield from self._tools(spec.tools, ("spec", "tools"))
            yield from self._auxiliary(spec.models, ("spec", "models"))
            suites = spec.evaluation.suites
            yield from self._suites(spec.tools, suites, ("spec", "evaluation", "suites"))
        elif isinstance(resource, Evaluation):
            yield from self._tools(resource.spec.tools, ("spec", "tools"))
            yield from self._auxiliary(resource.spec.models, ("spec", "models"))
            yield from self._suites(resource.spec.tools, resource.spec.suites, ("spec", "suites"))
            yield from self._systems(resource)
        elif isinstance(resource, Synthesis) and resource.spec.proposer is not None:
            yield from self._named_pool(
                resource.spec.proposer.pool.pool, ("spec", "proposer", "pool", "pool"), role="Writer"
            )

    def _named_pool(self, name: str, path: Path, *, role: str | None) -> Iterator[Finding]:
        pool = self.pool(name)
        if pool is None:
            yield path, f"no ExpertPool named {name} in the given files; {self._known_pools(name)}"
        elif role is not None and role not in pool.spec.roles:
            yield path, f"ExpertPool {name} has roles {', '.join(pool.spec.roles)}; add {role} to them"

    def _known_pools(self, name: str = "") -> str:
        names = [pool.metadata.name for pool in self.pools]
        if not names:
            return "the files contain no ExpertPool: give the pools' file too"
        return did_you_mean(name, names)

    def _auxiliary(self, models: AuxiliaryModels, path: Path) -> Iterator[Finding]:
        if models.judge is not None:
            yield from self._named_pool(models.judge.pool, (*path, "judge", "pool"), role="Judge")
        if models.user_simulator is not None:
            yield from self._named_pool(
                models.user_simulator.pool, (*path, "userSimulator", "pool"), role="UserSimulator"
            )

    def _tools(self, tools: Tools, path: Path) -> Iterator[Finding]:
        for index, name in enumerate(tools.experts.names or ()):
            where = (*path, "experts", "names", index)
            yield from self._named_pool(name, where, role=None)
            pool = self.pool(name)
            if pool is not None and not EXPERT_ROLES.intersection(pool.spec.roles):
                yield where, f"ExpertPool {name} has none of the roles {', '.join(sorted(EXPERT_ROLES))}"
        experts = self.experts(tools)
        if tools.experts.selector is not None and not experts:
            pools = "; ".join(f"{pool.metadata.name} ({_labels(pool)})" for pool in self.pools)
            listed = f"the files contain {pools}" if pools else self._known_pools()
            yield (*path, "experts", "selector"), f"matches no ExpertPool with a role of an expert; {listed}"
            return
        names = {pool.metadata.name for pool in experts}
        for index, function in enumerate(tools.functions):
            if function.name in names:
                yield (*path, "functions", index, "name"), f"{function.name} is also the name of an expert's pool"
        available = len(experts) + len(tools.functions)
        fewest = tools.randomize.min_tools
        if fewest is not None and available and fewest > available:
            yield (*path, "randomize", "minTools"), f"want at most {available} (experts and functions), got {fewest}"
        yield from self._price_books(tools, tools.randomize.price_books, (*path, "randomize", "priceBooks"))

    def _price_books(self, tools: Tools, books: Sequence[PriceBook], path: Path) -> Iterator[Finding]:
        experts = self.experts(tools)
        known = [pool.metadata.name for pool in experts] + [one.name for one in tools.functions] + ["policy"]
        for position, book in enumerate(books):
            for index, price in enumerate(book.prices):
                if price.name not in known:
                    where = (*path, position, "prices", index, "name")
                    yield where, f"no tool named {price.name}; {did_you_mean(price.name, known)}"

    def _suites(self, tools: Tools, suites: Sequence[Suite], path: Path) -> Iterator[Finding]:
        for index, suite in enumerate(suites):
            yield from self._price_books(tools, suite.price_books or (), (*path, index, "priceBooks"))

    def _systems(self, evaluation: Evaluation) -> Iterator[Finding]:
        for index, system in enumerate(evaluation.spec.systems):
            if system.model is not None:
                yield from self._named_pool(system.model.pool, ("spec", "systems", index, "model", "pool"), role=None)
            if system.baseline is not None and system.baseline.pool is not None:
                where: Path = ("spec", "systems", index, "baseline", "pool")
                yield from self._named_pool(system.baseline.pool, where, role=None)
