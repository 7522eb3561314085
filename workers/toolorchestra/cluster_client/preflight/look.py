"""Collects the preflight's facts from a cluster. It only reads, and makes dry runs, which change nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from toolorchestra.cluster_client.errors import (
    ClusterError,
    Conflicting,
    NotAuthorised,
    NotFound,
    NotServed,
    RequestRefused,
    Unreachable,
)
from toolorchestra.cluster_client.preflight.facts import Facts, Hidden, Json, pull_secrets
from toolorchestra.cluster_client.preflight.references import KINDS, Reference
from toolorchestra.kube import kinds

if TYPE_CHECKING:
    from toolorchestra.cluster_client.kube import Kube

T = TypeVar("T")

OPERATOR_LABELS = "app.kubernetes.io/part-of=toolorchestra,app.kubernetes.io/component=operator"
DEFAULT_CLASS = "storageclass.kubernetes.io/is-default-class"
UNFINISHED = "status.phase!=Succeeded,status.phase!=Failed"
INTERESTING = (kinds.TRAININGS, kinds.POOLS, kinds.RAY_JOBS, kinds.LOCAL_QUEUES, kinds.OLDER_LOCAL_QUEUES)
NEEDED = tuple((verb, kind) for kind in (kinds.POOLS, kinds.TRAININGS) for verb in ("create", "patch", "get", "list"))
"""Rights that `orchestra submit` and `orchestra status` need."""


def look(
    kube: Kube,
    *,
    namespace: str,
    references: Sequence[Reference],
    documents: Sequence[Mapping[str, Any]],
    gpus: bool,
) -> Facts:
    """Collect all facts once; nodes and pods only if `gpus`. Raises Unreachable; other errors become Hidden."""
    serves = [kind for kind in INTERESTING if kube.serves(kind)]
    served = frozenset(kind.resource for kind in serves)
    by_name = KINDS | ({} if kinds.LOCAL_QUEUES in serves else {"LocalQueue": kinds.OLDER_LOCAL_QUEUES})
    there = _seen(lambda: kube.find(kinds.NAMESPACES, namespace) is not None)
    operators = _seen(lambda: tuple(kube.list(kinds.DEPLOYMENTS, labels=OPERATOR_LABELS)))
    if not isinstance(operators, Hidden):
        references = tuple(dict.fromkeys((*references, *pull_secrets(operators, namespace))))
    ours = kinds.TRAININGS.resource in served and kinds.POOLS.resource in served
    return Facts(
        served=served,
        namespace=there,
        operators=operators,
        objects={one: _object(kube, by_name[one.kind], one.name, namespace) for one in references},
        default_class=_seen(lambda: any(map(_is_default, kube.list(kinds.STORAGE_CLASSES)))),
        nodes=_seen(lambda: tuple(kube.list(kinds.NODES))) if gpus else (),
        pods=_seen(lambda: tuple(kube.list(kinds.PODS, fields=UNFINISHED))) if gpus else (),
        may={(verb, kind.resource): kube.may(verb, kind, namespace=namespace) for verb, kind in NEEDED},
        refused=_refusals(kube, documents) if ours and there is not False else {},
        pools=_seen(lambda: tuple(kube.list(kinds.POOLS, namespace=namespace))) if ours else (),
    )


def _seen(ask: Callable[[], T]) -> T | Hidden:
    try:
        return ask()
    except Unreachable:
        raise
    except ClusterError as error:
        return Hidden(str(error))


def _object(kube: Kube, kind: kinds.Kind, name: str, namespace: str) -> Json | Hidden | None:
    return _seen(lambda: kube.find(kind, name, namespace=namespace if kind.namespaced else ""))


def _is_default(storage_class: Json) -> bool:
    return ((storage_class["metadata"].get("annotations") or {}).get(DEFAULT_CLASS)) == "true"


def _refusals(kube: Kube, documents: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return what a dry run of the submission refuses; missing rights are reported by `may`."""
    found = {}
    for document in documents:
        try:
            kube.apply(kinds.BY_KIND[document["kind"]], document, dry_run=True)
        except (RequestRefused, Conflicting) as error:
            found[f"{document['kind']}/{document['metadata']['name']}"] = str(error)
        except (NotAuthorised, NotFound, NotServed):
            continue
    return found
