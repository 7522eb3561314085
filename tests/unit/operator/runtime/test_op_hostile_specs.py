"""Whatever a spec says where no schema looks: no reconcile breaks, none is silent, and what runs is supervised."""

from __future__ import annotations

import copy
from datetime import UTC, datetime
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from support.cluster.openapi_excerpt import schemas
from support.cluster.pool_world import PoolWorld, vllm_pool
from support.hostile_specs import OVERLAYS, PARAMETERS, RESOURCES
from support.real_run import TINY_RUN
from toolorchestra.api.conditions import Reason
from toolorchestra.api.pool import ExpertPool
from toolorchestra_operator.kubernetes.manifest import Ref
from toolorchestra_operator.planning.plan import Create, Plan
from toolorchestra_operator.pools.needs import needs as pool_needs
from toolorchestra_operator.trainings.names import TrainingNames
from toolorchestra_operator.trainings.needs import needs
from toolorchestra_operator.trainings.observed import Messaging, Observed
from toolorchestra_operator.trainings.reconcile import reconcile
from toolorchestra_operator.trainings.runtime import Runtime

FEW, MANY = 150, 2500
"""Examples of trainings, and as many of pools."""
NOW = datetime(2030, 1, 1, tzinfo=UTC)
RUNTIME = Runtime(cpu_image="cpu", gpu_image="gpu", worker_image="worker", nats_url="nats://nats:4222")
DOCUMENTS: list[dict[str, Any]] = list(yaml.safe_load_all((TINY_RUN / "training.yaml").read_text()))
POOLS = tuple(ExpertPool.model_validate(one) for one in DOCUMENTS[1:])
UID = "0b1d6a2e-6c1f-4d0b-9f43-6f3f6a0f7a11"
SCHEMAS = schemas()
QUIET = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large]}


def a_training(ray: Any, workers: Any, nodes: tuple[Any, Any, Any], asked: Any, parameters: Any) -> dict[str, Any]:
    parent = copy.deepcopy(DOCUMENTS[0])
    parent["metadata"] |= {"namespace": "default", "uid": UID, "generation": 1}
    names = ("head", "trainers", "engines")
    resources = {name: {"resources": one} for name, one in zip(names, nodes, strict=True)}
    parent["spec"]["ray"] = {"provider": "Builtin", "podTemplate": ray, **resources}
    parent["spec"]["rollout"] = {"podTemplate": workers, "resources": asked}
    for source in parent["spec"]["tasks"]["sources"]:
        if "reasoningGym" in source:
            source["reasoningGym"]["parameters"] = parameters
    return parent


TRAININGS = st.builds(
    a_training,
    OVERLAYS,
    OVERLAYS,
    st.one_of(st.just(({}, {}, {})), st.tuples(RESOURCES, RESOURCES, RESOURCES)),
    RESOURCES,
    PARAMETERS,
)
WORD = {"spec": {"volumes": [{"name": "a", "projected": "abc"}]}}
NUMBER = {"spec": {"volumes": [{"name": "a", "projected": {"sources": 5}}]}}
HALF, ONE_POINT = {"limits": {"nvidia.com/gpu": "500m"}}, {"limits": {"nvidia.com/gpu": "1.0"}}
"""What broke it once."""
POOL_SPECS = st.fixed_dictionaries({"podTemplate": OVERLAYS}, optional={"resources": RESOURCES})


def look(parent: dict[str, Any], objects: dict[Ref, Any] | None = None, pods: tuple[Any, ...] = ()) -> Plan:
    needs(parent, has_storage=False)
    return reconcile(
        Observed(
            parent=parent,
            runtime=RUNTIME,
            schemas=SCHEMAS,
            objects=objects or {},
            pods=pods,
            pools=POOLS,
            messaging=Messaging(ready=True),
            token="t" * 64,
        ),
        NOW,
    )


def says_so(plan: Plan) -> bool:
    """Whether it is accepted; where not, it is said why, and by an event too."""
    assert plan.status is not None
    (accepted,) = (one for one in plan.status["conditions"] if one["type"] == "Accepted")
    assert accepted["reason"] != Reason.OPERATOR_FAILED, accepted["message"]
    if accepted["status"] == "True":
        return True
    assert accepted["message"]
    assert any(getattr(action, "reason", "") == accepted["reason"] for action in plan.actions), "no event"
    return False


def survives(parent: dict[str, Any]) -> None:
    """Admission, what is made, and, whatever the spec, the end of what runs."""
    first = look(parent)
    assert first.status is not None
    if says_so(first):
        made = look({**parent, "status": first.status})
        assert any(isinstance(one, Create) and one.manifest["kind"] == "Job" for one in made.actions)
    running = {"attempt": 1, "restarts": 0, "ray": {"provider": "Builtin", "name": "tiny-1", "image": "cpu"}}
    names = TrainingNames.of(parent)
    owners = names.metadata("x", "head")["ownerReferences"]
    labels = names.labels("head", attempt=1)
    head: dict[str, Any] = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": names.job(1, "head"), "namespace": "default", "uid": "j", "labels": labels},
        "spec": {"parallelism": 1},
        "status": {"conditions": [{"type": "Complete", "status": "True"}]},
    }
    head["metadata"] |= {"ownerReferences": owners, "creationTimestamp": "2030-01-01T00:00:00Z"}
    state = {"terminated": {"exitCode": 0, "message": ""}}
    ended = {"containerStatuses": [{"name": "head", "state": state}], "phase": "Succeeded"}
    pod = {"metadata": {"name": "h", "labels": labels}, "status": ended}
    plan = look({**parent, "status": running}, {Ref.of(head): head}, (pod,))
    assert plan.status is not None
    says = {one["type"]: one["status"] for one in plan.status["conditions"]}
    assert says["Complete"] == "True"
    assert "Accepted" in says


def pool_survives(vllm: dict[str, Any]) -> None:
    pool = vllm_pool(**vllm)
    try:
        world = PoolWorld(pool)
    except ValueError:  # the schema refuses it; one of an older release did not
        world = PoolWorld(vllm_pool())
        world.parent["spec"]["vllm"] |= vllm
    else:
        pool_needs(ExpertPool.model_validate(pool), namespace="default")
    if says_so(world.plan()):
        world.settle()
        assert world.template()["spec"]["containers"]


@settings(max_examples=FEW, **QUIET)
@given(TRAININGS)
@example(a_training({}, WORD, ({}, {}, {}), {}, {}))
@example(a_training(NUMBER, {}, ({}, {}, {}), {}, {"a": {"tokenSecretRef": "b"}}))
@example(a_training({}, {}, ({}, HALF, ONE_POINT), {}, {}))
def test_no_spec_of_a_training_breaks_a_look_or_silences_it(parent: dict[str, Any]) -> None:
    survives(parent)


@settings(max_examples=FEW, **QUIET)
@given(POOL_SPECS)
@example({"podTemplate": WORD})
@example({"podTemplate": NUMBER, "resources": HALF})
def test_no_spec_of_a_pool_breaks_a_look_or_silences_it(vllm: dict[str, Any]) -> None:
    pool_survives(vllm)


@pytest.mark.long
@pytest.mark.timeout(1800)
@settings(max_examples=MANY, **QUIET)
@given(TRAININGS)
def test_no_spec_of_a_training_breaks_a_look_or_silences_it_in_thousands(parent: dict[str, Any]) -> None:
    survives(parent)


@pytest.mark.long
@pytest.mark.timeout(1800)
@settings(max_examples=MANY, **QUIET)
@given(POOL_SPECS)
def test_no_spec_of_a_pool_breaks_a_look_or_silences_it_in_thousands(vllm: dict[str, Any]) -> None:
    pool_survives(vllm)
