"""One reconcile of a training: pure, from what is observed to a plan.

Invariants
- A fact is written before the operator acts on it: admission, the next attempt and the end are plans with a status and
  nothing else; the next plan creates or removes what follows. An operator killed in between decides the same again.
- What is created once (the attempt's configuration, its cluster) is planned only while it is absent.
- A finished training whose children are gone stays finished.
- A refusal (`Accepted=False`) blocks what would be created or changed, and nothing else: facts, deadlines, `suspend`,
  the TTL and a deletion are decided from what exists.
- Only own objects are read or removed: foreign ones under the same names are kept apart (`Observed.foreign`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from toolorchestra.api.conditions import Reason
from toolorchestra.contract.labels import FINALIZER, MANAGER
from toolorchestra_operator.kubernetes.canonical import differences
from toolorchestra_operator.kubernetes.kinds import RAY_JOB
from toolorchestra_operator.kubernetes.manifest import Manifest, Ref
from toolorchestra_operator.planning.conditions import merged, transitions
from toolorchestra_operator.planning.plan import (
    Action,
    Apply,
    Create,
    Delete,
    MakeStreams,
    Plan,
    RemoveStreams,
    SetFinalizer,
)
from toolorchestra_operator.trainings import progress, workers
from toolorchestra_operator.trainings.admission import LEFT_SECONDS, Admitted, NotAdmitted, admit
from toolorchestra_operator.trainings.attempt import leftovers, under_way
from toolorchestra_operator.trainings.decision import Decision
from toolorchestra_operator.trainings.desired import STORAGE_PATH
from toolorchestra_operator.trainings.experts import in_status
from toolorchestra_operator.trainings.names import TrainingNames
from toolorchestra_operator.trainings.observed import Observed
from toolorchestra_operator.trainings.remembered import Remembered
from toolorchestra_operator.trainings.streams import settings_of
from toolorchestra_operator.trainings.supervision import Supervised
from toolorchestra_operator.trainings.terms import Terms, nats_url_of

GIVEN_BACK = "compute is given back"
SKIP_ANNOTATION = "toolorchestra.dev/skip-stream-removal"
REMOVAL_SECONDS = 300
"""The longest time for which RayJobs and streams may delay a deletion."""


def reconcile(observed: Observed, now: datetime) -> Plan:
    """Return the plan for the training now."""
    remembered = Remembered.of(observed.parent)
    if observed.parent["metadata"].get("deletionTimestamp"):
        return _deleted(observed, now)
    verdict = admit(observed, remembered)
    admitted = verdict if isinstance(verdict, Admitted) else None
    supervised = _supervised(observed, remembered, admitted)
    decision = _decide(supervised, verdict, observed, remembered, now)
    if isinstance(verdict, NotAdmitted):
        decision = decision.says("Accepted", "False", verdict.reason, verdict.message)
        if verdict.again is not None:
            waits = (verdict.again, decision.requeue_after)
            decision = replace(decision, requeue_after=min(wait for wait in waits if wait is not None))
    else:
        decision = decision.says("Accepted", "True", Reason.ACCEPTED)
    return _plan(decision, observed, supervised, admitted, now)


def _supervised(observed: Observed, remembered: Remembered, admitted: Admitted | None) -> Supervised | None:
    """Return the supervised training; None: it was never admitted, so that nothing was created."""
    if not remembered.attempt:
        return None
    provider = remembered.provider or (admitted.provider if admitted else "Builtin")
    return Supervised(TrainingNames.of(observed.parent), Terms.of(observed.parent), provider)


def _decide(
    supervised: Supervised | None,
    verdict: Admitted | NotAdmitted,
    observed: Observed,
    remembered: Remembered,
    now: datetime,
) -> Decision:
    suspend = Terms.of(observed.parent).suspend
    admitted = verdict if isinstance(verdict, Admitted) else None
    if supervised is None:
        decision = _before_it_begins(verdict, remembered, now, suspend=suspend)
    elif remembered.terminal is not None:
        decision = _finished(supervised, observed, remembered, now)
    elif suspend:
        decision = _suspended(supervised, observed, remembered)
    else:
        decision = under_way(supervised, admitted, observed, remembered, now)
    if not suspend:
        decision = decision.says("Suspended", "False", Reason.NOT_SUSPENDED)
    return _queue(decision, supervised, admitted, remembered)


def _before_it_begins(
    verdict: Admitted | NotAdmitted, remembered: Remembered, now: datetime, *, suspend: bool
) -> Decision:
    """Return the decision before the first attempt: nothing is created unless it is admitted and not suspended."""
    if suspend:
        return _given_back(Decision(remembered), Reason.SUSPENDED_BY_USER, GIVEN_BACK)
    if isinstance(verdict, NotAdmitted):
        return Decision(remembered)
    first = replace(remembered, attempt=1, start_time=now, provider=verdict.provider, experts=_experts(verdict))
    return Decision(first, requeue_after=0.0)


def _queue(
    decision: Decision, supervised: Supervised | None, admitted: Admitted | None, remembered: Remembered
) -> Decision:
    """Add the condition about quota if nothing else did."""
    if supervised is not None:
        queue = supervised.queue
    elif admitted is not None:
        queue = admitted.desired.spec.queue_name if admitted.provider == "KubeRay" else None
    else:
        return decision
    if queue is None:
        return decision.says("QuotaReserved", "True", Reason.NO_QUEUE)
    if "QuotaReserved" not in decision.conditions and remembered.terminal is None:
        said = f"queue {queue}: nothing is asked for"
        return decision.says("QuotaReserved", "False", Reason.QUOTA_PENDING, said)
    return decision


def _experts(admitted: Admitted) -> tuple[Mapping[str, Any], ...]:
    return tuple(in_status(admitted.experts))


def _suspended(supervised: Supervised, observed: Observed, remembered: Remembered) -> Decision:
    """Give compute back. An attempt that had begun is over: the next one continues from its checkpoint."""
    refs = supervised.everything_of(remembered.attempt)
    if any(ref in observed.objects for ref in refs):
        # The number is increased first: the objects of the attempt are then removed as those of the previous one.
        moved = replace(remembered, attempt=remembered.attempt + 1)
        said = "giving compute back"
        return Decision(moved, requeue_after=0.0).says("Suspended", "True", Reason.SUSPENDING, said)
    before = supervised.everything_of(remembered.attempt - 1) if remembered.attempt > 1 else ()
    left = any(observed.may_be_there(ref) for ref in before) or any(ref in observed.hidden for ref in refs)
    remove = (*leftovers(supervised, observed, remembered.attempt), workers.ref(supervised.names))
    decision = Decision(remembered, remove=remove, requeue_after=LEFT_SECONDS if left else None)
    if left:
        return _given_back(decision, Reason.SUSPENDING, "waiting for the last checkpoint")
    return _given_back(decision, Reason.SUSPENDED_BY_USER, GIVEN_BACK)


def _given_back(decision: Decision, said: Reason, message: str) -> Decision:
    return (
        decision.says("Suspended", "True", said, message)
        .says("Running", "False", said)
        .says("ClusterReady", "False", said)
    )


def _finished(supervised: Supervised, observed: Observed, remembered: Remembered, now: datetime) -> Decision:
    """Delete nodes and workers at once (after a failure, they stay for inspection), head and streams after the TTL."""
    terms, names = supervised.terms, supervised.names
    decision = Decision(remembered)
    ended = remembered.completion_time or now
    look = timedelta(seconds=terms.keep_failed_seconds if remembered.terminal == "Failed" else 0)
    ttl = timedelta(seconds=terms.ttl_seconds_after_finished)
    remove: tuple[Ref, ...] = ()
    if now - ended >= look:
        failed = remembered.terminal == "Failed"
        remove = (workers.ref(names), *supervised.ray.compute(names, remembered.attempt, failed=failed))
    if now - ended >= ttl:
        remove = tuple(dict.fromkeys((*remove, *supervised.everything_of(remembered.attempt))))
        decision = replace(decision, streams="remove")
        if not any(map(observed.may_be_there, supervised.ray.refs(names, remembered.attempt))):
            # Last: KubeRay's operator needs it to release a RayJob.
            remove += (names.token_ref,)
    waits = [wait.total_seconds() for wait in (ended + look - now, ended + ttl - now) if wait > timedelta()]
    if any(ref in observed.objects for ref in remove):
        waits.append(LEFT_SECONDS)
    fields = {"exportURI": supervised.export_uri} if remembered.terminal == "Complete" else {}
    done = "it is complete" if remembered.terminal == "Complete" else "it has failed"
    reason = Reason.STEPS_DONE if remembered.terminal == "Complete" else Reason.PROGRAM_FAILED
    return (
        replace(decision, remove=remove, fields=fields, requeue_after=min(waits) if waits else None)
        .says("Running", "False", reason, done)
        .says("ClusterReady", "False", reason, done)
    )


def _deleted(observed: Observed, now: datetime) -> Plan:
    """Delete RayJobs, then streams and everything that was created for the training, as far as possible within a time
    limit, unless the annotation says not to wait.

    A RayJob is deleted before its token's Secret: without the token, KubeRay's operator keeps the RayJob and all of its
    pods for ever. Kubernetes' garbage collector alone is not enough: for seconds after a restart of the API server it
    does not know our kinds, and then ignores owners that are deleted, permanently.
    """
    metadata = observed.parent["metadata"]
    if FINALIZER not in (metadata.get("finalizers") or ()):
        return Plan()
    since = now - datetime.fromisoformat(metadata["deletionTimestamp"])
    skip = SKIP_ANNOTATION in (metadata.get("annotations") or {})
    late, url = since > timedelta(seconds=REMOVAL_SECONDS), _nats_url(observed)
    streams = () if skip or late or url is None else (RemoveStreams(url, TrainingNames.of(observed.parent).short_uid),)
    if "orphan" in metadata["finalizers"]:  # `--cascade=orphan`: the children are to be kept
        return Plan((*streams, SetFinalizer(present=False)))
    going = [
        Delete(ref, live["metadata"]["uid"])
        for ref, live in observed.objects.items()
        if _goes_with(live, metadata["uid"]) and not live["metadata"].get("deletionTimestamp")
    ]
    if late:  # whatever delays the others
        return Plan((SetFinalizer(present=False), *going))
    if not skip and any(ref.kind == RAY_JOB[1] for ref in observed.hidden):
        return Plan(requeue_after=LEFT_SECONDS)
    if not skip and any(ref.kind == RAY_JOB[1] for ref in observed.objects):
        return Plan(tuple(one for one in going if one.ref.kind == RAY_JOB[1]), requeue_after=LEFT_SECONDS)
    return Plan((*going, *streams, SetFinalizer(present=False)))


def _goes_with(live: Manifest, uid: str) -> bool:
    """Return whether the owner's deletion removes the object, as in Kubernetes: not if it has another owner."""
    owners = live["metadata"].get("ownerReferences") or ()
    return bool(owners) and all(owner["uid"] == uid for owner in owners)


# ── the plan ───────────────────────────────────────────────────────────────────────────────────────────────────


def _plan(
    decision: Decision,
    observed: Observed,
    supervised: Supervised | None,
    admitted: Admitted | None,
    now: datetime,
) -> Plan:
    """Return the plan: the actions, events for conditions that changed, and the status."""
    generation = int(observed.parent["metadata"].get("generation", 1))
    before: Mapping[str, Any] = observed.parent.get("status") or {}
    wanted = [
        {"type": kind, "status": status, "reason": reason, "message": message}
        for kind, (status, reason, message) in decision.conditions.items()
    ]
    conditions = merged(before.get("conditions") or (), wanted, now=now, generation=generation)
    events = transitions(before.get("conditions") or (), conditions)
    status = _status(decision, observed, supervised, admitted, conditions, generation)
    actions = (*_actions(decision, observed, admitted), *events)
    return Plan(actions, None if status == before else status, decision.requeue_after)


def _actions(decision: Decision, observed: Observed, admitted: Admitted | None) -> list[Action]:
    """Return the actions, deletions first: a creation may need their room, and be refused without it."""
    messaging, url, found = observed.messaging, _nats_url(observed), list[Action]()
    for ref in decision.remove:
        live = observed.objects.get(ref)
        if live is not None and not live["metadata"].get("deletionTimestamp"):
            found.append(Delete(ref, live["metadata"]["uid"]))
    if decision.streams == "remove" and (messaging.ready or messaging.partial) and url:
        found.append(RemoveStreams(url, TrainingNames.of(observed.parent).short_uid))
    return found if admitted is None else [*found, *_making(decision, observed, admitted)]


def _making(decision: Decision, observed: Observed, admitted: Admitted) -> list[Action]:
    desired, found = admitted.desired, list[Action]()
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
    return found


def _nats_url(observed: Observed) -> str | None:
    """Return the URL of the NATS server with its streams."""
    return nats_url_of(observed.parent) or observed.runtime.nats_url


def _ray(admitted: Admitted, remembered: Remembered) -> dict[str, Any]:
    """Return the status of the attempt's cluster. (If the spec is refused, the last one is kept.)"""
    name = admitted.desired.names.attempt(remembered.attempt)
    made_with = remembered.image if remembered.cluster == name else None
    return {"provider": remembered.provider, "name": name, "image": made_with or admitted.desired.cluster_image}


def _status(
    decision: Decision,
    observed: Observed,
    supervised: Supervised | None,
    admitted: Admitted | None,
    conditions: Any,
    generation: int,
) -> dict[str, Any]:
    """Return the complete status: what is remembered, the controller's report, the conditions."""
    remembered, before = decision.remembered, dict(observed.parent.get("status") or {})
    found: dict[str, Any] = {**before, "observedGeneration": generation, "conditions": list(conditions)}
    attempt = remembered.attempt
    if not attempt and admitted is None:
        return found
    told = progress.of_attempt(observed.progress, attempt)
    claim = supervised.claim if supervised else ""
    found |= progress.status_fields(told, claim=claim, root=STORAGE_PATH)
    found |= {"attempt": attempt, "restarts": remembered.restarts, **decision.fields}
    if remembered.experts:
        found["experts"] = list(remembered.experts)
    if remembered.provider is not None and admitted is not None:
        found["ray"] = _ray(admitted, remembered)
    for key, time in (("startTime", remembered.start_time), ("completionTime", remembered.completion_time)):
        if time is not None:
            found[key] = time.replace(microsecond=0).isoformat().replace("+00:00", "Z")
    return found
