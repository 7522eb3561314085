"""ExpertPools on a real API server: objects are accepted, a second pass writes nothing, what is refused is told."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from support.cluster.pool_operator import POOLS, Operator
from support.cluster.pool_world import FOR_POOLS, GPU, vllm_pool
from testbed.api import Api, Refused
from testbed.cluster import Cluster
from toolorchestra.kube.errors import Invalid
from toolorchestra_operator.kubernetes.manifest import Manifest
from toolorchestra_operator.pools.names import PoolNames
from toolorchestra_operator.runtime.refused import refused

VARIANTS: dict[str, dict[str, Any]] = {
    "cpu": {"resources": {"limits": {"cpu": "1500m", "memory": "4Gi"}, "requests": {"memory": "1024Mi"}}},
    "gpu": {"resources": GPU, "tensorParallelSize": 1, "shmSize": "8192Mi", "maxModelLen": 4096},
    "rich": {
        "replicas": 3,
        "minAvailable": 2,
        "cache": {"type": "EphemeralClaim", "ephemeralClaim": {"size": "102400Mi"}},
        "queueName": "experts",
        "drainSeconds": 0,
        "extraArgs": ["--max-num-seqs=8"],
        "resources": {"accelerator": "None"},
        "podTemplate": {
            "metadata": {"labels": {"team": "a"}, "annotations": {"x/y": "z"}},
            "spec": {
                "nodeSelector": {"gpu": "h100"},
                "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}],
                "topologySpreadConstraints": [
                    {"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "ScheduleAnyway"}
                ],
                "affinity": {
                    "podAntiAffinity": {
                        "preferredDuringSchedulingIgnoredDuringExecution": [
                            {"weight": 1, "podAffinityTerm": {"topologyKey": "kubernetes.io/hostname"}}
                        ]
                    }
                },
                "runtimeClassName": "nvidia",
                "imagePullSecrets": [{"name": "registry"}],
                "resourceClaims": [{"name": "gpu", "resourceClaimTemplateName": "gpu"}],
                "volumes": [{"name": "ib", "emptyDir": {"medium": "Memory", "sizeLimit": "1024Mi"}}],
                "securityContext": {"fsGroup": 2000, "supplementalGroups": [44]},
                "containers": [
                    {
                        "name": "vllm",
                        "env": [{"name": "NCCL_DEBUG", "value": "INFO"}],
                        "volumeMounts": [{"name": "ib", "mountPath": "/ib"}],
                        "resources": {"claims": [{"name": "gpu"}]},
                        "securityContext": {"readOnlyRootFilesystem": True},
                    }
                ],
            },
        },
    },
    "object store": {"model": {"uri": "s3://bucket/m", "tokenSecretRef": {"name": "s3", "key": "c"}}, "image": "x"},
    "claim": {"model": {"uri": "pvc://weights/m"}},
}


def needs(api: Api, namespace: str) -> None:
    """What the variants refer to."""
    core = f"/api/v1/namespaces/{namespace}"
    api.create(f"{core}/secrets", {"metadata": {"name": "s3", "labels": FOR_POOLS}, "stringData": {"c": "x"}})
    claim = {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}}
    api.create(f"{core}/persistentvolumeclaims", {"metadata": {"name": "weights"}, "spec": claim})


@pytest.mark.parametrize("variant", VARIANTS)
async def test_its_objects_are_accepted_and_a_second_pass_writes_nothing(
    operator: Operator, api: Api, cluster: Cluster, namespace: str, variant: str
) -> None:
    needs(api, namespace)
    api.create(POOLS.format(namespace), vllm_pool(**VARIANTS[variant]))
    since = cluster.audit_log.position()
    await operator.look()
    agent = {"user_agent": "toolorchestra-operator", "namespace": namespace}
    assert cluster.audit_log.writes(since=since, **agent)
    names = PoolNames.of(await operator.live())
    made = {ref for ref in names.refs if await operator.server.get(ref) is not None}
    claimed = variant == "rich"
    assert made == {ref for ref in names.refs if claimed or ref.kind != "PersistentVolumeClaim"}
    assert await operator.says("Accepted") == ("True", "Accepted")
    since = cluster.audit_log.position()
    for _ in range(3):
        again = await operator.look()
        assert again.empty, again
    assert not cluster.audit_log.writes(since=since, **agent)


async def test_a_changed_operator_rolls_nothing(operator: Operator, api: Api, namespace: str) -> None:
    api.create(POOLS.format(namespace), vllm_pool())
    await operator.look()
    ref = PoolNames.of(await operator.live()).deployment_ref
    before = await operator.server.get(ref)
    assert before is not None
    operator.runtime = replace(operator.runtime, cpu_image="cpu@sha256:2", otlp_endpoint="http://collector:4318")
    assert (await operator.look()).empty
    path = f"{POOLS.format(namespace)}/qwen"
    api.merge(path, {"metadata": {"annotations": {"toolorchestra.dev/refresh-template": "1"}}})
    await operator.look()
    after = await operator.server.get(ref)
    assert after is not None
    assert after["metadata"]["generation"] == before["metadata"]["generation"] + 1
    assert after["spec"]["template"]["spec"]["containers"][0]["image"] == "cpu@sha256:2"
    assert (await operator.look()).empty


async def test_edits_by_hand_are_undone_and_scaling_goes_through_the_pool(
    operator: Operator, api: Api, namespace: str
) -> None:
    api.create(POOLS.format(namespace), vllm_pool())
    await operator.look()
    names = PoolNames.of(await operator.live())
    deployment = f"/apis/apps/v1/namespaces/{namespace}/deployments/{names.server}"
    api.merge(deployment, {"spec": {"replicas": 7, "template": {"metadata": {"annotations": {"theirs": "stays"}}}}})
    await operator.look()
    live = api.get(deployment)
    assert live["spec"]["replicas"] == 1
    assert live["spec"]["template"]["metadata"]["annotations"]["theirs"] == "stays"
    assert (await operator.look()).empty
    api.merge(f"{POOLS.format(namespace)}/qwen/scale", {"spec": {"replicas": 3}})
    await operator.look()
    assert api.get(deployment)["spec"]["replicas"] == 3
    scale = api.get(f"{POOLS.format(namespace)}/qwen/scale")
    assert scale["status"]["selector"] == "app.kubernetes.io/component=vllm,toolorchestra.dev/pool=qwen"


def pod_of(template: Manifest) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {**template["metadata"], "name": "p"},
        "spec": dict(template["spec"]),
    }


async def test_pod_security(operator: Operator, api: Api, namespace: str) -> None:
    """Restricted without a GPU; with one only the image's root is in the way, and baseline lets it in."""
    core = f"/api/v1/namespaces/{namespace}"
    for level, variant, let_in in (
        ("restricted", {}, True),
        ("restricted", VARIANTS["rich"], True),
        ("restricted", VARIANTS["gpu"], False),
        ("baseline", VARIANTS["gpu"], True),
    ):
        api.merge(core, {"metadata": {"labels": {"pod-security.kubernetes.io/enforce": level}}})
        api.create(POOLS.format(namespace), vllm_pool(**variant))
        await operator.look()
        live = await operator.live()
        deployment = await operator.server.get(PoolNames.of(live).deployment_ref)
        assert deployment is not None
        pod = pod_of(deployment["spec"]["template"])
        pod["spec"].pop("runtimeClassName", None)  # its admission wants the class to exist
        if let_in:
            api.create(f"{core}/pods", pod, dryRun="All")
        else:
            with pytest.raises(Refused, match="runAsNonRoot") as refused:
                api.create(f"{core}/pods", pod, dryRun="All")
            assert "allowPrivilegeEscalation" not in refused.value.message
        for ref in PoolNames.of(live).refs:
            if (child := await operator.server.get(ref)) is not None:
                await operator.server.set_finalizer(ref, False, name="kubernetes.io/pvc-protection")
                await operator.server.delete(ref, uid=child["metadata"]["uid"])
        api.delete(f"{POOLS.format(namespace)}/qwen")


async def test_what_is_missing_is_told_and_heals(operator: Operator, api: Api, namespace: str) -> None:
    api.create(
        POOLS.format(namespace), vllm_pool(model={"uri": "hf://a/b", "tokenSecretRef": {"name": "s", "key": "k"}})
    )
    await operator.look()
    assert await operator.says("Accepted") == ("False", "SecretNotFound")
    assert (await operator.look()).empty
    secrets = f"/api/v1/namespaces/{namespace}/secrets"
    api.create(secrets, {"metadata": {"name": "s"}, "stringData": {"k": "x"}})
    await operator.look()
    assert await operator.says("Accepted") == ("False", "SecretNotAllowed")
    api.merge(f"{secrets}/s", {"metadata": {"labels": FOR_POOLS}})
    await operator.look()
    assert await operator.says("Accepted") == ("True", "Accepted")
    events = api.get(f"/apis/events.k8s.io/v1/namespaces/{namespace}/events")["items"]
    assert {"SecretNotFound", "Accepted"} <= {event["reason"] for event in events}


async def test_a_missing_storage_class(operator: Operator, api: Api, namespace: str) -> None:
    cache = {"type": "EphemeralClaim", "ephemeralClaim": {"storageClassName": f"fast-{namespace}"}}
    api.create(POOLS.format(namespace), vllm_pool(cache=cache))
    await operator.look()
    assert await operator.says("Accepted") == ("False", "StorageClassNotFound")
    classes = "/apis/storage.k8s.io/v1/storageclasses"
    api.create(classes, {"metadata": {"name": f"fast-{namespace}"}, "provisioner": "example.org/none"})
    try:
        await operator.look()
        assert await operator.says("Accepted") == ("True", "Accepted")
    finally:
        api.delete(f"{classes}/fast-{namespace}")


async def test_what_only_the_api_server_sees_is_its_refusal(operator: Operator, api: Api, namespace: str) -> None:
    """A schema has names and types of fields, not their values; the apply knows these, and names the field."""
    overlay = {"spec": {"tolerations": [{"key": "gpu", "operator": "Sometimes"}]}}
    api.create(POOLS.format(namespace), vllm_pool(podTemplate=overlay))
    with pytest.raises(Invalid, match=r"tolerations\[0\]\.operator"):
        await operator.look()


async def test_a_refusal_of_any_length_is_written_and_tells_all_conditions(
    operator: Operator, api: Api, namespace: str
) -> None:
    """What the API server refuses of a pool's objects is said by the loop, with the server's words."""
    api.create(POOLS.format(namespace), vllm_pool())
    for words in ("short", "x" * 100_000, "ü" * 100_000):
        live = await operator.live()
        plan = refused(live, Invalid(words, verb="apply", resource="Deployment", code=422), operator.now)
        await operator.carry_out(plan, live)
        status = (await operator.live())["status"]
        assert status["observedGeneration"] == 1
        said = {one["type"]: (one["status"], one["reason"]) for one in status["conditions"]}
        assert said == {
            "Accepted": ("False", "InvalidSpec"),
            **dict.fromkeys(("Progressing", "Available", "Degraded", "Routable"), ("Unknown", "NotReady")),
            "Ready": ("False", "NotReady"),
        }
        assert refused(await operator.live(), Invalid(words, verb="apply", resource="Deployment"), operator.now).empty
        (accepted,) = (one for one in status["conditions"] if one["type"] == "Accepted")
        assert accepted["message"].endswith("Change the field that is named.")
    await operator.look()
    assert await operator.says("Progressing") == ("True", "RollingOut")
