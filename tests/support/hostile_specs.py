"""Hypothesis strategies for what people may write where no schema looks: overlays, resources, opaque fields."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from hypothesis import strategies as st

from support.cluster.openapi_excerpt import schemas
from toolorchestra_operator.kubernetes.openapi import Schema
from toolorchestra_operator.planning.overlay import TABLE, Merge

_MOSTLY: Final = 7
"""To one that is any JSON."""

_WORDS = st.sampled_from(
    [
        *("", "a", "vllm", "workers", "head", "tmp", "None", "/", "/tmp", "0", "-1", "1e9", "500m", "1.0", "8Gi", "é"),
        *("toolorchestra.dev/x", "HOME", "SYS_ADMIN", "hostPath", "pvc://a/b", "pvc:///", "pvc://../x", "unconfined"),
    ]
)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**40), 2**70),
    st.floats(allow_nan=False, allow_infinity=False),
    _WORDS,
    st.text(max_size=5),
)
_NAMES = st.sampled_from(
    [
        *("name", "projected", "sources", "serviceAccountToken", "hostPath", "emptyDir", "sizeLimit", "claims", "add"),
        *("tokenSecretRef", "x-secretref", "existingClaim", "ephemeralClaim", "uri", "key", "claimName", "type"),
        *("limits", "capabilities", "privileged", "labels", "spec", "containers", "value", "mountPath", "ip"),
    ]
)
JSON: st.SearchStrategy[Any] = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.one_of(_NAMES, st.text(max_size=4)), inner, max_size=3)
    ),
    max_leaves=8,
)
"""Any JSON, with the words that the operator looks for."""


_TELLING: Final = {
    *("spec", "volumes", "containers", "securityContext", "env", "resourceClaims", "resources"),
    *("projected", "sources", "hostPath", "capabilities", "seLinuxOptions"),
}
"""Fields that the operator looks into: half of those that are drawn."""
_SCALARS_OF: Final[dict[str, st.SearchStrategy[Any]]] = {
    "string": _WORDS,
    "boolean": st.booleans(),
    "integer": st.sampled_from([0, 1, 2, 44, 1000, 2**40]),
    "number": st.sampled_from([0, 1.5]),
}
_POD: Final = schemas().schema("apps/v1", "Deployment").child("spec").child("template")


def _shaped(schema: Schema, depth: int) -> st.SearchStrategy[Any]:
    """What the API server can read: mistakes are most telling beside what is none."""
    if schema.quantity:
        return st.sampled_from([1, "500m", "8Gi"])
    if schema.fields:
        return _chosen(schema.fields, most=2 if depth else 0).flatmap(
            lambda chosen: st.fixed_dictionaries(
                {name: st.one_of(*[_shaped(schema.fields[name], depth - 1)] * _MOSTLY, JSON) for name in chosen}
            )
        )
    if schema.values is not None:
        return st.dictionaries(_NAMES, _shaped(schema.values, depth - 1), max_size=2)
    if schema.items is not None:
        return st.lists(_shaped(schema.items, depth - 1), max_size=2)
    return _SCALARS_OF.get(schema.type, JSON)


def _chosen(fields: Mapping[str, Any], *, most: int) -> st.SearchStrategy[list[str]]:
    """Names of some of the fields."""
    any_of, telling = st.sampled_from(sorted(fields)), sorted(_TELLING & fields.keys())
    one = st.one_of(any_of, st.sampled_from(telling)) if telling else any_of
    return st.lists(one, unique=True, max_size=most)


def _of(fields: Mapping[str, Merge], schema: Schema) -> st.SearchStrategy[Any]:
    """A few of the fields that the merge table knows."""
    return _chosen(fields, most=4).flatmap(
        lambda chosen: st.fixed_dictionaries({name: _value(fields[name], schema.child(name)) for name in chosen})
    )


def _value(merge: Merge, schema: Schema) -> st.SearchStrategy[Any]:
    right: st.SearchStrategy[Any]
    if merge.fields and merge.keys:
        inner = _of({name: one for name, one in merge.fields.items() if name != "name"}, schema.item)
        right = st.builds(lambda name, fields: [{**fields, "name": name}], st.sampled_from(["workers", "vllm"]), inner)
    elif merge.fields:
        right = _of(merge.fields, schema)
    elif merge.keys and schema.items is not None:
        keyed = st.fixed_dictionaries({key: _shaped(schema.items.child(key), 0) for key in merge.keys})
        item = st.builds(lambda some, keys: {**some, **keys}, _shaped(schema.items, 3), keyed)
        right = st.lists(item, max_size=2)
    else:
        right = _shaped(schema, 3)
    return st.one_of(*[right] * _MOSTLY, JSON)


OVERLAYS = st.one_of(*[_of(TABLE.fields, _POD)] * _MOSTLY, st.dictionaries(_NAMES, JSON, max_size=3))
"""`podTemplate`s, most of which the API server could read."""
_RESOURCES = st.sampled_from(
    [
        *("cpu", "memory", "ephemeral-storage", "nvidia.com/gpu", "nvidia.com/mig-1g.5gb", "amd.com/gpu"),
        *("habana.ai/gaudi", "gpu.intel.com/xe", "example.com/npu", "hugepages-2Mi", "/", "a/b/c"),
    ]
)
_NUMBERS = st.one_of(st.integers(0, 2**40), st.sampled_from(["1", "500m", "1.0", "8Gi", ".5", "0", "1E"]))
_AMOUNTS = st.dictionaries(_RESOURCES, _NUMBERS, max_size=3)
RESOURCES = st.fixed_dictionaries(
    {},
    optional={
        "limits": _AMOUNTS,
        "requests": _AMOUNTS,
        "accelerator": st.sampled_from(["None", "Claim", "nvidia.com/gpu", "example.com/npu"]),
    },
)
"""`resources`, as the schema of an older release took them too."""
PARAMETERS = st.dictionaries(st.text(min_size=1, max_size=8), st.dictionaries(_NAMES, JSON, max_size=3), max_size=2)
"""Opaque parameters of datasets."""
