"""Runs a pod that can only read a volume: no service account token, no rights, a limited lifetime.

The pod mounts the claim read-only, runs `sleep`, and ends after `LIFE_SECONDS`. The command that created it deletes it
at its end, unless that command is killed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from toolorchestra.cluster_client.errors import ClusterError, NotFound, Unreachable
from toolorchestra.cluster_client.pods import is_over, runs, waits_for
from toolorchestra.contract.labels import TRAINING_LABEL
from toolorchestra.kube.kinds import DEPLOYMENTS, JOBS, PODS, RAY_JOBS, Kind

if TYPE_CHECKING:
    from toolorchestra.cluster_client.kube import Kube

Json = Mapping[str, Any]
CONTAINER = "reader"
MOUNT = "/volume"
USER = 1000
"""UID and GID under which a training's pods write."""
LIFE_SECONDS = 14_400
START_SECONDS = 300.0
_KEPT = ("imagePullSecrets", "tolerations")
"""Fields that are copied from the training's own pods."""


class NoImage(ClusterError):
    """No image for the pod is known."""

    status = 2


def template_of(kube: Kube, training: Json) -> dict[str, Any]:
    """Return a pod spec from a workload of the training; empty where none exists or the user may not see it."""
    metadata = training["metadata"]
    for kind in (DEPLOYMENTS, JOBS, RAY_JOBS):
        for one in _those_of(kube, kind, namespace=metadata["namespace"], name=metadata["name"]):
            spec = one["spec"]
            if kind is RAY_JOBS:
                spec = spec["rayClusterSpec"]["headGroupSpec"]
            return dict(spec["template"]["spec"])
    return {}


def _those_of(kube: Kube, kind: Kind, *, namespace: str, name: str) -> Sequence[Json]:
    try:
        return kube.list(kind, namespace=namespace, labels=f"{TRAINING_LABEL}={name}")
    except Unreachable:
        raise
    except ClusterError:
        return ()  # not served or not visible: the user can give --image


def image_of(training: Json, template: Json, given: str | None) -> str:
    """Return the pod's image: the option's, else the training's. NoImage where neither is known."""
    if given is not None:
        return given
    if containers := template.get("containers"):
        return str(containers[0]["image"])
    status = training.get("status") or {}
    for where in (status, training["spec"]):
        if own := (where.get("ray") or {}).get("image"):
            return str(own)
    raise NoImage(
        "no object of the training names an image any more: give --image (any image with sh, tar, find, sha256sum)"
    )


def manifest(training: Json, *, claim: str, image: str, template: Json) -> dict[str, Any]:
    """Return the pod's manifest: it meets the restricted pod security standard, and the training owns it."""
    metadata = training["metadata"]
    owner = {key: training[key] for key in ("apiVersion", "kind")} | {key: metadata[key] for key in ("name", "uid")}
    labels = {"app.kubernetes.io/part-of": "toolorchestra", "app.kubernetes.io/component": CONTAINER}
    labels["app.kubernetes.io/managed-by"] = "orchestra"
    container = {
        "name": CONTAINER,
        "image": image,
        "command": ["sleep", str(LIFE_SECONDS)],
        "volumeMounts": [{"name": "volume", "mountPath": MOUNT, "readOnly": True}],
        "resources": {"requests": {"cpu": "10m", "memory": "64Mi"}, "limits": {"memory": "512Mi"}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
    }
    spec = {
        "restartPolicy": "Never",
        "activeDeadlineSeconds": LIFE_SECONDS,
        "terminationGracePeriodSeconds": 0,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
        "volumes": [{"name": "volume", "persistentVolumeClaim": {"claimName": claim, "readOnly": True}}],
        **{key: template[key] for key in _KEPT if template.get(key)},
    }
    about = {"generateName": f"{metadata['name']}-reader-", "namespace": metadata["namespace"], "labels": labels}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {**about, "ownerReferences": [owner]}, "spec": spec}


@contextmanager
def reading(
    kube: Kube,
    pod: Json,
    *,
    say: Callable[[str], None],
    seconds: float = START_SECONDS,
    poll: float = 1.0,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[str]:
    """Create the pod, wait until it runs, yield its name, and delete it at the end, also after an error."""
    made = kube.create(PODS, pod, namespace=pod["metadata"]["namespace"])
    name, namespace = made["metadata"]["name"], made["metadata"]["namespace"]
    try:
        _until_it_runs(kube, made, say=say, until=clock() + seconds, poll=poll, sleep=sleep, clock=clock)
        yield name
    finally:
        try:
            kube.delete(PODS, name, namespace=namespace, uid=made["metadata"]["uid"], grace_seconds=0)
        except ClusterError as error:
            say(f"{error}; delete it with: kubectl delete pod {name} -n {namespace}")


def _until_it_runs(
    kube: Kube,
    pod: Json,
    *,
    say: Callable[[str], None],
    until: float,
    poll: float,
    sleep: Callable[[float], None],
    clock: Callable[[], float],
) -> None:
    name, namespace, said = pod["metadata"]["name"], pod["metadata"]["namespace"], ""
    while True:
        now = kube.find(PODS, name, namespace=namespace)
        if now is None:
            raise NotFound(f"pod {name} was deleted by somebody else")
        if runs(now, CONTAINER):
            return
        why = waits_for(now)
        if is_over(now) or clock() > until:
            raise Unreachable(f"pod {name} does not run: {why}")
        if why != said:
            say(f"waiting for pod {name}: {why}")
            said = why
        sleep(poll)
