"""The real operator process with a reconciler that says on stdout what it looks at, and keeps one ConfigMap per parent.

Run as a program: `python -m support.cluster.recording_operator FLAGS`. One line of JSON for each look.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from toolorchestra.process import die_with_parent
from toolorchestra_operator.kubernetes.api_server import ApiServer
from toolorchestra_operator.kubernetes.manifest import Key, Manifest, Ref
from toolorchestra_operator.planning.plan import Apply, Emit, Plan
from toolorchestra_operator.runtime.main import main
from toolorchestra_operator.runtime.operator_process import Machinery
from toolorchestra_operator.runtime.parents import PARENT_KINDS, PARENT_LABELS
from toolorchestra_operator.runtime.reconcile_loop import Reconciler
from toolorchestra_operator.runtime.settings import Settings

API_VERSION = "toolorchestra.dev/v1alpha1"


def tell(**what: Any) -> None:
    print(json.dumps(what), flush=True)


@dataclass(frozen=True)
class Observed:
    parent: Manifest
    child: Manifest | None


@dataclass(frozen=True)
class Recording:
    """Says what it sees, and wants a ConfigMap of the parent's name with `-seen`."""

    api: ApiServer

    async def observe(self, key: Key) -> Observed | None:
        parent = await self.api.get(Ref(API_VERSION, key.kind, key.namespace, key.name))
        if parent is None:
            tell(kind=key.kind, namespace=key.namespace, name=key.name, what="gone")
            return None
        return Observed(parent, await self.api.get(Ref("v1", "ConfigMap", key.namespace, f"{key.name}-seen")))

    def reconcile(self, observed: Observed, now: datetime) -> Plan:
        metadata: Mapping[str, Any] = observed.parent["metadata"]
        kind = observed.parent["kind"]
        what = "steady" if observed.child is not None else "incomplete"
        tell(kind=kind, namespace=metadata["namespace"], name=metadata["name"], what=what)
        if observed.child is not None:
            return Plan()
        label = next(label for label, of in PARENT_LABELS.items() if of == kind)
        child = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {
                "name": f"{metadata['name']}-seen",
                "namespace": metadata["namespace"],
                "labels": {"app.kubernetes.io/managed-by": "toolorchestra", label: metadata["name"]},
                "ownerReferences": [
                    {
                        "apiVersion": API_VERSION,
                        "kind": kind,
                        "name": metadata["name"],
                        "uid": metadata["uid"],
                        "controller": True,
                        "blockOwnerDeletion": True,
                    }
                ],
            },
        }
        return Plan((Apply(child), Emit("Normal", "Accepted", "a child was made")))


def assemble(settings: Settings, api: ApiServer) -> Machinery:
    recording = Recording(api)
    return Machinery(reconcilers={kind: Reconciler(recording.observe, recording.reconcile) for kind in PARENT_KINDS})


if __name__ == "__main__":
    die_with_parent()
    main(assemble=assemble)
