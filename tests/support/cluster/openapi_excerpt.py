"""An API server's OpenAPI v3 documents cut down to some kinds and to what `Schemas` reads of them.

`openapi_excerpt.json` was made from Kubernetes 1.34.4: `python tests/support/cluster/openapi_excerpt.py
<kubernetes>/api/openapi-spec/v3`. Its RayJob is a hand-made excerpt of KubeRay's, with the same list types.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from toolorchestra_operator.kubernetes.openapi import Schemas

HERE = Path(__file__).parent
FILES = {
    "api__v1": ("Service", "ConfigMap", "Secret", "PersistentVolumeClaim", "Pod", "ServiceAccount"),
    "apis__apps__v1": ("Deployment",),
    "apis__batch__v1": ("Job",),
    "apis__policy__v1": ("PodDisruptionBudget",),
    "apis__networking.k8s.io__v1": ("NetworkPolicy",),
}
_NUMBER = r"(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))"
_QUANTITY = rf"^(\+|-)?{_NUMBER}(([KMGTPE]i)|[numkMGTPE]|([eE](\+|-)?{_NUMBER}))?$"
_REFERENCE = re.compile(r'"#/components/schemas/([^"]+)"')


@cache
def schemas() -> Schemas:
    """The kinds that the operator makes, as the real API server describes them."""
    document = json.loads((HERE / "openapi_excerpt.json").read_text())
    return Schemas.of([document, _ray_document()])


def excerpt(components: Mapping[str, Any], kinds: Iterable[str]) -> dict[str, Any]:
    """The components of `kinds` and what they refer to, without descriptions and rules."""
    found: dict[str, Any] = {}
    left = [name for name, raw in components.items() if _is_one_of(raw, frozenset(kinds))]
    while left:
        name = left.pop()
        if name not in found:
            found[name] = _cut(components[name])
            left.extend(_REFERENCE.findall(json.dumps(found[name])))
    return found


def _is_one_of(raw: Mapping[str, Any], kinds: frozenset[str]) -> bool:
    gvks = raw.get("x-kubernetes-group-version-kind", ())
    return len(gvks) == 1 and gvks[0]["kind"] in kinds  # DeleteOptions and the like have dozens


def _cut(raw: Mapping[str, Any]) -> dict[str, Any]:
    cut: dict[str, Any] = {}
    for key, value in raw.items():
        if key == "properties":
            cut[key] = {name: _cut(inner) for name, inner in value.items()}
        elif key in ("items", "additionalProperties") and isinstance(value, Mapping):
            cut[key] = _cut(value)
        elif key in ("allOf", "oneOf", "anyOf"):
            cut[key] = [_cut(inner) for inner in value]
        elif key in ("$ref", "default", "format", "pattern", "type") or key.startswith("x-kubernetes"):
            cut[key] = value
    return cut


def _text() -> dict[str, str]:
    return {"type": "string"}


def _amounts() -> dict[str, Any]:
    quantity = {
        "anyOf": [{"type": "integer"}, {"type": "string"}],
        "pattern": _QUANTITY,
        "x-kubernetes-int-or-string": True,
    }
    return {"type": "object", "additionalProperties": quantity}


def _keyed(items: dict[str, Any], *keys: str) -> dict[str, Any]:
    extensions = {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": list(keys)}
    return {"type": "array", "items": {"type": "object", "properties": items}, **extensions}


def _pod_template() -> dict[str, Any]:
    port = {"containerPort": {"type": "integer"}, "protocol": {"type": "string", "default": "TCP"}, "name": _text()}
    resources = {"type": "object", "properties": {"limits": _amounts(), "requests": _amounts()}}
    container = {
        "name": _text(),
        "image": _text(),
        "args": {"type": "array", "items": _text(), "x-kubernetes-list-type": "atomic"},
        "env": _keyed({"name": _text(), "value": _text()}, "name"),
        "ports": _keyed(port, "containerPort", "protocol"),
        "resources": resources,
    }
    node_selector = {"type": "object", "additionalProperties": _text(), "x-kubernetes-map-type": "atomic"}
    spec = {"type": "object", "properties": {"containers": _keyed(container, "name"), "nodeSelector": node_selector}}
    return {"type": "object", "properties": {"metadata": {"type": "object"}, "spec": spec}}


def _ray_job() -> dict[str, Any]:
    start = {"type": "object", "additionalProperties": _text()}
    head = {"type": "object", "properties": {"rayStartParams": start, "template": _pod_template()}}
    worker = {
        "type": "object",
        "properties": {
            "groupName": _text(),
            "replicas": {"type": "integer", "default": 0},
            "maxReplicas": {"type": "integer", "default": 2147483647},
            "rayStartParams": start,
            "template": _pod_template(),
        },
    }
    cluster = {"headGroupSpec": head, "workerGroupSpecs": {"type": "array", "items": worker}, "rayVersion": _text()}
    spec = {
        "entrypoint": _text(),
        "suspend": {"type": "boolean"},
        "backoffLimit": {"type": "integer", "default": 0},
        "shutdownAfterJobFinishes": {"type": "boolean"},
        "ttlSecondsAfterFinished": {"type": "integer", "default": 0},
        "rayClusterSpec": {"type": "object", "properties": cluster},
    }
    metadata = {"allOf": [{"$ref": "#/components/schemas/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"}]}
    return {
        "type": "object",
        "properties": {"metadata": metadata, "spec": {"type": "object", "properties": spec}},
        "x-kubernetes-group-version-kind": [{"group": "ray.io", "version": "v1", "kind": "RayJob"}],
    }


def _ray_document() -> dict[str, Any]:
    known = json.loads((HERE / "openapi_excerpt.json").read_text())["components"]["schemas"]
    return {"components": {"schemas": {**excerpt(known, ("ConfigMap",)), "io.ray.v1.RayJob": _ray_job()}}}


if __name__ == "__main__":
    merged: dict[str, Any] = {}
    for file, kinds in FILES.items():
        document = json.loads((Path(sys.argv[1]) / f"{file}_openapi.json").read_text())
        merged.update(excerpt(document["components"]["schemas"], kinds))
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(merged[name], sort_keys=True)}" for name in sorted(merged))
    (HERE / "openapi_excerpt.json").write_text('{"components": {"schemas": {\n' + lines + "\n}}}\n")
