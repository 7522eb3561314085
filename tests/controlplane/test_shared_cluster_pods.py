"""Pods that a shared cluster must let in, on a real API server: what they ask for, what they compute on, what an
overlay may make of them, and what is said where they are refused.

No controller runs: a Job's pods are tried by the test, as the Job controller would, and what it would write is written.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nats.aio.client import Client

from support.cluster.mortal_operator import LookingOperator
from support.cluster.openapi_excerpt import schemas
from support.cluster.pool_world import vllm_pool
from support.cluster.training_life import GROUP, Stage
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
from toolorchestra_operator.runtime.settings import Settings

DEFAULTS = {
    kind: {"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"cpu": "2", "memory": "4Gi"}}
    for kind in ("head", "trainers", "engines", "workers", "pools")
}
QUOTA = dict.fromkeys(("requests.cpu", "limits.cpu"), "100") | dict.fromkeys(
    ("requests.memory", "limits.memory"), "1000Gi"
)
FETCHED = {"uri": "hf://a/b", "price": {"inputUSDPerMillionTokens": "0", "outputUSDPerMillionTokens": "0"}}
BUILTIN = {"provider": "Builtin"}


@pytest.fixture
def stage(api: Api, namespace: str, bus: Client) -> Stage:
    return Stage(api, namespace, bus)


def operator_of(server: ApiServer, nats_server: NatsServer, **more: Any) -> LookingOperator:
    images = {"cpu_image": "cpu:1", "gpu_image": "gpu:1", "worker_image": "worker:1"}
    pools = {"pool_cpu_image": "cpu:1", "pool_gpu_image": "gpu:1"}
    return LookingOperator(server, Settings.model_validate({"nats_url": nats_server.url, **images, **pools, **more}))


async def admitted(operator: LookingOperator, stage: Stage, **spec: Any) -> tuple[str, str]:
    """The training after its first rest: status and reason of `Accepted`."""
    experts = stage.api.get(stage.of(GROUP, "expertpools"))["items"]
    stage.submit(pools=not experts, **spec)
    for pool in () if experts else ("small", "large"):
        await operator.settles(stage.namespace, pool, kind="ExpertPool")
    await operator.settles(stage.namespace, stage.name)
    return stage.condition("Accepted")


def named(stage: Stage, cases: Iterable[Any]) -> Iterator[tuple[Stage, Any]]:
    """A training of its own for each case, in one namespace."""
    for number, case in enumerate(cases):
        yield replace(stage, name=f"case-{number}"), case


def message(stage: Stage, kind: str = "Accepted") -> str:
    (found,) = (one for one in stage.status()["conditions"] if one["type"] == kind)
    return str(found["message"])


def makers(stage: Stage) -> dict[str, dict[str, Any]]:
    """What makes pods in the namespace: its name, and its template."""
    kinds = (("/apis/batch/v1", "jobs"), ("/apis/apps/v1", "deployments"))
    found = (one for group, plural in kinds for one in stage.api.get(stage.of(group, plural))["items"])
    return {one["metadata"]["name"]: one["spec"]["template"] for one in found}


def tried(stage: Stage, name: str, template: dict[str, Any]) -> str:
    """A pod of a template, as a controller makes it; the API server's words where it refuses."""
    metadata = {"name": f"{name}-0", "labels": template["metadata"]["labels"]}
    try:
        stage.api.create(stage.of("/api/v1", "pods"), {"metadata": metadata, "spec": template["spec"]})
    except Refused as refused:
        return str(refused.message)
    return ""


def quota(stage: Stage, hard: dict[str, str]) -> None:
    """A ResourceQuota that counts; its controller, which does not run here, would write its status."""
    path = stage.of("/api/v1", "resourcequotas")
    stage.api.create(path, {"metadata": {"name": "team"}, "spec": {"hard": hard}})
    stage.api.merge(f"{path}/team/status", {"status": {"hard": hard, "used": dict.fromkeys(hard, "0")}})


# ── what containers ask for ────────────────────────────────────────────────────────────────────────────────────────


async def test_every_pod_is_let_in_under_a_quota(server: ApiServer, stage: Stage, nats_server: NatsServer) -> None:
    """Head, trainers, engines, workers, a pool, and their init containers, none of which the specs say anything of."""
    quota(stage, QUOTA)
    operator = operator_of(server, nats_server, default_resources=DEFAULTS)
    assert await admitted(operator, stage, model=FETCHED) == ("True", "Accepted")
    stage.api.create(stage.of(GROUP, "expertpools"), vllm_pool())
    await operator.settles(stage.namespace, "qwen", kind="ExpertPool")
    found = makers(stage)
    assert len(found) == 5
    assert {name: tried(stage, name, template) for name, template in found.items()} == dict.fromkeys(found, "")
    fetching = [name for name, template in found.items() if "initContainers" in template["spec"]]
    assert len(fetching) == 4, "all of the training's"


async def test_what_a_spec_says_of_a_resource_is_not_contradicted(
    server: ApiServer, stage: Stage, nats_server: NatsServer
) -> None:
    operator = operator_of(server, nats_server, default_resources=DEFAULTS)
    ray = BUILTIN | {
        "head": {"resources": {"limits": {"memory": "1Gi"}}},
        "trainers": {"resources": {"requests": {"memory": "64Gi", "cpu": 8}, "limits": {"nvidia.com/gpu": 1}}},
        "engines": {"resources": {"limits": {"nvidia.com/gpu": 1}}},
    }
    workers = {"resources": {"requests": {"cpu": "1500m"}, "limits": {"cpu": 3}}}
    assert await admitted(operator, stage, model=FETCHED, ray=ray, rollout=workers) == ("True", "Accepted")
    found = {name.rsplit("-", 1)[-1]: template["spec"] for name, template in makers(stage).items()}
    asked = {name: spec["containers"][0]["resources"] for name, spec in found.items()}
    assert asked["head"] == {
        "limits": {"memory": "1Gi", "cpu": "2"},
        "requests": {"memory": "1Gi", "cpu": "100m"},
    }
    assert asked["trainers"] == {
        "limits": {"memory": "64Gi", "cpu": "8", "nvidia.com/gpu": "1"},
        "requests": {"memory": "64Gi", "cpu": "8"},
    }
    assert asked["workers"]["requests"] == {"cpu": "1500m", "memory": "256Mi"}
    assert asked["engines"]["limits"]["nvidia.com/gpu"] == "1"
    (fetch,) = found["engines"]["initContainers"]
    assert fetch["resources"] == {kind: DEFAULTS["engines"][kind] for kind in ("limits", "requests")}, "and no GPU"


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


# ── accelerators ───────────────────────────────────────────────────────────────────────────────────────────────────


def asking(trainers: dict[str, Any], engines: dict[str, Any] | None = None, **ray: Any) -> dict[str, Any]:
    engines = trainers if engines is None else engines
    return BUILTIN | {"trainers": {"resources": trainers}, "engines": {"resources": engines}} | ray


CLAIMING = {"spec": {"resourceClaims": [{"name": "gpu", "resourceClaimTemplateName": "one-h100"}]}}


COMPUTING: list[tuple[dict[str, Any], dict[str, str] | None]] = [
    (asking({"limits": {"nvidia.com/mig-1g.10gb": 1}}), {"nvidia.com/mig-1g.10gb": "1"}),
    (asking({"limits": {"amd.com/gpu": 1}}), {"amd.com/gpu": "1"}),
    (asking({"accelerator": "example.com/h100", "limits": {"example.com/h100": 1}}), {"example.com/h100": "1"}),
    (asking({"limits": {"nvidia.com/gpu": 1, "rdma/hca": 1}}), {"nvidia.com/gpu": "1", "rdma/hca": "1"}),
    (asking({"accelerator": "Claim"}, podTemplate=CLAIMING), None),
]


async def test_what_computes_gets_the_gpu_image_and_ray_is_told(
    server: ApiServer, stage: Stage, nats_server: NatsServer
) -> None:
    operator = operator_of(server, nats_server)
    for one, (ray, limits) in named(stage, COMPUTING):
        assert await admitted(operator, one, ray=ray) == ("True", "Accepted")
        for component, job in one.jobs(1).items():
            spec = job["spec"]["template"]["spec"]
            (container,) = spec["containers"]
            assert container["image"] == "gpu:1"
            if component == "head":
                assert "resourceClaims" not in spec, "it computes nothing"
                continue
            assert container["command"][-2:] == ["--gpus", "1"]
            assert container["resources"].get("limits") == limits
            assert container["resources"].get("claims") == ([{"name": "gpu"}] if limits is None else None)


UNCERTAIN: list[tuple[dict[str, Any], str]] = [
    (asking({"limits": {"example.com/npu": 1}}), "spec.ray.trainers.resources: example.com/npu: not known whether"),
    (asking({"limits": {"habana.ai/gaudi": 1}}), "habana.ai/gaudi: trainers and engines compute with CUDA or ROCm"),
    (asking({"limits": {"gpu.intel.com/i915": 1}}), "gpu.intel.com/i915: trainers and engines compute with CUDA"),
    (asking({"limits": {"gpu.intel.com/tiles": 1}}), "gpu.intel.com/tiles: not known whether it is an accelerator"),
    (asking({}, podTemplate=CLAIMING), "claims devices (resourceClaims): not known whether they are accelerators"),
    (asking({"accelerator": "Claim"}), "podTemplate claims no device"),
    (asking({"accelerator": "None", "limits": {"amd.com/gpu": 1}}), "amd.com/gpu is an accelerator"),
    (asking({"accelerator": "example.com/npu"}), "names example.com/npu, which is not in limits"),
    (asking({"limits": {"nvidia.com/gpu": 1, "nvidia.com/mig-1g.10gb": 1}}), "set resources.accelerator"),
]


async def test_what_may_not_compute_is_refused_by_name_and_never_runs_on_the_cpu(
    server: ApiServer, stage: Stage, nats_server: NatsServer
) -> None:
    operator = operator_of(server, nats_server)
    for one, (ray, said) in named(stage, UNCERTAIN):
        assert await admitted(operator, one, ray=ray) == ("False", "InvalidSpec"), said
        assert said in message(one)
    assert not makers(stage)


SERVED: list[tuple[dict[str, Any], str]] = [
    ({"resources": {"limits": {"example.com/npu": 2}}, "tensorParallelSize": 2}, "example.com/npu: not known"),
    ({"resources": {"limits": {"habana.ai/gaudi": 1}}}, "spec.vllm.image: habana.ai/gaudi needs an image"),
    ({"podTemplate": CLAIMING}, "podTemplate claims devices"),
    ({"resources": {"limits": {"habana.ai/gaudi": 1}}, "image": "vllm-gaudi:1"}, ""),
    ({"resources": {"limits": {"nvidia.com/mig-3g.40gb": 2}}, "tensorParallelSize": 2}, ""),
    ({"resources": {"accelerator": "Claim"}, "podTemplate": CLAIMING, "tensorParallelSize": 4}, ""),
]


async def test_a_pool_computes_on_what_is_known_or_stated(
    server: ApiServer, stage: Stage, nats_server: NatsServer
) -> None:
    operator = operator_of(server, nats_server)
    path = stage.of(GROUP, "expertpools")
    for number, (vllm, said) in enumerate(SERVED):
        name = f"pool-{number}"
        stage.api.create(path, vllm_pool(**vllm) | {"metadata": {"name": name}})
        await operator.settles(stage.namespace, name, kind="ExpertPool")
        conditions = {one["type"]: one for one in stage.api.get(f"{path}/{name}")["status"]["conditions"]}
        assert conditions["Accepted"]["status"] == ("False" if said else "True")
        assert said in conditions["Accepted"]["message"]
        template = makers(stage).get(f"{name}-vllm")
        assert (template is None) == bool(said)
        if template is not None:
            assert "--enforce-eager" not in template["spec"]["containers"][0]["command"], "that is for the CPU"


@pytest.mark.parametrize("amount", ["500m", "1.0", "1Ki", "0.5"])
def test_a_part_of_a_gpu_is_refused_by_the_schema(stage: Stage, amount: str) -> None:
    for ray in (asking({"limits": {"nvidia.com/gpu": amount}}), asking({"requests": {"example.com/npu": amount}})):
        with pytest.raises(Refused, match="whole number"):
            stage.submit(pools=False, ray=ray)
    pool = vllm_pool(resources={"limits": {"nvidia.com/mig-1g.10gb": amount}})
    with pytest.raises(Refused, match="whole number"):
        stage.api.create(stage.of(GROUP, "expertpools"), pool)


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
