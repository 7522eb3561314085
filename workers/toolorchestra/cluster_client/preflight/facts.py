"""What was found out about a cluster. Frozen facts; `look` fills them in, a test writes them down."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from toolorchestra.cluster_client.preflight.references import Reference

Json = Mapping[str, Any]

WATCHED_VARIABLE = "TOOLORCHESTRA_OPERATOR_WATCH_NAMESPACES"
PULL_VARIABLE = "TOOLORCHESTRA_OPERATOR_IMAGE_PULL_SECRETS"


@dataclass(frozen=True)
class Hidden:
    """Who asks may not see it, or the server did not say."""

    why: str


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Of one cluster and one namespace."""

    served: frozenset[str] = frozenset()
    """Of the resources that matter: those that the API server has, such as `rayjobs.ray.io`."""
    namespace: bool | Hidden = True
    operators: tuple[Json, ...] | Hidden = ()
    """Deployments of the operator, in all namespaces."""
    objects: Mapping[Reference, Json | Hidden | None] = field(default_factory=dict[Reference, "Json | Hidden | None"])
    default_class: bool | Hidden = True
    nodes: tuple[Json, ...] | Hidden = ()
    pods: tuple[Json, ...] | Hidden = ()
    """Pods of all namespaces: what is in use."""
    may: Mapping[tuple[str, str], bool] = field(default_factory=dict[tuple[str, str], bool])
    """(verb, resource) → whether who asks may."""
    refused: Mapping[str, str] = field(default_factory=dict[str, str])
    """`Kind/name` of a document → why the API server would not have it."""
    pools: tuple[Json, ...] | Hidden = ()
    """ExpertPools that are there."""

    def operators_of(self, namespace: str) -> tuple[Json, ...]:
        """Deployments of operators that look after a namespace, as far as they may be seen."""
        return () if isinstance(self.operators, Hidden) else tuple(watching(self.operators, namespace))


def watching(operators: Iterable[Json], namespace: str) -> Iterator[Json]:
    """Those that look after the namespace."""
    for one in operators:
        watched = variables(one).get(WATCHED_VARIABLE) or ""
        if not watched or namespace in split(watched):
            yield one


def variables(deployment: Json) -> dict[str, str]:
    """Of the operator's container; "" where the value is in a Secret."""
    containers = deployment["spec"]["template"]["spec"]["containers"]
    return {each["name"]: each.get("value", "") for one in containers for each in one.get("env") or ()}


def pull_secrets(operators: Iterable[Json], namespace: str) -> tuple[Reference, ...]:
    """What the pods that an operator makes in the namespace pull with."""
    names = (name for one in watching(operators, namespace) for name in split(variables(one).get(PULL_VARIABLE) or ""))
    return tuple(Reference("Secret", name) for name in dict.fromkeys(names))


def split(text: str) -> list[str]:
    """Words with commas between."""
    return [word.strip() for word in text.split(",") if word.strip()]
