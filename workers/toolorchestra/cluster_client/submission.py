"""Applies resources server-side, after a dry run of all of them: if one is refused there, none is applied."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from toolorchestra.kube.kinds import BY_KIND

if TYPE_CHECKING:
    from toolorchestra.cluster_client.kube import Kube

Json = Mapping[str, Any]


@dataclass(frozen=True)
class Applied:
    """Result for one document; `live` is the object after the apply."""

    result: Literal["created", "configured", "unchanged"]
    live: Mapping[str, Any]

    def __str__(self) -> str:
        metadata = self.live["metadata"]
        return f"{self.live['kind']} {metadata['namespace']}/{metadata['name']} {self.result}"


def submit(kube: Kube, manifests: Sequence[Json], *, force: bool = False) -> Iterator[Applied]:
    """Apply the manifests in the given order and yield each result.

    The first refusal raises; a refusal in the dry run comes before any change. `force`: take over fields that another
    field manager owns (such as kubectl); else Conflicting.
    """
    for manifest in manifests:
        kube.apply(BY_KIND[manifest["kind"]], manifest, force=force, dry_run=True)
    for manifest in manifests:
        kind, metadata = BY_KIND[manifest["kind"]], manifest["metadata"]
        before = kube.find(kind, metadata["name"], namespace=metadata["namespace"])
        live = kube.apply(kind, manifest, force=force)
        yield Applied(_result(before, live), live)


def _result(before: Json | None, live: Json) -> Literal["created", "configured", "unchanged"]:
    if before is None or before["metadata"]["uid"] != live["metadata"]["uid"]:
        return "created"
    same = before["metadata"]["resourceVersion"] == live["metadata"]["resourceVersion"]
    return "unchanged" if same else "configured"
