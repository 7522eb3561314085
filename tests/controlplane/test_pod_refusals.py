"""Pods and overlays that a shared cluster refuses, on a real API server, and what is said of them.

No controller runs: a Job's pods are tried by the test, as the Job controller would, and what it would write is written.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from support.cluster.openapi_excerpt import schemas
from support.cluster.pod_admission import BUILTIN, admitted, makers, message, named, operator_of, quota, tried
from support.cluster.training_life import Stage
from support.hostile_specs import OVERLAYS
from testbed.api import Api, Refused
from testbed.cluster import Cluster
from toolorchestra.local.nats_server import NatsServer
from toolorchestra_operator.kubernetes.api_server import ApiServer
from toolorchestra_operator.kubernetes.backoff import Backoff
from toolorchestra_operator.kubernetes.manifest import Key, Manifest, Ref
from toolorchestra_operator.messaging.streams import NatsStreams
from toolorchestra_operator.planning.carry_out import carry_out
from toolorchestra_operator.planning.events import Events
from toolorchestra_operator.planning.overlay import Rejected, overlaid, shape_mistakes
from toolorchestra_operator.planning.plan import Emit, Plan
from toolorchestra_operator.runtime.key_queue import KeyQueue
from toolorchestra_operator.runtime.metrics import Meter
from toolorchestra_operator.runtime.reconcile_loop import ReconcileLoop, Reconciler

# ── pods that are refused ──────────────────────────────────────────────────────────────────────────────────────────


def _no_room(stage: Stage) -> None:
    quota(stage, {"pods": "0"})


def _restricted(stage: Stage) -> None:
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    stage.api.merge(f"/api/v1/namespaces/{stage.namespace}", {"metadata": {"labels": labels}})


@pytest.mark.parametrize(
    ("cause", "spec", "words"),
    [
        (_no_room, {}, "exceeded quota: team"),
        (lambda stage: None, {"priorityClassName": "gold"}, "no PriorityClass with name gold was found"),
        (
            _restricted,
            {"ray": BUILTIN | {"podTemplate": {"spec": {"hostNetwork": True}}}},
            'violates PodSecurity "restricted:latest": host namespaces',
        ),
    ],
    ids=["quota", "priority class", "pod security"],
)
async def test_a_pod_that_is_refused_is_told_in_the_words_of_the_api_server(
    server: ApiServer, stage: Stage, nats_server: NatsServer, cause: Any, spec: Any, words: str
) -> None:
    cause(stage)
    operator = operator_of(server, nats_server, privileged_namespaces=[stage.namespace])
    assert await admitted(operator, stage, **spec) == ("True", "Accepted")
    assert stage.condition("ClusterReady") == ("False", "ClusterStarting")
    job = stage.jobs(1)["head"]
    said = tried(stage, job["metadata"]["name"], job["spec"]["template"])
    assert words in said
    _the_job_controller_tells(stage, job, f"Error creating: {said}")
    await operator.settles(stage.namespace, stage.name)
    assert stage.condition("ClusterReady") == ("False", "PodsRefused")
    assert words in message(stage, "ClusterReady")
    assert any(reason == "PodsRefused" and words in note for _, reason, note in stage.events())

    status = {"active": 1, "ready": 1, "startTime": "2030-01-01T00:00:00Z"}
    stage.api.merge(stage.of("/apis/batch/v1", "jobs", job["metadata"]["name"], "status"), {"status": status})
    await operator.settles(stage.namespace, stage.name)
    assert stage.condition("ClusterReady") == ("False", "ClusterStarting"), "an event of before says nothing any more"


def _the_job_controller_tells(stage: Stage, job: dict[str, Any], note: str) -> None:
    about = {"apiVersion": "batch/v1", "kind": "Job", "name": job["metadata"]["name"], "uid": job["metadata"]["uid"]}
    times = {"firstTimestamp": "2030-01-01T00:00:00Z", "lastTimestamp": "2030-01-01T00:00:00Z", "count": 1}
    event = {
        "metadata": {"name": f"{job['metadata']['name']}.1"},
        "involvedObject": about | {"namespace": stage.namespace},
        "type": "Warning",
        "reason": "FailedCreate",
        "message": note,
        "source": {"component": "job-controller"},
        **times,
    }
    stage.api.create(stage.of("/api/v1", "events"), event)


async def test_workers_that_are_refused_are_told_though_the_cluster_is_up(
    server: ApiServer, stage: Stage, nats_server: NatsServer
) -> None:
    operator = operator_of(server, nats_server)
    await admitted(operator, stage)
    await stage.tells(1, 1)
    stage.comes_up(1)
    failure = {
        "type": "ReplicaFailure",
        "status": "True",
        "reason": "FailedCreate",
        "message": 'pods "tiny-workers-x" is forbidden: exceeded quota: team',
        "lastTransitionTime": "2030-01-01T00:00:00Z",
        "lastUpdateTime": "2030-01-01T00:00:00Z",
    }
    path = stage.of("/apis/apps/v1", "deployments", stage.names.workers, "status")
    stage.api.merge(path, {"status": {"conditions": [failure]}})
    await operator.settles(stage.namespace, stage.name)
    assert stage.condition("ClusterReady") == ("False", "PodsRefused")
    assert "0 of 2 rollout workers are ready" in message(stage, "ClusterReady")
    assert "exceeded quota: team" in message(stage, "ClusterReady")


# ── overlays ───────────────────────────────────────────────────────────────────────────────────────────────────────


def overlay(**spec: Any) -> dict[str, Any]:
    return {"spec": spec}


def worker(**fields: Any) -> dict[str, Any]:
    return overlay(containers=[{"name": "workers", **fields}])


WEAK: dict[str, Any] = {
    "hostPath": overlay(volumes=[{"name": "root", "hostPath": {"path": "/"}}]),
    "nfs": overlay(volumes=[{"name": "nfs", "nfs": {"server": "10.0.0.1", "path": "/"}}]),
    "hostNetwork": overlay(hostNetwork=True),
    "hostPID": overlay(hostPID=True),
    "hostIPC": overlay(hostIPC=True),
    "SYS_ADMIN": worker(securityContext={"capabilities": {"add": ["SYS_ADMIN"]}}),
    "privileged": worker(securityContext={"privileged": True}),
    "seLinuxOptions": overlay(securityContext={"seLinuxOptions": {"type": "spc_t"}}),
    "apparmor": {"metadata": {"annotations": {"container.apparmor.security.beta.kubernetes.io/workers": "unconfined"}}},
}


async def test_an_overlay_weakens_pods_only_where_the_chart_trusts_the_namespace(
    server: ApiServer, stage: Stage, nats_server: NatsServer
) -> None:
    operator = operator_of(server, nats_server, privileged_namespaces=["another"])
    for one, (what, weak) in named(stage, WEAK.items()):
        assert await admitted(operator, one, rollout={"podTemplate": weak}) == ("False", "InvalidPodTemplate")
        assert what in message(one)
        assert "privilegedNamespaces" in message(one)
    assert not makers(stage)
    operator = operator_of(server, nats_server, privileged_namespaces=[stage.namespace])
    for one, (what, _) in named(stage, WEAK.items()):
        await operator.settles(one.namespace, one.name)
        assert one.condition("Accepted") == ("True", "Accepted"), what
        assert f"{one.name}-workers" in makers(stage)


BROKEN: dict[str, Any] = {
    "a projected volume that is a word": overlay(volumes=[{"name": "a", "projected": "abc"}]),
    "sources that are a number": overlay(volumes=[{"name": "a", "projected": {"sources": 5}}]),
    "sources of sources": overlay(volumes=[{"name": "a", "projected": {"sources": [5, None]}}]),
    "labels that are numbers": {"metadata": {"labels": {"a": 1}}},
    "a volume that does not exist": overlay(volumes=[{"name": "a", "emptyDirs": {}}]),
    "a limit that is none": overlay(volumes=[{"name": "a", "emptyDir": {"sizeLimit": "lots"}}]),
    "tolerations that are a map": overlay(tolerations={"key": "a"}),
}


async def test_an_overlay_that_no_server_reads_is_refused_with_its_path_and_what_runs_is_supervised(
    server: ApiServer, stage: Stage, nats_server: NatsServer
) -> None:
    operator = operator_of(server, nats_server)
    assert await admitted(operator, stage) == ("True", "Accepted")
    await stage.tells(1, 1)
    stage.comes_up(1)
    await operator.settles(stage.namespace, stage.name)
    for what, broken in BROKEN.items():
        patch = [{"op": "add", "path": "/spec/rollout/podTemplate", "value": broken}]
        stage.api.request("PATCH", stage.path(stage.name), body=patch, content="application/json-patch+json")
        await operator.settles(stage.namespace, stage.name)
        assert stage.condition("Accepted") == ("False", "InvalidPodTemplate"), what
        assert "spec.rollout.podTemplate." in message(stage)
    assert ("Warning", "InvalidPodTemplate") in {(kind, reason) for kind, reason, _ in stage.events()}
    await stage.tells(1, 10, state="Complete")
    stage.head_ends(1, 0)
    await operator.settles(stage.namespace, stage.name)
    assert stage.condition("Complete") == ("True", "StepsDone")
    assert stage.condition("Accepted")[0] == "True", "one that has ended needs nothing any more"


TEMPLATE: dict[str, Any] = {
    "metadata": {"labels": {"app": "x"}},
    "spec": {"containers": [{"name": "workers", "image": "i"}], "volumes": [{"name": "tmp", "emptyDir": {}}]},
}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow])
@given(overlays=st.lists(OVERLAYS, min_size=8, max_size=8))
def test_an_overlay_that_is_let_through_is_one_that_the_server_reads(cluster: Cluster, overlays: list[Any]) -> None:
    """It may still say no to a value, with the field's name; but it never fails to read it."""
    for one in overlays:
        merged = overlaid(TEMPLATE, one, container="workers", trusted=True)
        if isinstance(merged, Rejected) or shape_mistakes(one, schemas(), path="podTemplate"):
            continue
        spec = {"selector": {"matchLabels": {"app": "x"}}, "template": merged}
        body = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "x"}, "spec": spec}
        path = "/apis/apps/v1/namespaces/default/deployments/x"
        assert _answer(cluster.api, path, body) in (200, 422), one


def _answer(api: Api, path: str, body: dict[str, Any]) -> int:
    try:
        api.apply(path, body, dryRun="All", fieldValidation="Strict")
    except Refused as refused:
        return refused.code
    return 200


async def test_a_parameter_may_be_called_as_a_reference_is(
    server: ApiServer, stage: Stage, nats_server: NatsServer
) -> None:
    """What a dataset's parameters mean is the dataset's matter: they refer to no Secret and to no claim."""
    parameters = {"chain_sum": {"tokenSecretRef": "word", "ephemeralClaim": 5, "uri": "pvc://nothing/x"}}
    source = {"datasets": ["chain_sum"], "size": 64, "seed": 1, "parameters": parameters}
    tasks = {"sources": [{"name": "sums", "type": "ReasoningGym", "reasoningGym": source}], "heldOutFraction": "0.2"}
    operator = operator_of(server, nats_server)
    assert await admitted(operator, stage, tasks=tasks) == ("True", "Accepted")
    volumes = stage.jobs(1)["head"]["spec"]["template"]["spec"]["volumes"]
    assert "claim-nothing" not in {one["name"] for one in volumes}


# ── what nobody thought of ─────────────────────────────────────────────────────────────────────────────────────────


class _Breaks:
    """A reconciler that breaks on what it sees."""

    async def observe(self, key: Key) -> Any:
        raise KeyError("name")

    def reconcile(self, observed: Any, now: Any) -> Plan:
        raise AssertionError


async def test_whatever_breaks_a_look_becomes_a_condition_with_its_cause_and_an_event(
    server: ApiServer, stage: Stage, nats_server: NatsServer
) -> None:
    operator = operator_of(server, nats_server)
    assert await admitted(operator, stage) == ("True", "Accepted")
    key = Key("OrchestratorTraining", stage.namespace, stage.name)

    async def find(key: Key) -> Manifest | None:
        return await server.get(Ref("toolorchestra.dev/v1alpha1", key.kind, key.namespace, key.name))

    async def write(plan: Plan, *, parent: Manifest) -> None:
        async def emit(news: Emit) -> None:
            await Events(server).post(news, about=parent)

        await carry_out(plan, parent=Ref.of(parent), api=server, streams=NatsStreams(), emit=emit)

    breaks = _Breaks()
    loop = ReconcileLoop(
        queue=KeyQueue(),
        reconcilers={"OrchestratorTraining": Reconciler(breaks.observe, breaks.reconcile)},
        find=find,
        carry_out=write,
        backoff=Backoff(),
        meter=Meter(),
    )
    loop.queue.add(key)
    await loop.look(await loop.queue.get())
    assert stage.condition("Accepted") == ("False", "OperatorFailed")
    assert "KeyError: 'name'" in message(stage)
    assert any(reason == "OperatorFailed" and "KeyError: 'name'" in note for _, reason, note in stage.events())
    await operator.settles(stage.namespace, stage.name)
    assert stage.condition("Accepted") == ("True", "Accepted"), "the next look that works heals it"
