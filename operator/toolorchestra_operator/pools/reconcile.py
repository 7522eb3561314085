"""One reconcile of a pool: pure, from what is observed to a plan.

Invariants
- Nothing in status is an input: an operator without any memory decides the same.
- If the pool is not accepted, nothing is created or removed: replicas that serve continue.
- Objects are applied if they differ; the API key is created once; a pod template changes only with the spec
  (`template`). Kubernetes removes everything after the owner: a deletion needs no action.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

from toolorchestra.api.conditions import Reason
from toolorchestra.api.pool import ExpertPool
from toolorchestra.contract.labels import MANAGER
from toolorchestra_operator.kubernetes.canonical import differences
from toolorchestra_operator.kubernetes.manifest import Manifest, Ref
from toolorchestra_operator.planning.conditions import merged, transitions
from toolorchestra_operator.planning.needs import Missing
from toolorchestra_operator.planning.overlay import Rejected, shape_mistakes
from toolorchestra_operator.planning.plan import Action, Apply, Create, Delete, Plan
from toolorchestra_operator.planning.recorded import recorded
from toolorchestra_operator.pools import manifests, states
from toolorchestra_operator.pools.admission import read, unreachable, unworkable
from toolorchestra_operator.pools.desired import Desired
from toolorchestra_operator.pools.names import API_KEY, PoolNames
from toolorchestra_operator.pools.observed import Observed
from toolorchestra_operator.pools.pod_reasons import Obstacle, obstacle
from toolorchestra_operator.pools.template import POD_PATH, inputs_digest, key_digest, template

LOOK_SECONDS: Final = 10.0
"""How soon to check missing replicas again: no watch reports what happens to pods."""


def reconcile(observed: Observed, now: datetime) -> Plan:
    """Return the plan for the pool now."""
    if observed.parent["metadata"].get("deletionTimestamp"):
        return Plan()
    pool = read(observed.parent)
    if isinstance(pool, Missing):
        before = dict(observed.parent.get("status") or {})
        kept = {key: value for key, value in before.items() if key not in ("conditions", "observedGeneration")}
        return _plan(observed, (), states.of_unreadable(pool), kept, now=now, look=None)
    refusal = unreachable(pool, observed.runtime.reach) or next(iter(observed.missing), None)
    if pool.spec.type == "VLLM":
        return _of_vllm(Desired(observed.parent, pool, observed.runtime), observed, refusal, now)
    return _of_endpoint(pool, observed, refusal, now)


# ── Endpoint ───────────────────────────────────────────────────────────────────────────────────────────────────


def _of_endpoint(pool: ExpertPool, observed: Observed, refusal: Missing | None, now: datetime) -> Plan:
    """Return the plan of an endpoint; it has no objects, because it is served elsewhere."""
    endpoint = pool.spec.endpoint
    assert endpoint is not None  # the union's rule
    answer = observed.answer
    conditions = states.of_endpoint(endpoint, answer=answer, refusal=refusal)
    usable = any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)
    fields: dict[str, Any] = {"url": endpoint.url, "ready": "1/1" if usable else "0/1"}
    if answer is not None and answer.served_model is not None:
        fields["servedModel"] = answer.served_model
    elif endpoint.probe == "None":
        fields["servedModel"] = endpoint.model
    return _plan(observed, (), conditions, fields, now=now, look=None)


# ── VLLM ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _of_vllm(desired: Desired, observed: Observed, refusal: Missing | None, now: datetime) -> Plan:
    live = observed.objects.get(desired.names.deployment_ref)
    wanted = unworkable(desired) or _misshapen(desired, observed) or _wanted(desired, observed, live)
    if isinstance(wanted, Missing) and refusal is None:
        refusal = wanted
    actions = () if refusal is not None or isinstance(wanted, Missing) else wanted
    missing = desired.vllm.replicas - states.ready_replicas(live)
    stands = obstacle(live, observed.pods) if missing > 0 or not states.rolled_out(live) else None
    stands = _with_hint(stands, desired, observed)
    conditions = states.of_vllm(desired.vllm, live, obstacle=stands, answer=observed.answer, refusal=refusal)
    look = LOOK_SECONDS if desired.vllm.replicas and live is not None and (missing > 0 or stands) else None
    return _plan(observed, actions, conditions, _fields(desired, live), now=now, look=look)


def _misshapen(desired: Desired, observed: Observed) -> Missing | None:
    """Return a refusal if the overlay does not match the API server's schema."""
    found = shape_mistakes(desired.vllm.pod_template, observed.schemas, path=POD_PATH)
    return Missing(Reason.INVALID_POD_TEMPLATE, "; ".join(found)) if found else None


def _wanted(desired: Desired, observed: Observed, live: Manifest | None) -> tuple[Action, ...] | Missing:
    """Return the actions on the objects; Missing: they cannot be created."""
    key, actions = _key(desired, observed)
    digest = key_digest(key)
    inputs = inputs_digest(desired, key_digest=digest)
    pods = recorded(live, inputs=inputs) or template(desired, key_digest=digest)
    if isinstance(pods, Rejected):
        return Missing(Reason.INVALID_POD_TEMPLATE, str(pods))
    claim = manifests.cache_claim(desired)
    wanted: list[Manifest] = [
        *([claim] if claim is not None else []),
        manifests.service(desired),
        manifests.network_policy(desired),
        manifests.disruption_budget(desired),
        manifests.deployment(desired, pods, inputs=inputs),
    ]
    return (*actions, *(Apply(one) for one in wanted if _differs(one, observed)))


def _differs(wanted: Manifest, observed: Observed) -> bool:
    live = observed.objects.get(Ref.of(wanted))
    return live is None or bool(differences(wanted, live, manager=MANAGER, schemas=observed.schemas))


def _key(desired: Desired, observed: Observed) -> tuple[str, tuple[Action, ...]]:
    """Return the API key, and the actions that create its Secret. A Secret that lost its key is created again."""
    live = observed.objects.get(desired.names.key_ref)
    create = Create(manifests.api_key(desired, observed.token))
    if live is None or not _is_ours(live, desired.names):
        return observed.token, (create,)  # a foreign Secret is refused when the plan is carried out
    try:
        return base64.b64decode((live.get("data") or {})[API_KEY], validate=True).decode(), ()
    except (KeyError, binascii.Error, UnicodeDecodeError):
        return observed.token, (Delete(desired.names.key_ref, live["metadata"]["uid"]), create)


def _is_ours(live: Manifest, names: PoolNames) -> bool:
    owners: Sequence[Manifest] = live["metadata"].get("ownerReferences") or ()
    return any(owner.get("controller") and owner["uid"] == names.uid for owner in owners)


def _with_hint(found: Obstacle | None, desired: Desired, observed: Observed) -> Obstacle | None:
    """Add a hint: the scheduler does not say that it waits for a volume because there is no default storage class."""
    claim = observed.objects.get(desired.names.cache_ref)
    if found is None or found.reason is not Reason.UNSCHEDULABLE or claim is None:
        return found
    unbound = (claim.get("status") or {}).get("phase", "Pending") == "Pending"
    if unbound and not (claim.get("spec") or {}).get("storageClassName"):
        hint = f"PersistentVolumeClaim {desired.names.cache} has no storage class: is there a default one?"
        return Obstacle(found.reason, f"{found.message} ({hint})")
    return found


def _fields(desired: Desired, live: Manifest | None) -> dict[str, Any]:
    """Return the status fields: URL and name are known before anything serves, and stay while replicas change."""
    names, wanted = desired.names, desired.vllm.replicas
    ready = states.ready_replicas(live)
    return {
        "replicas": int(((live or {}).get("status") or {}).get("replicas", 0)),
        "readyReplicas": ready,
        "ready": f"{ready}/{wanted}",
        "selector": ",".join(f"{label}={value}" for label, value in sorted(names.selector.items())),
        "url": names.url,
        "servedModel": desired.served_model,
    }


# ── the plan ───────────────────────────────────────────────────────────────────────────────────────────────────


def _plan(
    observed: Observed,
    actions: tuple[Action, ...],
    conditions: Sequence[dict[str, Any]],
    fields: dict[str, Any],
    *,
    now: datetime,
    look: float | None,
) -> Plan:
    """Return the plan: the actions, events for conditions that changed, the status. `look`: seconds, or None."""
    before = observed.parent.get("status") or {}
    generation = int(observed.parent["metadata"].get("generation", 1))
    old = before.get("conditions") or ()
    new = merged(old, conditions, now=now, generation=generation)
    status: dict[str, Any] = {**fields, "observedGeneration": generation, "conditions": list(new)}
    if observed.measured is not None:
        status["measured"] = observed.measured.model_dump(mode="json", by_alias=True, exclude_none=True)
    elif "measured" in before:
        status["measured"] = before["measured"]  # it has its own time; no decision depends on it
    return Plan((*actions, *transitions(old, new)), None if status == before else status, _requeue(observed, now, look))


def _requeue(observed: Observed, now: datetime, look: float | None) -> float | None:
    """Return the seconds until the next probe, or fewer."""
    waits = [] if look is None else [look]
    if observed.answer is not None:
        waits.append(max(1.0, (observed.answer.due - now).total_seconds()))
    elif observed.asking:
        waits.append(1.0)
    return min(waits, default=None)
