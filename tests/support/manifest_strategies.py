"""Hypothesis strategies for the objects that the operator makes: every kind, with lists and maps of every list type."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

NAMES = st.sampled_from(["a", "b", "main", "engine", "x-1"])
TEXTS = st.text(alphabet="abcXYZ 0/:.é", max_size=12)
QUANTITIES = st.one_of(
    st.builds("{}{}".format, st.integers(1, 9000), st.sampled_from(["", "m", "k", "M"])),
    st.builds("{}{}".format, st.integers(1, 4096), st.sampled_from(["Ki", "Mi", "Gi"])),
)
MAPS = st.dictionaries(NAMES, TEXTS, max_size=3)
LABEL_NAMES = st.sampled_from(["app", "app.kubernetes.io/name", "toolorchestra.dev/pool"])
LABELS = st.dictionaries(LABEL_NAMES, NAMES, max_size=3)
AMOUNTS = st.dictionaries(st.sampled_from(["cpu", "memory", "nvidia.com/gpu"]), QUANTITIES, max_size=3)


def optional(required: dict[str, Any], **fields: Any) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(required, optional=fields)


def unique(items: st.SearchStrategy[Any], *keys: str, min_size: int = 0) -> st.SearchStrategy[list[Any]]:
    def key_of(item: dict[str, Any]) -> tuple[Any, ...]:
        return tuple(item.get(key, "TCP") for key in keys)

    return st.lists(items, min_size=min_size, max_size=3, unique_by=key_of)


PORTS = st.one_of(st.integers(1, 65535), NAMES)
PROTOCOLS = st.sampled_from(["TCP", "UDP"])
PROBES = optional({"httpGet": optional({"path": TEXTS, "port": PORTS})}, periodSeconds=st.integers(1, 9))
FIELD_REFS = st.just({"fieldRef": {"fieldPath": "metadata.name"}})
ENV = unique(optional({"name": NAMES}, value=TEXTS, valueFrom=FIELD_REFS), "name")
CONTAINERS = unique(
    optional(
        {"name": NAMES, "image": TEXTS},
        args=st.lists(TEXTS, max_size=3),
        env=ENV,
        ports=unique(
            optional({"containerPort": st.integers(1, 9)}, protocol=PROTOCOLS, name=NAMES),
            "containerPort",
            "protocol",
        ),
        resources=optional({}, limits=AMOUNTS, requests=AMOUNTS),
        readinessProbe=PROBES,
        stdin=st.booleans(),
        securityContext=optional({}, readOnlyRootFilesystem=st.booleans(), runAsUser=st.integers(0, 9)),
    ),
    "name",
    min_size=1,
)
VOLUMES = unique(
    st.one_of(
        optional({"name": NAMES, "emptyDir": optional({}, sizeLimit=QUANTITIES)}),
        optional({"name": NAMES, "configMap": optional({"name": NAMES}, defaultMode=st.integers(0, 511))}),
    ),
    "name",
)
POD_SPECS = optional(
    {"containers": CONTAINERS},
    volumes=VOLUMES,
    nodeSelector=MAPS,
    hostNetwork=st.booleans(),
    tolerations=st.lists(optional({"key": NAMES}, operator=st.just("Exists")), max_size=2),
    imagePullSecrets=unique(optional({"name": NAMES}), "name"),
    terminationGracePeriodSeconds=st.integers(0, 9),
)
TEMPLATES = optional({"spec": POD_SPECS}, metadata=optional({}, labels=LABELS, annotations=MAPS))
DEPLOYMENTS = optional(
    {"template": TEMPLATES, "selector": optional({"matchLabels": LABELS})}, replicas=st.integers(0, 5)
)
SERVICE_PORTS = optional({"port": st.integers(1, 9)}, protocol=PROTOCOLS, name=NAMES, targetPort=PORTS)
SERVICES = optional(
    {}, selector=LABELS, publishNotReadyAddresses=st.booleans(), ports=unique(SERVICE_PORTS, "port", "protocol")
)
FAILURE_RULES = st.just({"rules": [{"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]}]})
JOBS = optional(
    {"template": TEMPLATES}, suspend=st.booleans(), completions=st.integers(0, 9), podFailurePolicy=FAILURE_RULES
)
CLAIMS = optional(
    {"accessModes": st.just(["ReadWriteOnce"])},
    storageClassName=NAMES,
    resources=optional({"requests": st.fixed_dictionaries({"storage": QUANTITIES})}),
)
INGRESS = optional({}, ports=st.lists(optional({"port": st.integers(1, 9)}), max_size=2))
POLICIES = optional({"podSelector": optional({}, matchLabels=LABELS)}, ingress=st.lists(INGRESS, max_size=2))
WORKER_GROUPS = optional({"groupName": NAMES, "rayStartParams": MAPS}, replicas=st.integers(0, 3), template=TEMPLATES)
CLUSTERS = optional(
    {"headGroupSpec": optional({"rayStartParams": MAPS}, template=TEMPLATES)},
    workerGroupSpecs=st.lists(WORKER_GROUPS, max_size=2),
)
RAY_JOBS = optional(
    {"entrypoint": TEXTS}, suspend=st.booleans(), backoffLimit=st.integers(0, 3), rayClusterSpec=CLUSTERS
)
BODIES: dict[tuple[str, str], st.SearchStrategy[dict[str, Any]]] = {
    ("apps/v1", "Deployment"): st.fixed_dictionaries({"spec": DEPLOYMENTS}),
    ("v1", "Service"): st.fixed_dictionaries({"spec": SERVICES}),
    ("batch/v1", "Job"): st.fixed_dictionaries({"spec": JOBS}),
    ("v1", "ConfigMap"): optional({}, data=MAPS, immutable=st.booleans()),
    ("v1", "PersistentVolumeClaim"): st.fixed_dictionaries({"spec": CLAIMS}),
    ("networking.k8s.io/v1", "NetworkPolicy"): st.fixed_dictionaries({"spec": POLICIES}),
    ("ray.io/v1", "RayJob"): st.fixed_dictionaries({"spec": RAY_JOBS}),
}
METADATA = optional(
    {"name": st.just("thing"), "namespace": st.just("team")},
    labels=LABELS,
    annotations=MAPS,
    finalizers=st.lists(NAMES, unique=True, max_size=2),
    ownerReferences=st.just([{"apiVersion": "a/v1", "kind": "A", "name": "a", "uid": "u1", "controller": True}]),
)


@st.composite
def manifests(draw: st.DrawFn) -> dict[str, Any]:
    """An object of any kind that the operator makes."""
    return draw(manifests_of(draw(st.sampled_from(sorted(BODIES)))))


@st.composite
def pairs(draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, Any]]:
    """Two of one kind."""
    about = draw(st.sampled_from(sorted(BODIES)))
    return draw(manifests_of(about)), draw(manifests_of(about))


@st.composite
def manifests_of(draw: st.DrawFn, about: tuple[str, str]) -> dict[str, Any]:
    """An object of one kind."""
    return {"apiVersion": about[0], "kind": about[1], "metadata": draw(METADATA), **draw(BODIES[about])}
