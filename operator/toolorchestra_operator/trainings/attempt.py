"""A running attempt: which objects should exist for it, and what follows from the state of its cluster. Pure.

What follows is decided from `Supervised` alone. Only the creation of objects needs `Admitted`; it is left out if the
spec is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Literal

from toolorchestra.api.conditions import Reason
from toolorchestra.api.pool import ExpertPool
from toolorchestra.contract.labels import ATTEMPT_LABEL
from toolorchestra.contract.progress import phase_of
from toolorchestra_operator.kubernetes.manifest import Manifest, Ref
from toolorchestra_operator.trainings import workers
from toolorchestra_operator.trainings.admission import Admitted
from toolorchestra_operator.trainings.builtin import HEAD
from toolorchestra_operator.trainings.cluster_state import ClusterState
from toolorchestra_operator.trainings.configuration import RESOURCES_FILE, config_map, nats_secret
from toolorchestra_operator.trainings.decision import Decision
from toolorchestra_operator.trainings.desired import Desired
from toolorchestra_operator.trainings.experts import is_ready, is_refused, remembered_names, resolved
from toolorchestra_operator.trainings.kueue import Quota, quota
from toolorchestra_operator.trainings.names import TrainingNames
from toolorchestra_operator.trainings.observed import Messaging, Observed
from toolorchestra_operator.trainings.pod_reasons import obstacle, of_workers, ready_workers
from toolorchestra_operator.trainings.pods import SECRET_TOKEN_KEY
from toolorchestra_operator.trainings.progress import LOOK_SECONDS, look_after, of_attempt
from toolorchestra_operator.trainings.remembered import Remembered, condition_of
from toolorchestra_operator.trainings.storage import cache_claim, storage_claim
from toolorchestra_operator.trainings.streams import settings_of
from toolorchestra_operator.trainings.supervision import Supervised

UNANSWERED_SECONDS = 30.0
"""How often to check a NATS server that does not answer; its return is reported at once."""
MADE_SECONDS = 1.0
"""How soon to check streams that were just created: no watch reports them."""


def under_way(
    supervised: Supervised, admitted: Admitted | None, observed: Observed, remembered: Remembered, now: datetime
) -> Decision:
    """Return the decision about a training that is neither suspended nor finished and has an attempt. `admitted` None:
    its spec is refused now.
    """
    attempt, ray = remembered.attempt, supervised.ray
    state = _state(supervised, observed, attempt)
    told = of_attempt(observed.progress, attempt)
    cluster = observed.objects.get(ray.refs(supervised.names, attempt)[0])
    held = quota(supervised.queue, cluster, observed.workloads, ran=bool(told), now=now)
    soon = look_after(told, now) if state.life == "Up" else LOOK_SECONDS
    if not observed.messaging.answered:
        soon = UNANSWERED_SECONDS
    decision = _facts(Decision(remembered, requeue_after=soon), observed, state, held)
    if attempt > 1:
        decision = replace(decision, remove=leftovers(supervised, observed, attempt))
    match state.life:
        case "Succeeded":
            return _complete(decision, supervised, now)
        case "Failed":
            return _failed(decision, supervised, state, now)
        case "Refused":
            return fail(decision, state.reason, state.message, now)
        case "Stopped":
            return next_attempt(decision, Reason.RESTARTING, state.message, failed=False)
        case "Paused":
            return _paused(decision, supervised, admitted, observed, state)
        case _:
            decision = _made(decision, supervised, admitted, observed, state, held)
    return _deadlines(decision, supervised, observed, state, now)


def _state(supervised: Supervised, observed: Observed, attempt: int) -> ClusterState:
    """Return the cluster's state; an object that may not be read is not treated as absent."""
    state = supervised.ray.state(supervised.names, attempt, objects=observed.objects, pods=observed.pods)
    hidden = [str(ref) for ref in supervised.ray.refs(supervised.names, attempt) if ref in observed.hidden]
    if hidden and not state.ended:
        return ClusterState("Starting", message=f"the operator may not look at {', '.join(hidden)}")
    return state


def _made(
    decision: Decision,
    supervised: Supervised,
    admitted: Admitted | None,
    observed: Observed,
    state: ClusterState,
    held: Quota,
) -> Decision:
    """Add what should exist for an attempt that has not ended."""
    may_work = held.reserved and state.life != "Queued"
    if admitted is None:
        # Nothing is created or changed. A training that waits in a queue gives its workers back all the same.
        idle = () if may_work else (workers.ref(supervised.names),)
        return replace(decision, remove=(*decision.remove, *idle))
    if state.life == "Absent" and (blocked := _blocked(decision, admitted, observed)) is not None:
        return blocked
    return _exists(
        decision,
        supervised,
        admitted,
        observed,
        workers_wanted=admitted.desired.spec.rollout.workers if may_work else 0,
    )


# ── facts ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _facts(decision: Decision, observed: Observed, state: ClusterState, held: Quota) -> Decision:
    """Add the conditions that only describe."""
    messaging, decision = observed.messaging, decision.says("QuotaReserved", *held.aspect)
    if messaging.error:
        decision = decision.says("MessagingReady", "False", Reason.MESSAGING_UNREACHABLE, messaging.error)
    elif messaging.ready:
        decision = decision.says("MessagingReady", "True", Reason.STREAMS_READY)
    elif messaging.pending:
        if not condition_of(observed.parent, "MessagingReady"):
            decision = decision.says("MessagingReady", "False", Reason.STREAMS_PENDING, messaging.pending)
    else:
        decision = decision.says("MessagingReady", "False", Reason.STREAMS_PENDING, "the streams are being made")
    ready = {pool.metadata.name for pool in observed.pools if is_ready(pool)}
    if out := [name for name in remembered_names(decision.remembered.experts) if name not in ready]:
        decision = decision.says("ExpertsReady", "False", Reason.EXPERTS_UNAVAILABLE, f"not ready: {', '.join(out)}")
    else:
        decision = decision.says("ExpertsReady", "True", Reason.EXPERTS_READY)
    if state.life == "Queued":
        return _queued(decision, state, held)
    return _cluster(_running(decision, observed), observed, state)


def _queued(decision: Decision, state: ClusterState, held: Quota) -> Decision:
    said = f"its RayJob is suspended: {state.message}"
    decision = decision.says("ClusterReady", "False", Reason.CLUSTER_STARTING, said)
    if held.preempted:
        said = "it goes on from the last checkpoint when it is let go on"
        return decision.says("Running", "False", Reason.PREEMPTED, said)
    return decision.says("Running", "False", Reason.CLUSTER_STARTING, "its RayJob is suspended")


def _cluster(decision: Decision, observed: Observed, state: ClusterState) -> Decision:
    attempt = decision.remembered.attempt
    if state.life == "Up":
        deployment = observed.objects.get(workers.ref(TrainingNames.of(observed.parent)))
        found = None if deployment is None else of_workers(deployment, observed.pods)
        if deployment is not None and found is not None and not ready_workers(deployment):
            return decision.says("ClusterReady", "False", *found)
        said = f"{state.message}; {found[1]}" if found else state.message
        return decision.says("ClusterReady", "True", Reason.CLUSTER_READY, said)
    if state.ended:
        return decision.says("ClusterReady", "False", state.reason, state.message)
    found = obstacle(observed, attempt=attempt) if state.life == "Starting" else None
    reason, message = found or (Reason.CLUSTER_STARTING, state.message)
    return decision.says("ClusterReady", "False", reason, message)


def _running(decision: Decision, observed: Observed) -> Decision:
    told = of_attempt(observed.progress, decision.remembered.attempt)
    if not told:
        if not observed.messaging.answered and condition_of(observed.parent, "Running").get("status") == "True":
            return decision  # as far as is known, it runs
        return decision.says("Running", "False", Reason.CLUSTER_STARTING)
    message, phase = str(told.get("message", "")), phase_of(told)
    if told.get("state") == "Running":
        reason = Reason.EVALUATING if phase == "Evaluating" else Reason.TRAINING
        return decision.says("Running", "True", reason, f"step {told.get('step', 0)} of {told.get('steps', 0)}")
    if told.get("state") == "Complete":
        return decision.says("Running", "False", Reason.STEPS_DONE, message)
    reason = Reason.WARM_STARTING if phase == "WarmStart" else Reason.CLUSTER_STARTING
    return decision.says("Running", "False", reason, message)


def _blocked(decision: Decision, admitted: Admitted, observed: Observed) -> Decision | None:
    """Wait for what must exist before a cluster is requested: streams, and experts that are served."""
    if not observed.messaging.answered:
        return decision
    if not observed.messaging.ready:
        return replace(decision, streams="make", requeue_after=MADE_SECONDS)
    if alive := _heads_of_others(observed, decision.remembered.attempt):
        # Two drivers writing one volume would corrupt the run.
        return decision.says("ClusterReady", "False", Reason.CLUSTER_STARTING, f"waiting for {alive} to end")
    # An outside endpoint may be down at times; a model that the operator serves, which may take hours at first, is
    # waited for. So is a refused pool, because workers may not be told its URL or its Secret.
    if not_served := [
        pool.metadata.name
        for pool in admitted.experts
        if is_refused(pool) or (pool.spec.type == "VLLM" and not _serves(pool))
    ]:
        message = f"waiting for: {', '.join(not_served)}"
        return decision.says("ExpertsReady", "False", Reason.EXPERTS_UNAVAILABLE, message)
    return None


def _heads_of_others(observed: Observed, attempt: int) -> str:
    """Return the head of another attempt that still runs, as text; empty: none."""
    for pod in observed.pods:
        labels = pod["metadata"].get("labels") or {}
        ended = (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")
        is_head = labels.get("app.kubernetes.io/component") == HEAD
        if is_head and labels.get(ATTEMPT_LABEL) != str(attempt) and not ended:
            return f"pod {pod['metadata']['name']}"
    return ""


def _serves(pool: ExpertPool) -> bool:
    """Return whether the pool is ready and its endpoint is known."""
    return _is_known(pool) and is_ready(pool)


def _is_known(pool: ExpertPool) -> bool:
    """Return whether the pool's endpoint, which an attempt is told, is known."""
    status = pool.status
    there = status is not None and status.url is not None and status.served_model is not None
    return pool.spec.endpoint is not None or there


# ── what is to exist ───────────────────────────────────────────────────────────────────────────────────────────


def _exists(
    decision: Decision, supervised: Supervised, admitted: Admitted, observed: Observed, *, workers_wanted: int
) -> Decision:
    """Add the objects. `workers_wanted`: 0 until there is quota for the cluster whose episodes they run."""
    if not all(map(_is_known, admitted.experts)):
        return decision  # a pool was created again meanwhile: what runs keeps its configuration
    desired, attempt, ray = admitted.desired, decision.remembered.attempt, supervised.ray
    pools = [resolved(pool) for pool in admitted.experts]
    once: list[Manifest] = [_token(admitted, observed.token)]
    for one in (storage_claim(desired), cache_claim(desired), nats_secret(desired, attempt=attempt)):
        once += [one] if one is not None else []
    if desired.names.config_ref(attempt) not in observed.objects:  # a large one takes a second to build
        once.append(config_map(desired, pools, attempt=attempt, ray_address=ray.ray_address(desired, attempt=attempt)))
    once += ray.manifests(desired, attempt=attempt)
    create = tuple(one for one in once if Ref.of(one) not in observed.objects)
    live = observed.objects.get(workers.ref(desired.names))
    deployment = workers.deployment(desired, pools, attempt=attempt, replicas=workers_wanted, live=live)
    keep = not observed.messaging.answered or _fits(desired, observed.messaging)
    streams: Literal["keep", "make"] = "keep" if keep else "make"
    return replace(decision, create=create, apply=(deployment,), streams=streams)


def _fits(desired: Desired, messaging: Messaging) -> bool:
    """Return whether the streams exist and are large enough for the spec's current number of workers."""
    leases = messaging.leases
    return messaging.ready and (leases is None or leases == settings_of(desired).max_ack_pending)


def _token(admitted: Admitted, token: str) -> Manifest:
    """Return the token's Secret. It is created once, is kept across attempts, and is never compared."""
    names = admitted.desired.names
    metadata = names.metadata(names.ray_token, "ray")
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": {SECRET_TOKEN_KEY: token}}


def leftovers(supervised: Supervised, observed: Observed, attempt: int) -> tuple[Ref, ...]:
    """Return what to delete of the attempt before `attempt`: its head, and its nodes once no head needs them for a
    checkpoint."""
    if attempt <= 1:
        return ()
    refs = supervised.everything_of(attempt - 1)
    return refs[:1] if _heads_of_others(observed, attempt) else refs


# ── how it ends ────────────────────────────────────────────────────────────────────────────────────────────────


def _complete(decision: Decision, supervised: Supervised, now: datetime) -> Decision:
    """Return the decision for a complete training: its status names the model."""
    remembered = replace(decision.remembered, terminal="Complete", completion_time=now)
    fields = {"exportURI": supervised.export_uri}
    return Decision(remembered, conditions=decision.conditions, fields=fields, requeue_after=0.0).says(
        "Complete", "True", Reason.STEPS_DONE, "all steps are done and the model is exported"
    )


def fail(decision: Decision, reason: Reason, message: str, now: datetime) -> Decision:
    """Fail the training finally: only a new training can continue."""
    remembered = replace(decision.remembered, terminal="Failed", completion_time=now)
    fact = Decision(remembered, conditions=decision.conditions, requeue_after=0.0)
    return fact.says("Failed", "True", reason, message)


def _failed(decision: Decision, supervised: Supervised, state: ClusterState, now: datetime) -> Decision:
    limit, restarts = supervised.terms.backoff_limit, decision.remembered.restarts
    if restarts >= limit:
        message = f"it failed {restarts + 1} times; the last words: {state.message}"
        return fail(decision, Reason.BACKOFF_LIMIT_EXCEEDED, message, now)
    return next_attempt(decision, Reason.RESTARTING, state.message, failed=True)


def next_attempt(decision: Decision, reason: Reason, message: str, *, failed: bool) -> Decision:
    """Move to the next attempt. The status is written first; the old attempt's objects are removed when the next one
    begins."""
    before = decision.remembered
    remembered = replace(before, attempt=before.attempt + 1, restarts=before.restarts + (1 if failed else 0))
    said = f"attempt {before.attempt} ended: {message}"
    return Decision(remembered, conditions=decision.conditions, requeue_after=0.0).says(
        "Running", "False", reason, said
    )


def _paused(
    decision: Decision, supervised: Supervised, admitted: Admitted | None, observed: Observed, state: ClusterState
) -> Decision:
    """Pause until the spec differs from the attempt's configuration, which is a person's reaction. Nodes and workers
    are deleted; the object that shows the pause stays.
    """
    told = of_attempt(observed.progress, decision.remembered.attempt)
    reason = next((one for one in Reason if one == told.get("reason")), state.reason)
    names, attempt = supervised.names, decision.remembered.attempt
    if admitted is not None and _is_told_otherwise(supervised, admitted, observed, attempt):
        return next_attempt(decision, Reason.RESTARTING, "the spec was changed", failed=False)
    tells, *_ = supervised.ray.refs(names, attempt)
    nodes = (ref for ref in supervised.ray.compute(names, attempt, failed=False) if ref != tells)
    remove = (*decision.remove, workers.ref(names), *nodes)
    return replace(decision, remove=remove, requeue_after=None).says(
        "Running", "False", reason, str(told.get("message", state.message))
    )


def _is_told_otherwise(supervised: Supervised, admitted: Admitted, observed: Observed, attempt: int) -> bool:
    """Return whether the next attempt's configuration would differ from this one's."""
    before = observed.objects.get(supervised.names.config_ref(attempt))
    if before is None or not all(map(_is_known, admitted.experts)):
        return False
    pools = [resolved(pool) for pool in admitted.experts]
    address = supervised.ray.ray_address(admitted.desired, attempt=attempt)
    now = config_map(admitted.desired, pools, attempt=attempt, ray_address=address)
    return bool(before["data"][RESOURCES_FILE] != now["data"][RESOURCES_FILE])


def _steps(told: Mapping[str, Any]) -> bool:
    """Return whether training has begun, supervised warm start included."""
    return phase_of(told) in ("WarmStart", "Training", "Evaluating")


def _deadlines(
    decision: Decision, supervised: Supervised, observed: Observed, state: ClusterState, now: datetime
) -> Decision:
    terms, remembered = supervised.terms, decision.remembered
    active = terms.active_deadline_seconds
    if active is not None and remembered.start_time and now - remembered.start_time > timedelta(seconds=active):
        return fail(decision, Reason.ACTIVE_DEADLINE_EXCEEDED, f"it ran for more than {active} seconds", now)
    begun = supervised.ray.begun(supervised.names, remembered.attempt, objects=observed.objects)
    if begun is None or _steps(of_attempt(observed.progress, remembered.attempt)):
        return decision
    if not observed.messaging.answered:
        return decision  # it may have done steps long ago, but the progress is unknown
    if now - begun > timedelta(seconds=terms.start_deadline_seconds):
        _, message = obstacle(observed, attempt=remembered.attempt) or (None, state.message)
        said = f"no step within {terms.start_deadline_seconds} seconds: {message}"
        return fail(decision, Reason.START_DEADLINE_EXCEEDED, said, now)
    return decision
