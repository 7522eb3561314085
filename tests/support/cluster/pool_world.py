"""A namespace in memory with one ExpertPool, and generated specs of it."""

from __future__ import annotations

import base64
import copy
from typing import Any

from hypothesis import strategies as st

from support.cluster.cluster_model import ClusterModel
from support.cluster.openapi_excerpt import schemas
from toolorchestra.api.conditions import Reason
from toolorchestra.api.pool import ExpertPool, MeasuredService
from toolorchestra_operator.kubernetes.manifest import Manifest, Ref
from toolorchestra_operator.planning.needs import Missing
from toolorchestra_operator.planning.plan import Plan
from toolorchestra_operator.pools.names import PoolNames
from toolorchestra_operator.pools.observed import Observed
from toolorchestra_operator.pools.probe import Answer
from toolorchestra_operator.pools.reach import Reach
from toolorchestra_operator.pools.reconcile import reconcile
from toolorchestra_operator.pools.runtime import PoolRuntime

RUNTIME = PoolRuntime(gpu_image="gpu@sha256:1", cpu_image="cpu@sha256:1", operator_namespace="toolorchestra-system")
FOR_POOLS = {"toolorchestra.dev/secret-for": "pools"}
"""The label of a Secret that pools may use."""
HERE = Reach(("127.0.0.1",), never=())
"""Of tests whose experts are on this machine, where no operator in a cluster would ask one."""
UID = "6a3c1c1e-0000-4000-8000-000000000001"
GPU = {"limits": {"nvidia.com/gpu": 1}}
GATE = {"name": "kueue.x-k8s.io/admission"}


def vllm_pool(**vllm: Any) -> dict[str, Any]:
    """A pool that the operator serves, as a person writes it."""
    return _pool(type="VLLM", vllm={"model": {"uri": "hf://Qwen/Qwen3-0.6B"}, **vllm})


def endpoint_pool(**endpoint: Any) -> dict[str, Any]:
    """A pool that is served elsewhere."""
    return _pool(type="Endpoint", endpoint={"url": "http://expert.example/v1", "model": "oak", **endpoint})


def _pool(**spec: Any) -> dict[str, Any]:
    price = {"inputUSDPerMillionTokens": "1", "outputUSDPerMillionTokens": "1"}
    return {
        "apiVersion": "toolorchestra.dev/v1alpha1",
        "kind": "ExpertPool",
        "metadata": {"name": "qwen"},
        "spec": {"price": price, "expectedLatencyMilliseconds": 1000, "description": "d", **spec},
    }


def stored(pool: dict[str, Any]) -> dict[str, Any]:
    """As the API server stores it: defaults filled in, metadata given."""
    model = ExpertPool.model_validate(pool)
    filled: dict[str, Any] = model.model_dump(mode="json", by_alias=True, exclude_none=True)
    metadata = {"namespace": "default", "uid": UID, "generation": 1, **pool["metadata"]}
    return {**pool, "metadata": metadata, "spec": filled["spec"]}


class PoolWorld(ClusterModel):
    """What the test lets happen to the pool; `runtime` is the operator's version and configuration."""

    def __init__(self, pool: dict[str, Any], *, runtime: PoolRuntime = RUNTIME) -> None:
        super().__init__(stored(pool))
        self.runtime = runtime
        self.pods: list[dict[str, Any]] = []
        self.missing: tuple[Missing, ...] = ()
        self.answer: Answer | None = None
        self.measured: MeasuredService | None = None
        self.tokens = 0

    @property
    def names(self) -> PoolNames:
        return PoolNames.of(self.parent)

    def observed(self) -> Observed:
        self.tokens += 1
        return Observed(
            parent=copy.deepcopy(self.parent),
            runtime=self.runtime,
            schemas=schemas(),
            objects=self.live(),
            pods=tuple(self.pods),
            missing=self.missing,
            answer=self.answer,
            asking=self.answer is None,
            measured=self.measured,
            token=f"token-{self.tokens}",
        )

    def plan(self) -> Plan:
        return reconcile(self.observed(), self.now)

    def settle(self) -> int:
        """Reconcile until nothing is left to do; how many plans that took."""
        for passes in range(4):
            plan = self.plan()
            if plan.empty:
                return passes
            self.carry_out(plan)
        raise AssertionError(f"it never comes to rest: {self.plan()}")

    def change(self, **vllm: Any) -> None:
        """An edit of `spec.vllm`."""
        self.parent["spec"]["vllm"] |= vllm
        self.parent["metadata"]["generation"] += 1

    def one(self, kind: str) -> Manifest:
        """The live object of a kind."""
        (found,) = (live for ref, live in self.live().items() if ref.kind == kind)
        return found

    def template(self) -> dict[str, Any]:
        found: dict[str, Any] = self.one("Deployment")["spec"]["template"]
        return found

    def container(self) -> dict[str, Any]:
        (found,) = self.template()["spec"]["containers"]
        return dict(found)

    def key(self) -> str:
        return base64.b64decode(self.one("Secret")["data"]["api-key"]).decode()

    def deployment_status(self, *, ready: int, replicas: int, reason: str = "NewReplicaSetAvailable") -> None:
        """What the Deployment's controller writes."""
        stuck = reason == "ProgressDeadlineExceeded"
        progressing = {"type": "Progressing", "status": "False" if stuck else "True", "reason": reason}
        generation = self.one("Deployment")["metadata"].get("generation", 0)
        counts = {"replicas": replicas, "readyReplicas": ready, "observedGeneration": generation}
        self.set_status(self.names.deployment_ref, {**counts, "conditions": [progressing]})

    def answers(self, reason: Reason = Reason.PROBE_ANSWERED, message: str = "it lists the model") -> None:
        served = "oak" if reason is Reason.PROBE_ANSWERED else None
        self.answer = Answer("Models", reason, message, self.now, served)

    def says(self, kind: str) -> tuple[str, str, str]:
        conditions = self.parent["status"]["conditions"]
        (found,) = (one for one in conditions if one["type"] == kind)
        return found["status"], found["reason"], found["message"]

    def refs(self) -> set[Ref]:
        return set(self.objects)


def pod(name: str = "qwen-vllm-1", *, ready: bool = False, **status: Any) -> dict[str, Any]:
    """A pod with the conditions that its kubelet writes."""
    conditions = [{"type": "Ready", "status": "True" if ready else "False"}, *status.pop("conditions", [])]
    return {"metadata": {"name": name}, "spec": {}, "status": {"conditions": conditions, **status}}


def waiting(reason: str, message: str = "", *, last: dict[str, Any] | None = None) -> dict[str, Any]:
    """A container that waits; `last` is how it ended before."""
    state = {"waiting": {"reason": reason, "message": message}}
    return {"containerStatuses": [{"state": state, **({"lastState": {"terminated": last}} if last else {})}]}


_uris = st.sampled_from(
    ["hf://Qwen/Qwen3-32B", "hf://org/model", "pvc://models/qwen", "pvc://models", "s3://bucket/qwen", "file:///m"]
)
_caches = st.sampled_from(
    [
        None,
        {"type": "EphemeralClaim"},
        {"type": "EphemeralClaim", "ephemeralClaim": {"size": "100Gi", "storageClassName": "fast"}},
        {"type": "ExistingClaim", "existingClaim": {"claimName": "weights", "path": "a/b"}},
    ]
)
_resources = st.sampled_from(
    [{}, GPU, {"limits": {"cpu": "1500m", "memory": "4Gi"}, "requests": {"cpu": 1, "memory": "1024Mi"}}]
)
_overlays = st.sampled_from(
    [
        None,
        {},
        {"metadata": {"labels": {"team": "a"}, "annotations": {"x/y": "z"}}},
        {
            "spec": {
                "nodeSelector": {"gpu": "h100"},
                "tolerations": [{"key": "gpu", "operator": "Exists"}],
                "imagePullSecrets": [{"name": "registry"}],
                "volumes": [{"name": "ib", "emptyDir": {}}],
                "containers": [
                    {
                        "name": "vllm",
                        "env": [{"name": "NCCL_DEBUG", "value": "INFO"}],
                        "volumeMounts": [{"name": "ib", "mountPath": "/ib"}],
                    }
                ],
            }
        },
    ]
)


@st.composite
def vllm_pools(draw: st.DrawFn) -> dict[str, Any]:
    """Pools of type VLLM that can work."""
    optional = {
        "cache": draw(_caches),
        "podTemplate": draw(_overlays),
        "maxModelLen": draw(st.sampled_from([None, 4096])),
        "shmSize": draw(st.sampled_from([None, "2Gi"])),
        "queueName": draw(st.sampled_from([None, "experts"])),
    }
    source: dict[str, Any] = {"uri": draw(_uris)}
    if draw(st.booleans()):
        source |= {"revision": "main", "tokenSecretRef": {"name": "hub", "key": "token"}}
    return vllm_pool(
        model=source,
        image=draw(st.sampled_from(["vllm:1", "vllm:2"])),
        replicas=draw(st.integers(0, 3)),
        minAvailable=draw(st.integers(0, 3)),
        resources=draw(_resources),
        extraArgs=draw(st.sampled_from([[], ["--max-num-seqs=8"]])),
        drainSeconds=draw(st.sampled_from([0, 5, 120])),
        **{name: value for name, value in optional.items() if value is not None},
    )
