"""What the pods of a shared cluster ask for, on a real API server: requests and limits, and what they compute on.

No controller runs: a Job's pods are tried by the test, as the Job controller would, and what it would write is written.
"""

from __future__ import annotations

from typing import Any

import pytest

from support.cluster.pod_admission import BUILTIN, admitted, makers, message, named, operator_of, quota, tried
from support.cluster.pool_world import vllm_pool
from support.cluster.training_life import GROUP, Stage
from testbed.api import Refused
from toolorchestra.local.nats_server import NatsServer
from toolorchestra_operator.kubernetes.api_server import ApiServer

DEFAULTS = {
    kind: {"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"cpu": "2", "memory": "4Gi"}}
    for kind in ("head", "trainers", "engines", "workers", "pools")
}
QUOTA = dict.fromkeys(("requests.cpu", "limits.cpu"), "100") | dict.fromkeys(
    ("requests.memory", "limits.memory"), "1000Gi"
)
FETCHED = {"uri": "hf://a/b", "price": {"inputUSDPerMillionTokens": "0", "outputUSDPerMillionTokens": "0"}}


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
