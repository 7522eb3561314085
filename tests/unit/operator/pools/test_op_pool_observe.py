"""What is read for a pool: by name, pods only while replicas are missing, and what is referred to and is not there."""

from __future__ import annotations

import base64
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from support.cluster.openapi_excerpt import schemas
from support.cluster.pool_world import FOR_POOLS, RUNTIME, PoolWorld, endpoint_pool, stored, vllm_pool
from toolorchestra.api.conditions import Reason
from toolorchestra.api.pool import MeasuredService
from toolorchestra.kube.errors import Forbidden
from toolorchestra_operator.kubernetes.manifest import Key, Ref
from toolorchestra_operator.kubernetes.openapi import Schemas
from toolorchestra_operator.pools.observe import PoolObserver
from toolorchestra_operator.pools.observed import Observed
from toolorchestra_operator.pools.probe import Answer, Prober, Target
from toolorchestra_operator.pools.reach import Reach

KEY = Key("ExpertPool", "default", "qwen")
NOW = datetime(2030, 1, 1, tzinfo=UTC)


class FakeApi:
    """Objects by reference; remembers what was listed."""

    def __init__(self, *objects: dict[str, Any]) -> None:
        self.objects = {Ref.of(one): one for one in objects}
        self.listed: list[tuple[str, str, str]] = []
        self.forbidden: set[str] = set()

    async def get(self, ref: Ref) -> dict[str, Any] | None:
        if ref.kind in self.forbidden:
            raise Forbidden("no", verb="get", resource=str(ref), code=403)
        return self.objects.get(ref)

    async def list(self, api_version: str, kind: str, *, namespace: str = "", labels: str = "") -> list[dict[str, Any]]:
        self.listed.append((kind, namespace, labels))
        return [{"metadata": {"name": "qwen-vllm-1"}}]

    async def openapi(self) -> Schemas:
        return schemas()


class RecordingProber(Prober):
    """Answers at once, and remembers whom it was to ask."""

    def __init__(self) -> None:
        super().__init__(Reach())
        self.targets: list[Target] = []
        self.forgotten: list[Key] = []

    async def answer(self, pool: Key, target: Target) -> Answer | None:
        self.targets.append(target)
        return Answer(target.kind, Reason.PROBE_ANSWERED, "", NOW, target.model)

    def forget(self, pool: Key) -> None:
        self.forgotten.append(pool)


def secret(name: str, **data: str) -> dict[str, Any]:
    encoded = {key.replace("_", "-"): base64.b64encode(value.encode()).decode() for key, value in data.items()}
    found = named("Secret", name, data=encoded)
    return {**found, "metadata": {**found["metadata"], "labels": FOR_POOLS}}


def named(kind: str, name: str, **fields: Any) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": kind, "metadata": {"name": name, "namespace": "default"}, **fields}


def reconciler(*objects: dict[str, Any]) -> tuple[PoolObserver, FakeApi, RecordingProber]:
    api, prober = FakeApi(*objects), RecordingProber()
    return PoolObserver(api=api, runtime=RUNTIME, prober=prober), api, prober


async def observed(*objects: dict[str, Any]) -> tuple[Observed, FakeApi, RecordingProber]:
    made, api, prober = reconciler(*objects)
    found = await made.observe(KEY)
    assert found is not None
    return found, api, prober


async def test_a_pool_that_is_gone_is_forgotten() -> None:
    made, _, prober = reconciler()
    assert await made.observe(KEY) is None
    assert prober.forgotten == [KEY]


def served(*, ready: int) -> tuple[dict[str, Any], ...]:
    world = PoolWorld(vllm_pool())
    world.settle()
    world.deployment_status(ready=ready, replicas=1)
    return (world.parent, *(dict(live) for live in world.live().values()))


async def test_pods_are_listed_only_while_replicas_are_missing() -> None:
    found, api, prober = await observed(*served(ready=1))
    assert not api.listed
    assert {ref.kind for ref in found.objects} == {
        "Deployment",
        "NetworkPolicy",
        "PodDisruptionBudget",
        "Secret",
        "Service",
    }
    (target,) = prober.targets
    assert (target.kind, target.url, target.model) == ("Models", "http://qwen-vllm.default.svc:8000/v1", "qwen")
    assert (target.key, target.inside) == ("token-1", True)
    found, api, prober = await observed(*served(ready=0))
    assert api.listed == [("Pod", "default", "toolorchestra.dev/pool=qwen")]
    assert len(found.pods) == 1
    assert not prober.targets, "nobody is there to ask"


@pytest.mark.parametrize("owners", [[], [{"kind": "ExpertPool", "name": "qwen", "uid": "earlier", "controller": True}]])
async def test_what_others_have_under_its_names_is_not_read(owners: list[dict[str, Any]]) -> None:
    """Neither their replicas count as the pool's, nor is their Secret's value sent anywhere."""
    pool, *made = served(ready=1)
    theirs = [{**one, "metadata": {**one["metadata"], "ownerReferences": owners}} for one in made]
    found, _, prober = await observed(pool, *theirs)
    assert found.objects == {}
    assert not prober.targets


async def test_the_endpoint_is_asked_with_its_key() -> None:
    pool = stored(
        endpoint_pool(
            apiKeySecretRef={"name": "openai", "key": "api-key"},
            probe="Completion",
            parameterNames={"maxTokens": "max_completion_tokens"},
        )
    )
    found, _, prober = await observed(pool, secret("openai", api_key="sk-1\n"))
    assert prober.targets == [
        Target("Completion", "http://expert.example/v1", "oak", "sk-1", max_tokens="max_completion_tokens")
    ]
    assert found.answer is not None
    assert not found.missing
    assert not found.objects


async def test_who_is_not_to_be_asked_is_not() -> None:
    found, _, prober = await observed(stored(endpoint_pool(probe="None")))
    assert not prober.targets
    assert (found.answer, found.asking) == (None, False)


TOKEN = {"uri": "hf://a/b", "tokenSecretRef": {"name": "hub", "key": "token"}}
CLASS = {"type": "EphemeralClaim", "ephemeralClaim": {"storageClassName": "fast"}}
DESCRIBED = {"configMapKeyRef": {"name": "texts", "key": "oak"}}


@pytest.mark.parametrize(
    ("pool", "there", "reason", "words"),
    [
        (vllm_pool(model=TOKEN), (), Reason.SECRET_NOT_FOUND, "spec.vllm.model.tokenSecretRef: there is no Secret hub"),
        (
            vllm_pool(model=TOKEN),
            (secret("hub", other="x"),),
            Reason.SECRET_NOT_FOUND,
            "Secret hub in namespace default has no key token: add it",
        ),
        (vllm_pool(model={"uri": "pvc://weights/a"}), (), Reason.CLAIM_NOT_FOUND, "no PersistentVolumeClaim weights"),
        (
            vllm_pool(cache={"type": "ExistingClaim", "existingClaim": {"claimName": "c"}}),
            (),
            Reason.CLAIM_NOT_FOUND,
            "spec.vllm.cache.existingClaim.claimName",
        ),
        (vllm_pool(cache=CLASS), (), Reason.STORAGE_CLASS_NOT_FOUND, "there is no StorageClass fast: create it"),
        (
            endpoint_pool(apiKeySecretRef={"name": "openai", "key": "k"}),
            (),
            Reason.SECRET_NOT_FOUND,
            "spec.endpoint.apiKeySecretRef",
        ),
    ],
)
async def test_what_is_not_there(pool: dict[str, Any], there: Any, reason: Reason, words: str) -> None:
    found, _, prober = await observed(stored(pool), *there)
    (missing,) = found.missing
    assert missing.reason is reason
    assert words in missing.message
    assert not prober.targets


CERTIFICATES = {"name": "ca", "secret": {"secretName": "mounted"}}
REFERRING = {
    "spec": {
        "volumes": [CERTIFICATES, {"name": "p", "projected": {"sources": [{"secret": {"name": "projected"}}, 5]}}],
        "containers": [
            {
                "name": "vllm",
                "env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "variable", "key": "k"}}}],
                "envFrom": [{"secretRef": {"name": "all", "optional": True}}, {"secretRef": "odd"}, None],
            }
        ],
        "imagePullSecrets": [{"name": "registry"}],
    }
}


async def test_a_secret_is_for_pools_only_where_its_label_says_so() -> None:
    """Also where a pod's overlay refers to it, however oddly: whoever may make pools may read what is mounted."""
    kept = {one["metadata"]["name"]: one for one in map(secret, ("mounted", "projected", "variable", "all"))}
    for one in kept.values():
        one["metadata"]["labels"] = {"toolorchestra.dev/secret-for": "trainings"}
    pool = stored(vllm_pool(podTemplate=REFERRING))
    found, _, prober = await observed(pool, *kept.values())
    base = "spec.vllm.podTemplate.spec"
    assert [(one.reason, one.message.partition(":")[0]) for one in found.missing] == [
        (Reason.SECRET_NOT_ALLOWED, f"{base}.volumes[0].secret.secretName"),
        (Reason.SECRET_NOT_ALLOWED, f"{base}.volumes[1].projected.sources[0].secret"),
        (Reason.SECRET_NOT_ALLOWED, f"{base}.containers[0].env[0].valueFrom.secretKeyRef"),
        (Reason.SECRET_NOT_ALLOWED, f"{base}.containers[0].envFrom[0].secretRef"),
    ]
    assert "kubectl label -n default secret/mounted toolorchestra.dev/secret-for=pools" in found.missing[0].message
    assert not prober.targets
    made, _, _ = reconciler(pool, *kept.values())
    as_before = await replace(made, runtime=replace(RUNTIME, secrets_need_label=False)).observe(KEY)
    assert as_before is not None
    assert not as_before.missing


async def test_a_description_kept_elsewhere() -> None:
    pool = endpoint_pool()
    del pool["spec"]["description"]
    pool["spec"]["descriptionFrom"] = DESCRIBED
    found, _, _ = await observed(stored(pool))
    assert [one.reason for one in found.missing] == [Reason.CONFIG_MAP_NOT_FOUND]
    found, _, _ = await observed(stored(pool), named("ConfigMap", "texts", data={"oak": "wise"}))
    assert not found.missing


async def test_an_operator_that_may_not_see_storage_classes_takes_them_as_there() -> None:
    made, api, _ = reconciler(stored(vllm_pool(cache=CLASS)))
    api.forbidden = {"StorageClass"}
    found = await made.observe(KEY)
    assert found is not None
    assert not found.missing
    made, api, _ = reconciler(stored(vllm_pool(model=TOKEN)))
    api.forbidden = {"Secret"}
    with pytest.raises(Forbidden):
        await made.observe(KEY)


async def test_what_is_being_deleted_or_cannot_be_read_is_not_asked() -> None:
    leaving = stored(endpoint_pool())
    leaving["metadata"]["deletionTimestamp"] = "2030-01-01T00:00:00Z"
    unreadable = stored(endpoint_pool())
    unreadable["spec"]["endpoint"]["url"] = "nowhere"
    for pool in (leaving, unreadable):
        _, _, prober = await observed(pool)
        assert not prober.targets
        assert prober.forgotten == [KEY]


async def test_the_token_is_random_and_the_measurements_come_from_a_port() -> None:
    first, _, _ = await observed(stored(vllm_pool()))
    second, _, _ = await observed(stored(vllm_pool()))
    assert len(first.token) >= 32
    assert first.token != second.token
    assert first.measured is None
    measured = MeasuredService(latency_milliseconds_p50=3)
    made = PoolObserver(
        api=FakeApi(stored(vllm_pool())), runtime=RUNTIME, prober=RecordingProber(), measurements=lambda pool: measured
    )
    found = await made.observe(KEY)
    assert found is not None
    assert found.measured == measured
