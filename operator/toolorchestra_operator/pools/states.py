"""The conditions of a pool, from the observed facts. Pure; always all six, so that none is out of date.

| | VLLM | Endpoint |
| --- | --- | --- |
| Accepted | it can work with its spec | the same |
| Progressing | replicas are being replaced, or made for the first time | never |
| Available | at least `minAvailable` replicas are ready | the probe answered |
| Degraded | replicas are missing without a roll-out, or an obstacle exists | the probe failed |
| Routable | the probe of the Service answered | the probe of the URL answered |
| Ready | accepted, available and routable | the same; without a probe: accepted |
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from toolorchestra.api.conditions import Reason
from toolorchestra.api.pool import VLLM, Endpoint
from toolorchestra_operator.kubernetes.manifest import Manifest
from toolorchestra_operator.planning.conditions import condition
from toolorchestra_operator.planning.needs import Missing
from toolorchestra_operator.pools.pod_reasons import Obstacle
from toolorchestra_operator.pools.probe import PERIODS, Answer

Condition = dict[str, Any]
_FOLLOW: Final = frozenset({"Accepted", "Ready"})
"""Conditions that follow from a refusal itself."""


def accepted(refusal: Missing | None) -> Condition:
    if refusal is not None:
        return condition("Accepted", "False", refusal.reason, refusal.message)
    return condition("Accepted", "True", Reason.ACCEPTED)


def ready_replicas(deployment: Manifest | None) -> int:
    return int(((deployment or {}).get("status") or {}).get("readyReplicas", 0))


def rolled_out(deployment: Manifest | None) -> bool:
    """Return whether it is rolled out, as `kubectl rollout status`; a replica that is lost later does not change it."""
    if deployment is None:
        return False
    status: Mapping[str, Any] = deployment.get("status") or {}
    seen = int(status.get("observedGeneration", 0)) >= int(deployment["metadata"].get("generation", 0))
    return seen and _progress(deployment).get("reason") == "NewReplicaSetAvailable"


def _progress(deployment: Manifest | None) -> Mapping[str, Any]:
    conditions = ((deployment or {}).get("status") or {}).get("conditions") or ()
    return next((one for one in conditions if one["type"] == "Progressing"), {})


def of_vllm(
    vllm: VLLM,
    deployment: Manifest | None,
    *,
    obstacle: Obstacle | None,
    answer: Answer | None,
    refusal: Missing | None,
) -> list[Condition]:
    """Return the conditions of a pool that the operator serves."""
    if vllm.replicas == 0:
        return _scaled_to_zero(refusal)
    there = ready_replicas(deployment)
    enough = there >= max(1, vllm.min_available)
    why = f"; {obstacle.message}" if obstacle else ""
    counted = f"{there} of {vllm.replicas} replicas are ready"
    if enough:
        available = condition("Available", "True", Reason.MINIMUM_AVAILABLE, counted)
    else:
        least = max(1, vllm.min_available)
        available = condition("Available", "False", Reason.BELOW_MINIMUM, f"{counted}, {least} are wanted{why}")
    routable = (
        _routable(answer) if there else condition("Routable", "False", Reason.BELOW_MINIMUM, "no replica is ready")
    )
    if refusal is not None and deployment is None:
        said = "nothing is made: it is not accepted"
        progressing, degraded = (
            condition(kind, "False", Reason.NOT_READY, said) for kind in ("Progressing", "Degraded")
        )
    else:
        progressing = _progressing(deployment, counted)
        degraded = _degraded(vllm, deployment, obstacle, counted)
    found = [accepted(refusal), progressing, available, degraded, routable]
    return [*found, _ready(found)]


def _progressing(deployment: Manifest | None, counted: str) -> Condition:
    if rolled_out(deployment):
        return condition("Progressing", "False", Reason.ROLLED_OUT)
    if _progress(deployment).get("reason") == "ProgressDeadlineExceeded":
        said = f"it does not come to an end: {counted}; condition Degraded says why"
        return condition("Progressing", "False", Reason.REPLICAS_MISSING, said)
    return condition("Progressing", "True", Reason.ROLLING_OUT, counted)


def _degraded(vllm: VLLM, deployment: Manifest | None, obstacle: Obstacle | None, counted: str) -> Condition:
    if obstacle is not None:
        return condition("Degraded", "True", obstacle.reason, obstacle.message)
    if ready_replicas(deployment) >= vllm.replicas:
        return condition("Degraded", "False", Reason.ALL_REPLICAS_READY)
    if rolled_out(deployment) or _progress(deployment).get("status") == "False":
        return condition("Degraded", "True", Reason.REPLICAS_MISSING, counted)
    return condition("Degraded", "False", Reason.ROLLING_OUT)


def _scaled_to_zero(refusal: Missing | None) -> list[Condition]:
    said = "spec.vllm.replicas is 0"
    kinds = ("Progressing", "Available", "Degraded", "Routable", "Ready")
    return [accepted(refusal), *(condition(kind, "False", Reason.SCALED_TO_ZERO, said) for kind in kinds)]


def of_endpoint(endpoint: Endpoint, *, answer: Answer | None, refusal: Missing | None) -> list[Condition]:
    """Return the conditions of a pool that is served elsewhere."""
    routable = _not_asked() if endpoint.probe == "None" else _routable(answer)
    if refusal is not None and answer is None:
        routable = condition("Routable", "Unknown", Reason.NOT_READY, "it is not asked: see Accepted")
    status, reason, message = routable["status"], Reason(routable["reason"]), routable["message"]
    failed = status == "False"
    found = [
        accepted(refusal),
        condition("Progressing", "False", Reason.ROLLED_OUT, "it is served elsewhere"),
        condition("Available", status, reason, message),
        condition("Degraded", "True" if failed else "False", reason, message if failed else ""),
        routable,
    ]
    return [*found, _ready(found)]


def of_unreadable(refusal: Missing) -> list[Condition]:
    """Return the conditions of a pool that the models refuse: its servers continue, but nothing checks them."""
    return _unknown(accepted(refusal), "its spec cannot be read: see Accepted")


def of_refused(said: Condition, before: Sequence[Mapping[str, Any]]) -> list[Condition]:
    """Return the conditions of a pool whose objects the API server refuses (`said` is its condition Accepted). Earlier
    conditions are kept (each has the generation that it is about); the others are unknown."""
    seen = {one["type"] for one in before}
    return [one for one in _unknown(said, "it was refused: see Accepted") if one["type"] not in seen - _FOLLOW]


def _unknown(said: Condition, why: str) -> list[Condition]:
    kinds = ("Progressing", "Available", "Degraded", "Routable")
    return [said, *(condition(kind, "Unknown", Reason.NOT_READY, why) for kind in kinds), _ready([said])]


def _not_asked() -> Condition:
    return condition("Routable", "Unknown", Reason.PROBE_DISABLED, "spec.endpoint.probe is None: it is not asked")


def _routable(answer: Answer | None) -> Condition:
    """Return the condition; its message has the probe's period, not its time, which would be a change at every
    probe."""
    if answer is None:
        return condition("Routable", "Unknown", Reason.PROBE_PENDING)
    message = f"{answer.message}; asked every {PERIODS[answer.kind, answer.ok]:g} s"
    return condition("Routable", "True" if answer.ok else "False", answer.reason, message)


def _ready(found: list[Condition]) -> Condition:
    """Return the condition. A disabled probe, after which nobody knows whether an expert answers, is no obstacle."""
    by_kind = {one["type"]: one for one in found}
    bad = [
        kind
        for kind in ("Accepted", "Available", "Routable")
        if kind in by_kind and by_kind[kind]["status"] != "True" and by_kind[kind]["reason"] != Reason.PROBE_DISABLED
    ]
    if not bad:
        return condition("Ready", "True", Reason.READY)
    first = by_kind[bad[0]]
    return condition("Ready", "False", Reason.NOT_READY, f"{first['type']}: {first['reason']}")
