"""Hypothesis strategies for what people may write where no schema looks: overlays, resources, opaque fields."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from toolorchestra_operator.overlay import TABLE, Merge

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


def _of(fields: dict[str, Merge]) -> st.SearchStrategy[Any]:
    """What the merge table knows, half right: mistakes are most telling beside what is no mistake."""
    known = {name: _value(merge) for name, merge in fields.items()}
    return st.fixed_dictionaries({}, optional=known)


def _value(merge: Merge) -> st.SearchStrategy[Any]:
    if merge.fields and merge.keys:
        main = st.builds(lambda fields: [{**fields, "name": "workers"}], _of(dict(merge.fields)))
        return st.one_of(main, st.builds(lambda fields: [{**fields, "name": "vllm"}], _of(dict(merge.fields))), JSON)
    if merge.fields:
        return st.one_of(_of(dict(merge.fields)), _of(dict(merge.fields)), JSON)
    item = st.fixed_dictionaries({}, optional=dict.fromkeys((*merge.keys, "projected", "hostPath", "emptyDir"), _WORDS))
    return st.one_of(st.lists(item, max_size=2), st.lists(JSON, max_size=2), JSON)


OVERLAYS = st.one_of(_of(dict(TABLE.fields)), st.dictionaries(_NAMES, JSON, max_size=3))
"""`podTemplate`s."""
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
