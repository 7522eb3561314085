"""One reconcile of a training: pure, from what is observed to a plan.

Invariants
- A fact is written before it is acted on: admission, the next attempt and the end are plans with a status and nothing
  else; the plan after makes or removes what follows. An operator killed in between decides the same again.
- What is created once (the attempt's configuration, its cluster) is planned only while it is absent.
- A finished training whose children are gone stays finished.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from toolorchestra.api.conditions import Reason
from toolorchestra_operator.canonical import differences
from toolorchestra_operator.conditions import merged, transitions
from toolorchestra_operator.kinds import RAY_JOB
from toolorchestra_operator.manifest import Ref
from toolorchestra_operator.plan import Action, Apply, Create, Delete, MakeStreams, Plan, RemoveStreams, SetFinalizer
from toolorchestra_operator.trainings import progress
from toolorchestra_operator.trainings.admission import Admitted, Refused, admit
from toolorchestra_operator.trainings.attempt import everything_of, exported, leftovers, under_way
from toolorchestra_operator.trainings.decision import Decision
from toolorchestra_operator.trainings.desired import STORAGE_PATH
from toolorchestra_operator.trainings.experts import in_status
from toolorchestra_operator.trainings.names import Names
from toolorchestra_operator.trainings.observed import Observed
from toolorchestra_operator.trainings.remembered import Remembered
from toolorchestra_operator.trainings.streams import settings_of

MANAGER = "toolorchestra"
FINALIZER = "toolorchestra.dev/streams"
SKIP_ANNOTATION = "toolorchestra.dev/skip-stream-removal"
REMOVAL_SECONDS = 300
"""How long RayJobs and streams may hold a deletion up."""
LEFT_SECONDS = 5.0
"""How often to look after what is being removed."""


def reconcile(observed: Observed, now: datetime) -> Plan:
    """What to do about the training now."""
    remembered = Remembered.of(observed.parent)
    if observed.parent["metadata"].get("deletionTimestamp"):
        return _deleted(observed, now)
    admitted = admit(observed, remembered)
    if isinstance(admitted, Refused):
        return _plan(_refused(admitted, observed, remembered), observed, None, now)
    return _plan(_decide(admitted, observed, remembered, now), observed, admitted, now)


def _decide(admitted: Admitted, observed: Observed, remembered: Remembered, now: datetime) -> Decision:
    if remembered.terminal is not None:
        decision = _finished(admitted, observed, remembered, now)
    elif admitted.desired.spec.suspend:
        decision = _suspended(admitted, observed, remembered)
    elif remembered.attempt == 0:
        first = replace(remembered, attempt=1, start_time=now, provider=admitted.provider, experts=_experts(admitted))
        decision = Decision(first, requeue_after=0.0)
    else:
        decision = under_way(admitted, observed, remembered, now)
    if not admitted.desired.spec.suspend:
        decision = decision.says("Suspended", "False", Reason.NOT_SUSPENDED)
    if admitted.queue is None:
        decision = decision.says("QuotaReserved", "True", Reason.NO_QUEUE)
    elif "QuotaReserved" not in decision.conditions and remembered.terminal is None:
        said = f"queue {admitted.queue}: nothing is asked for"
        decision = decision.says("QuotaReserved", "False", Reason.QUOTA_PENDING, said)
    return decision.says("Accepted", "True", Reason.ACCEPTED)


def _experts(admitted: Admitted) -> tuple[Mapping[str, Any], ...]:
    return tuple(in_status(admitted.experts))


def _refused(refusal: Refused, observed: Observed, remembered: Remembered) -> Decision:
    """Nothing is made, and nothing that runs is taken away: the cause may be gone in a minute."""
    decision = Decision(remembered, conditions={})
    return decision.says("Accepted", "False", refusal.reason, refusal.message)


def _suspended(admitted: Admitted, observed: Observed, remembered: Remembered) -> Decision:
    """Compute is given back. An attempt that had begun is over: the next one goes on from its checkpoint."""
    said = Reason.SUSPENDED_BY_USER
    refs = everything_of(admitted, remembered.attempt)
    begun = remembered.attempt > 0 and any(ref in observed.objects for ref in refs)
    if begun:
        # The number is moved on first: what an attempt leaves is removed as the leftovers of the one before.
        moved = replace(remembered, attempt=remembered.attempt + 1)
        return Decision(moved, requeue_after=0.0).says("Suspended", "True", said, "giving compute back")
    before = everything_of(admitted, remembered.attempt - 1) if remembered.attempt > 1 else ()
    left = any(ref in observed.objects for ref in before)
    after = LEFT_SECONDS if left else None
    remove = (*leftovers(admitted, observed, remembered.attempt), _workers(admitted))
    decision = Decision(remembered, remove=remove, requeue_after=after)
    message = "waiting for the last checkpoint" if left else "compute is given back"
    return (
        decision.says("Suspended", "True", said, message)
        .says("Running", "False", said)
        .says("ClusterReady", "False", said)
    )


def _workers(admitted: Admitted) -> Ref:
    return Ref("apps/v1", "Deployment", admitted.desired.names.namespace, admitted.desired.names.workers)


def _finished(admitted: Admitted, observed: Observed, remembered: Remembered, now: datetime) -> Decision:
    """Nodes and workers go at once (after a failure they stay for a look), the head and the streams after the TTL."""
    spec, names = admitted.desired.spec, admitted.desired.names
    decision = Decision(remembered)
    ended = remembered.completion_time or now
    look = timedelta(seconds=spec.keep_failed_seconds if remembered.terminal == "Failed" else 0)
    ttl = timedelta(seconds=spec.ttl_seconds_after_finished)
    remove: tuple[Ref, ...] = ()
    if now - ended >= look:
        failed = remembered.terminal == "Failed"
        remove = (_workers(admitted), *admitted.ray.compute(names, remembered.attempt, failed=failed))
    if now - ended >= ttl:
        remove = tuple(dict.fromkeys((*remove, *everything_of(admitted, remembered.attempt))))
        decision = replace(decision, streams="remove")
        if not any(ref in observed.objects for ref in admitted.ray.refs(names, remembered.attempt)):
            # Last: KubeRay's operator needs it to let go of a RayJob.
            remove += (Ref("v1", "Secret", names.namespace, names.ray_token),)
    waits = [wait.total_seconds() for wait in (ended + look - now, ended + ttl - now) if wait > timedelta()]
    if any(ref in observed.objects for ref in remove):
        waits.append(LEFT_SECONDS)
    fields = {"exportURI": exported(admitted)} if remembered.terminal == "Complete" else {}
    done = "it is complete" if remembered.terminal == "Complete" else "it has failed"
    reason = Reason.STEPS_DONE if remembered.terminal == "Complete" else Reason.PROGRAM_FAILED
    return (
        replace(decision, remove=remove, fields=fields, requeue_after=min(waits) if waits else None)
        .says("Running", "False", reason, done)
        .says("ClusterReady", "False", reason, done)
    )


def _deleted(observed: Observed, now: datetime) -> Plan:
    """RayJobs, then streams go with the training: best effort, for a while, unless the annotation says not to wait.

    A RayJob before its token's Secret, which goes when the training is gone: without the token KubeRay's operator keeps
    the RayJob, and with it all of its pods, for ever.
    """
    metadata = observed.parent["metadata"]
    if FINALIZER not in (metadata.get("finalizers") or ()):
        return Plan()
    since = now - datetime.fromisoformat(metadata["deletionTimestamp"])
    skip = SKIP_ANNOTATION in (metadata.get("annotations") or {})
    url = (observed.parent["spec"].get("messaging") or {}).get("url") or observed.runtime.nats_url
    if skip or url is None or since > timedelta(seconds=REMOVAL_SECONDS):
        return Plan((SetFinalizer(present=False),))
    if jobs := [(ref, live) for ref, live in observed.objects.items() if ref.kind == RAY_JOB[1]]:
        going = [Delete(ref, one["metadata"]["uid"]) for ref, one in jobs if "deletionTimestamp" not in one["metadata"]]
        return Plan(tuple(going), requeue_after=LEFT_SECONDS)
    return Plan((RemoveStreams(url, Names.of(observed.parent).short_uid), SetFinalizer(present=False)))


# ── the plan ───────────────────────────────────────────────────────────────────────────────────────────────────


def _plan(decision: Decision, observed: Observed, admitted: Admitted | None, now: datetime) -> Plan:
    """The actions, then the status; events where a condition changed."""
    generation = int(observed.parent["metadata"].get("generation", 1))
    before: Mapping[str, Any] = observed.parent.get("status") or {}
    wanted = [
        {"type": kind, "status": status, "reason": reason, "message": message}
        for kind, (status, reason, message) in decision.conditions.items()
    ]
    conditions = merged(before.get("conditions") or (), wanted, now=now, generation=generation)
    events = transitions(before.get("conditions") or (), conditions)
    status = _status(decision, observed, admitted, conditions, generation)
    actions = (*_actions(decision, observed, admitted), *events)
    return Plan(actions, None if status == before else status, decision.requeue_after)


def _actions(decision: Decision, observed: Observed, admitted: Admitted | None) -> list[Action]:
    if admitted is None:
        return []
    desired, messaging, found = admitted.desired, observed.messaging, list[Action]()
    making = bool(decision.create or decision.streams == "make")
    if making and FINALIZER not in (observed.parent["metadata"].get("finalizers") or ()):
        found.append(SetFinalizer(present=True))
    if decision.streams == "make" and desired.nats_url:
        found.append(MakeStreams(desired.nats_url, desired.names.short_uid, settings_of(desired)))
    found += [Create(one) for one in decision.create]
    for one in decision.apply:
        live = observed.objects.get(Ref.of(one))
        if live is None or differences(one, live, manager=MANAGER, schemas=observed.schemas):
            found.append(Apply(one))
    for ref in decision.remove:
        live = observed.objects.get(ref)
        if live is not None and not live["metadata"].get("deletionTimestamp"):
            found.append(Delete(ref, live["metadata"]["uid"]))
    if decision.streams == "remove" and (messaging.ready or messaging.partial) and desired.nats_url:
        found.append(RemoveStreams(desired.nats_url, desired.names.short_uid))
    return found


def _ray(admitted: Admitted, remembered: Remembered) -> dict[str, Any]:
    """The attempt's cluster."""
    name = admitted.desired.names.attempt(remembered.attempt)
    made_with = remembered.image if remembered.cluster == name else None
    return {"provider": remembered.provider, "name": name, "image": made_with or admitted.desired.cluster_image}


def _status(
    decision: Decision, observed: Observed, admitted: Admitted | None, conditions: Any, generation: int
) -> dict[str, Any]:
    """The whole status: what is remembered, what the controller told, the conditions."""
    remembered, before = decision.remembered, dict(observed.parent.get("status") or {})
    found: dict[str, Any] = {**before, "observedGeneration": generation, "conditions": list(conditions)}
    if admitted is None:
        return found
    attempt = remembered.attempt
    told = progress.of_attempt(observed.progress, attempt)
    found |= progress.status_fields(told, claim=admitted.desired.claim, root=STORAGE_PATH)
    found |= {"attempt": attempt, "restarts": remembered.restarts, **decision.fields}
    if remembered.experts:
        found["experts"] = list(remembered.experts)
    if remembered.provider is not None and attempt:
        found["ray"] = _ray(admitted, remembered)
    for key, time in (("startTime", remembered.start_time), ("completionTime", remembered.completion_time)):
        if time is not None:
            found[key] = time.replace(microsecond=0).isoformat().replace("+00:00", "Z")
    return found
