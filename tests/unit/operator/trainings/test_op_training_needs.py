"""What a training refers to: every reference that the schema allows, with the reason where it leads nowhere."""

from __future__ import annotations

from typing import Any

import pytest

from toolorchestra.api.conditions import Reason
from toolorchestra.kube.errors import Forbidden
from toolorchestra_operator.kubernetes.manifest import Ref
from toolorchestra_operator.planning.needs import Need, look, missing, storage_class
from toolorchestra_operator.trainings.needs import needs

SECRET = {"name": "keys", "key": "token"}


def found(spec: dict[str, Any], *, has_storage: bool = False) -> tuple[Need, ...]:
    return needs({"metadata": {"namespace": "default"}, "spec": spec}, has_storage=has_storage)


def here(kind: str, name: str) -> Ref:
    return Ref("v1", kind, "default", name)


CASES: list[tuple[dict[str, Any], Need, Reason]] = [
    (
        {"model": {"uri": "hf://a/b", "tokenSecretRef": SECRET}},
        Need("spec.model.tokenSecretRef", here("Secret", "keys"), "token"),
        Reason.SECRET_NOT_FOUND,
    ),
    (
        {"messaging": {"workerSecretRef": SECRET}},
        Need("spec.messaging.workerSecretRef", here("Secret", "keys"), "token"),
        Reason.SECRET_NOT_FOUND,
    ),
    (
        {"model": {"uri": "pvc://models/base/one"}},
        Need("spec.model.uri", here("PersistentVolumeClaim", "models")),
        Reason.CLAIM_NOT_FOUND,
    ),
    (
        {"tasks": {"sources": [{"type": "JSONL", "jsonl": {"uri": "pvc://tasks/a.jsonl"}}]}},
        Need("spec.tasks.sources.0.jsonl.uri", here("PersistentVolumeClaim", "tasks")),
        Reason.CLAIM_NOT_FOUND,
    ),
    (
        {"storage": {"type": "ExistingClaim", "existingClaim": {"claimName": "runs"}}},
        Need("spec.storage.existingClaim.claimName", here("PersistentVolumeClaim", "runs")),
        Reason.CLAIM_NOT_FOUND,
    ),
    (
        {"storage": {"ephemeralClaim": {"storageClassName": "fast"}}},
        Need("spec.storage.ephemeralClaim.storageClassName", storage_class("fast")),
        Reason.STORAGE_CLASS_NOT_FOUND,
    ),
    (
        {"ray": {"modelCache": {"type": "EphemeralClaim", "ephemeralClaim": {"storageClassName": "fast"}}}},
        Need("spec.ray.modelCache.ephemeralClaim.storageClassName", storage_class("fast")),
        Reason.STORAGE_CLASS_NOT_FOUND,
    ),
]


@pytest.mark.parametrize(("spec", "need", "reason"), CASES)
def test_what_a_field_needs(spec: dict[str, Any], need: Need, reason: Reason) -> None:
    assert found(spec) == (need,)
    lacking = missing(need, None)
    assert lacking is not None
    assert lacking.reason == reason
    assert lacking.message.startswith(f"{need.path}: there is no {need.ref.kind} {need.ref.name}")


@pytest.mark.parametrize(
    "spec",
    [
        {"export": {"uri": "pvc://models/out"}},
        {"ray": {"podTemplate": {"spec": {"existingClaim": "a word of somebody's own"}}}},
        {"storage": {"ephemeralClaim": {"size": "1Gi"}}},
        {"model": {"uri": "hf://a/b"}},
        {"model": {"tokenSecretRef": "a word"}},
        {"model": {"tokenSecretRef": {"name": 5, "key": ["a"]}}},
        {"storage": {"existingClaim": ["a"], "ephemeralClaim": 5}},
        {"tasks": {"sources": [{"reasoningGym": {"parameters": {"a": {"tokenSecretRef": "b", "uri": "pvc://c/d"}}}}]}},
        {"tools": {"functions": [{"description": "pvc://is/a/word"}]}},
    ],
)
def test_what_needs_nothing(spec: dict[str, Any]) -> None:
    assert found(spec) == ()


def test_a_volume_that_is_made_needs_its_class_no_more() -> None:
    spec = {
        "storage": {"ephemeralClaim": {"storageClassName": "fast"}},
        "ray": {"modelCache": {"type": "EphemeralClaim", "ephemeralClaim": {"storageClassName": "slow"}}},
    }
    assert [need.ref.name for need in found(spec)] == ["fast", "slow"]
    assert [need.ref.name for need in found(spec, has_storage=True)] == ["slow"]


class Api:
    def __init__(self, **held: dict[str, Any]) -> None:
        self.held, self.asked = held, list[str]()

    async def get(self, ref: Ref) -> dict[str, Any] | None:
        self.asked.append(ref.name)
        if ref.kind == "StorageClass" or ref.name == "hidden":
            raise Forbidden("no", verb="get", resource=str(ref), code=403)
        return self.held.get(ref.name)


async def test_what_is_there_is_asked_once_and_a_class_nobody_may_see_is_taken_as_there() -> None:
    api = Api(keys={"data": {"token": ""}})
    wanted = [
        Need("spec.a", here("Secret", "keys"), "token"),
        Need("spec.b", here("Secret", "keys"), "other"),
        Need("spec.c", storage_class("fast")),
    ]
    lacking, held = await look(api, wanted)
    assert [one.message for one in lacking] == ["spec.b: Secret keys in namespace default has no key other: add it"]
    assert list(held) == [here("Secret", "keys")]
    assert api.asked == ["keys", "fast"]


@pytest.mark.parametrize("name", ["", "..", "a?watch=1", "A"])
async def test_what_is_no_name_is_missing_and_never_asked_for(name: str) -> None:
    api = Api()
    lacking, _ = await look(api, [Need("spec.model.uri", here("PersistentVolumeClaim", name))])
    assert [one.reason for one in lacking] == [Reason.CLAIM_NOT_FOUND]
    assert not api.asked


async def test_a_right_that_is_missing_is_not_an_object_that_is_missing() -> None:
    with pytest.raises(Forbidden):
        await look(Api(), [Need("spec.a", here("Secret", "hidden"), "token")])
