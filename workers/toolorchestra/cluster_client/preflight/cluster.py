"""Finds what resources need and a cluster lacks. Pure: from facts to lines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from urllib.parse import urlsplit

from toolorchestra.api.pool import SECRET_LABEL, ExpertPool
from toolorchestra.api.training import OrchestratorTraining
from toolorchestra.cluster_client.errors import SCHEMA_REMEDY
from toolorchestra.cluster_client.preflight.capacity import capacity_lines
from toolorchestra.cluster_client.preflight.compute import Demand
from toolorchestra.cluster_client.preflight.facts import Facts, Hidden, Json, pull_secrets, variables
from toolorchestra.cluster_client.preflight.line import Line
from toolorchestra.cluster_client.preflight.references import (
    Reference,
    agreement,
    for_pools,
    needs_default_class,
    remedy,
)
from toolorchestra.kube import kinds

NATS_VARIABLE = "TOOLORCHESTRA_OPERATOR_NATS_URL"
LABEL_VARIABLE = "TOOLORCHESTRA_OPERATOR_SECRETS_NEED_LABEL"
INSTALL = "helm install toolorchestra charts/toolorchestra -n toolorchestra-system --create-namespace (docs/install.md)"


def cluster_lines(
    facts: Facts,
    *,
    namespace: str,
    pools: Sequence[ExpertPool],
    trainings: Sequence[OrchestratorTraining],
    references: Mapping[Reference, tuple[str, ...]],
    demands: Sequence[Demand],
) -> Iterator[Line]:
    """Yield a line for everything that was checked: what is there, what is missing, and what to do."""
    yield from _definitions(facts)
    yield from _namespace(facts, namespace)
    yield from _rights(facts, namespace)
    yield from _operator(facts, namespace, trainings)
    yield from (Line("missing", "refused", f"{subject}: {why}") for subject, why in sorted(facts.refused.items()))
    yield from _references(facts, namespace, references)
    yield from _pull_secrets(facts, namespace)
    yield from _short_hosts(facts, namespace, pools)
    yield from _volumes(facts, (*pools, *trainings), trainings)
    yield from _providers(facts, trainings)
    yield from capacity_lines(facts, demands)


def _definitions(facts: Facts) -> Iterator[Line]:
    lacking = [kind.resource for kind in (kinds.TRAININGS, kinds.POOLS) if kind.resource not in facts.served]
    if lacking:
        yield Line("missing", "CRDs", f"the cluster does not serve {', '.join(lacking)}", SCHEMA_REMEDY)
    else:
        yield Line("ok", "CRDs", "OrchestratorTraining and ExpertPool are served")


def _namespace(facts: Facts, namespace: str) -> Iterator[Line]:
    match facts.namespace:
        case Hidden(why):
            yield Line("unknown", "namespace", f"{namespace}: {why}")
        case False:
            yield Line(
                "missing", "namespace", f"there is no namespace {namespace}", f"kubectl create namespace {namespace}"
            )
        case _:
            yield Line("ok", "namespace", f"{namespace} exists")


def _rights(facts: Facts, namespace: str) -> Iterator[Line]:
    lacking = [(verb, resource) for (verb, resource), allowed in facts.may.items() if not allowed]
    if not lacking:
        yield Line("ok", "rights", f"you may submit and watch in {namespace}")
        return
    verbs = ",".join(dict.fromkeys(verb for verb, _ in lacking))
    resources = ",".join(dict.fromkeys(resource for _, resource in lacking))
    words = ", ".join(f"{verb} {resource}" for verb, resource in lacking)
    role = f"kubectl create role orchestra -n {namespace} --verb={verbs} --resource={resources}"
    yield Line("missing", "rights", f"you may not, in {namespace}: {words}", f"{role}, and a rolebinding to you")


def _operator(facts: Facts, namespace: str, trainings: Sequence[OrchestratorTraining]) -> Iterator[Line]:
    if isinstance(facts.operators, Hidden):
        yield Line("unknown", "operator", facts.operators.why)
        return
    watching = facts.operators_of(namespace)
    if not facts.operators:
        yield Line("missing", "operator", "no operator runs in this cluster", INSTALL)
    elif not watching:
        names = ", ".join(map(_name, facts.operators))
        yield Line(
            "missing", "operator", f"{names} does not watch {namespace}", "add it to the chart's watchNamespaces"
        )
    elif not any((one.get("status") or {}).get("availableReplicas") for one in watching):
        where = watching[0]["metadata"]
        logs = f"kubectl logs -n {where['namespace']} deployment/{where['name']}"
        yield Line("missing", "operator", f"{_name(watching[0])} exists but is not available", logs)
    else:
        yield Line("ok", "operator", f"{_name(watching[0])} runs")
    for training in trainings:
        if (
            training.spec.messaging.url is None
            and watching
            and not any(NATS_VARIABLE in variables(o) for o in watching)
        ):
            text = f"{training.metadata.name}: neither spec.messaging.url nor the operator names a NATS server"
            yield Line("missing", "NATS", text, "install the chart with nats.enabled, or set spec.messaging.url")


def operator_variables(facts: Facts, namespace: str) -> dict[str, str]:
    """Return the environment variables of the operator that watches the namespace; empty where they are hidden."""
    return next(map(variables, facts.operators_of(namespace)), {})


def _name(deployment: Json) -> str:
    return f"Deployment {deployment['metadata']['namespace']}/{deployment['metadata']['name']}"


def _references(facts: Facts, namespace: str, references: Mapping[Reference, tuple[str, ...]]) -> Iterator[Line]:
    labelled = operator_variables(facts, namespace).get(LABEL_VARIABLE) != "false"
    for reference, paths in references.items():
        if reference.kind == "LocalQueue" and kinds.LOCAL_QUEUES.resource not in facts.served:
            text = f"queue {reference.name}: Kueue is not served ({paths[0]})"
            yield Line("missing", "Kueue", text, "install Kueue, or remove queueName")
            continue
        about = f"{reference.kind} {reference.name}"
        agrees = agreement(reference, namespace) if labelled and for_pools(reference, paths) else ""
        match facts.objects.get(reference):
            case None:
                made = " && ".join(filter(None, (remedy(reference, namespace), agrees)))
                yield Line("missing", about, f"does not exist ({', '.join(paths)})", made)
            case Hidden(why):
                yield Line("unknown", about, why)
            case live if reference.key and reference.key not in {
                **(live.get("data") or {}),
                **(live.get("binaryData") or {}),
            }:
                yield Line("missing", about, f"has no key {reference.key} ({', '.join(paths)})", "add the key")
            case live if agrees and not _is_for_pools(live):
                text = f"has no label {'='.join(SECRET_LABEL)} ({', '.join(paths)})"
                yield Line("missing", about, text, agrees)
            case _:
                yield Line("ok", about, "exists" + (f", with key {reference.key}" if reference.key else ""))


def _pull_secrets(facts: Facts, namespace: str) -> Iterator[Line]:
    """Yield the image pull secrets that do not exist; the node then pulls images without them."""
    for reference in pull_secrets(facts.operators_of(namespace), namespace):
        if facts.objects.get(reference, {}) is None:
            text = f"{reference.name} does not exist: every namespace with pods needs the chart's imagePullSecrets"
            made = f"kubectl create secret docker-registry {reference.name} -n {namespace} --docker-server=…"
            yield Line("note", "pulling", text, f"{made}, if the registry needs it")


def _short_hosts(facts: Facts, namespace: str, pools: Sequence[ExpertPool]) -> Iterator[Line]:
    """Yield pools whose host has no dot: the operator and the workers would resolve it in different namespaces."""
    homes = {one["metadata"]["namespace"] for one in facts.operators_of(namespace)}
    if homes <= {namespace}:
        return
    for pool in pools:
        host = urlsplit(pool.spec.endpoint.url).hostname if pool.spec.endpoint else None
        if host and not set(host) & set(".:"):
            home = min(homes)
            text = (
                f"pool {pool.metadata.name}: {host} is one Service to the operator, in {home}, and another to the pods"
            )
            yield Line("note", "hosts", text, f"write the full name in spec.endpoint.url, such as {host}.{home}.svc")


def _is_for_pools(secret: Json) -> bool:
    name, value = SECRET_LABEL
    return ((secret.get("metadata") or {}).get("labels") or {}).get(name) == value


def _volumes(
    facts: Facts, resources: Sequence[ExpertPool | OrchestratorTraining], trainings: Sequence[OrchestratorTraining]
) -> Iterator[Line]:
    paths = needs_default_class(resources)
    if paths and isinstance(facts.default_class, Hidden):
        yield Line("unknown", "volumes", facts.default_class.why)
    elif paths and not facts.default_class:
        text = f"the cluster has no default storage class, and none is named: {', '.join(paths)}"
        yield Line("missing", "volumes", text, "name a storageClassName (kubectl get storageclass)")
    for training in trainings:
        storage, ray = training.spec.storage, training.spec.ray
        modes = storage.ephemeral_claim.access_modes if storage.ephemeral_claim else ("ReadWriteOnce",)
        if storage.type == "EphemeralClaim" and "ReadWriteMany" not in modes:
            pods = 1 + ray.trainers.replicas + ray.engines.replicas
            text = f"{training.metadata.name}: {pods} pods mount its storage ({', '.join(modes)})"
            yield Line("note", "volumes", text, "on several nodes, spec.storage needs accessModes [ReadWriteMany]")


def _providers(facts: Facts, trainings: Sequence[OrchestratorTraining]) -> Iterator[Line]:
    served = kinds.RAY_JOBS.resource in facts.served
    for training in trainings:
        provider, name = training.spec.ray.provider, training.metadata.name
        if provider == "KubeRay" and not served:
            remedy_ = "install KubeRay, or use provider: Builtin"
            text = f"{name}: spec.ray.provider is KubeRay, but the cluster does not serve RayJobs"
            yield Line("missing", "Ray", text, remedy_)
        else:
            chosen = ("KubeRay" if served else "Builtin") if provider == "Auto" else provider
            yield Line("ok", "Ray", f"{name}: provider {provider}" + (f", here {chosen}" if chosen != provider else ""))
