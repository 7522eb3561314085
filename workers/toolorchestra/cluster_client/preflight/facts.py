"""Facts about a cluster for the preflight; frozen. `look` collects them."""

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
    """A fact that is unknown: the user may not read it, or the server gave an error."""

    why: str


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Facts about one cluster and one namespace."""

    served: frozenset[str] = frozenset()
    """Of the resources that the preflight needs, those that the API server serves, such as `rayjobs.ray.io`."""
    namespace: bool | Hidden = True
    operators: tuple[Json, ...] | Hidden = ()
    """Deployments of the operator, in all namespaces."""
    objects: Mapping[Reference, Json | Hidden | None] = field(default_factory=dict[Reference, "Json | Hidden | None"])
    default_class: bool | Hidden = True
    nodes: tuple[Json, ...] | Hidden = ()
    pods: tuple[Json, ...] | Hidden = ()
    """Unfinished pods of all namespaces; they show which GPUs are in use."""
    may: Mapping[tuple[str, str], bool] = field(default_factory=dict[tuple[str, str], bool])
    """(verb, resource) → whether the user has this right."""
    refused: Mapping[str, str] = field(default_factory=dict[str, str])
    """`Kind/name` of a document → why the API server would refuse it."""
    pools: tuple[Json, ...] | Hidden = ()
    """ExpertPools of the namespace on the cluster."""

    def operators_of(self, namespace: str) -> tuple[Json, ...]:
        """Return the Deployments of operators that watch a namespace; empty where they are hidden."""
        return () if isinstance(self.operators, Hidden) else tuple(watching(self.operators, namespace))


def watching(operators: Iterable[Json], namespace: str) -> Iterator[Json]:
    """Yield the operators' Deployments that watch the namespace."""
    for one in operators:
        watched = variables(one).get(WATCHED_VARIABLE) or ""
        if not watched or namespace in split(watched):
            yield one


def variables(deployment: Json) -> dict[str, str]:
    """Return the environment variables of the operator's container; "" where the value is in a Secret."""
    containers = deployment["spec"]["template"]["spec"]["containers"]
    return {each["name"]: each.get("value", "") for one in containers for each in one.get("env") or ()}


def pull_secrets(operators: Iterable[Json], namespace: str) -> tuple[Reference, ...]:
    """Return the image pull secrets of the pods that the operators make in the namespace."""
    names = (name for one in watching(operators, namespace) for name in split(variables(one).get(PULL_VARIABLE) or ""))
    return tuple(Reference("Secret", name) for name in dict.fromkeys(names))


def split(text: str) -> list[str]:
    """Split a comma-separated text into words."""
    return [word.strip() for word in text.split(",") if word.strip()]
