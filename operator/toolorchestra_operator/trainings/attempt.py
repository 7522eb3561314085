"""An attempt under way: what is to exist for it, and what follows from how its cluster does. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Literal

from toolorchestra.api.conditions import Reason
from toolorchestra.api.pool import ExpertPool
from toolorchestra_operator.manifest import Manifest, Ref
from toolorchestra_operator.trainings import workers
from toolorchestra_operator.trainings.admission import Admitted
from toolorchestra_operator.trainings.builtin import HEAD
from toolorchestra_operator.trainings.cluster_state import ClusterState
from toolorchestra_operator.trainings.configuration import RESOURCES_FILE, config_map, nats_secret
from toolorchestra_operator.trainings.decision import Decision
from toolorchestra_operator.trainings.desired import STORAGE_PATH, Desired
from toolorchestra_operator.trainings.experts import is_ready, resolved
from toolorchestra_operator.trainings.kueue import Quota, quota
from toolorchestra_operator.trainings.names import ATTEMPT_LABEL
from toolorchestra_operator.trainings.observed import Messaging, Observed
from toolorchestra_operator.trainings.pod_reasons import obstacle
from toolorchestra_operator.trainings.pods import SECRET_TOKEN_KEY
from toolorchestra_operator.trainings.progress import LOOK_SECONDS, look_after, of_attempt, uri
from toolorchestra_operator.trainings.remembered import Remembered, condition_of
from toolorchestra_operator.trainings.storage import cache_claim, storage_claim
from toolorchestra_operator.trainings.streams import settings_of

UNANSWERED_SECONDS = 30.0
"""How often to look where NATS does not answer: that it does again is told at once."""
MADE_SECONDS = 1.0
"""How soon to look for streams that were just made: no watch tells of them."""
WARM_START = "warm start"
"""How the driver's message begins meanwhile (toolorchestra.train.job)."""


def under_way(admitted: Admitted, observed: Observed, remembered: Remembered, now: datetime) -> Decision:
    """The decision about an admitted, not suspended, not finished training with an attempt to its name."""
    names, attempt = admitted.desired.names, remembered.attempt
    ray = admitted.ray
    state = ray.state(names, attempt, objects=observed.objects, pods=observed.pods)
    told = of_attempt(observed.progress, attempt)
    cluster = observed.objects.get(ray.refs(names, attempt)[0])
    held = quota(admitted.queue, cluster, observed.workloads, ran=bool(told), now=now)
    soon = look_after(told, now) if state.life == "Up" else LOOK_SECONDS
    if not observed.messaging.answered:
        soon = UNANSWERED_SECONDS
    decision = _facts(Decision(remembered, requeue_after=soon), admitted, observed, state, held)
    if attempt > 1:
        decision = replace(decision, remove=leftovers(admitted, observed, attempt))
    if state.life == "Absent" and (blocked := _blocked(decision, admitted, observed)) is not None:
        return blocked
    match state.life:
        case "Succeeded":
            return _complete(decision, admitted, now)
        case "Failed":
            return _failed(decision, admitted, state, now)
        case "Refused":
            return fail(decision, state.reason, state.message, now)
        case "Stopped":
            return next_attempt(decision, Reason.RESTARTING, state.message, failed=False)
        case "Paused":
            return _paused(decision, admitted, observed, state)
        case _:
            wanted = admitted.desired.spec.rollout.workers if held.reserved and state.life != "Queued" else 0
            decision = _exists(decision, admitted, observed, workers_wanted=wanted)
    return _deadlines(decision, admitted, observed, state, now)


# ── facts ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _facts(decision: Decision, admitted: Admitted, observed: Observed, state: ClusterState, held: Quota) -> Decision:
    """Conditions that describe, and decide nothing."""
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
    out = [pool.metadata.name for pool in admitted.experts if not is_ready(pool)]
    if out:
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
    if state.life == "Up":
        return decision.says("ClusterReady", "True", Reason.CLUSTER_READY, state.message)
    if state.ended:
        return decision.says("ClusterReady", "False", state.reason, state.message)
    found = obstacle(observed.pods) if state.life == "Starting" else None
    reason, message = found or (Reason.CLUSTER_STARTING, state.message)
    return decision.says("ClusterReady", "False", reason, message)


def _running(decision: Decision, observed: Observed) -> Decision:
    told = of_attempt(observed.progress, decision.remembered.attempt)
    if not told:
        if not observed.messaging.answered and condition_of(observed.parent, "Running").get("status") == "True":
            return decision  # it runs as far as anybody can tell
        return decision.says("Running", "False", Reason.CLUSTER_STARTING)
    message = str(told.get("message", ""))
    if told.get("state") == "Running":
        reason = Reason.EVALUATING if message.startswith("evaluating") else Reason.TRAINING
        return decision.says("Running", "True", reason, f"step {told.get('step', 0)} of {told.get('steps', 0)}")
    if told.get("state") == "Complete":
        return decision.says("Running", "False", Reason.STEPS_DONE, message)
    reason = Reason.WARM_STARTING if message.startswith(WARM_START) else Reason.CLUSTER_STARTING
    return decision.says("Running", "False", reason, message)


def _blocked(decision: Decision, admitted: Admitted, observed: Observed) -> Decision | None:
    """What must be there before a cluster is asked for: streams, and experts that are served."""
    if not observed.messaging.answered:
        return decision
    if not observed.messaging.ready:
        return replace(decision, streams="make", requeue_after=MADE_SECONDS)
    if alive := _heads_of_others(observed, decision.remembered.attempt):
        # Two drivers on one storage would be two truths.
        return decision.says("ClusterReady", "False", Reason.CLUSTER_STARTING, f"waiting for {alive} to end")
    # What answers elsewhere may come and go; a model that is served here, for hours at first, is waited for.
    if not_served := [
        pool.metadata.name for pool in admitted.experts if pool.spec.type == "VLLM" and not _serves(pool)
    ]:
        message = f"waiting for: {', '.join(not_served)}"
        return decision.says("ExpertsReady", "False", Reason.EXPERTS_UNAVAILABLE, message)
    return None


def _heads_of_others(observed: Observed, attempt: int) -> str:
    """A head of another attempt that still lives."""
    for pod in observed.pods:
        labels = pod["metadata"].get("labels") or {}
        ended = (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")
        is_head = labels.get("app.kubernetes.io/component") == HEAD
        if is_head and labels.get(ATTEMPT_LABEL) != str(attempt) and not ended:
            return f"pod {pod['metadata']['name']}"
    return ""


def _serves(pool: ExpertPool) -> bool:
    """It is ready, and what an attempt is told of it is known."""
    status = pool.status
    return status is not None and status.url is not None and status.served_model is not None and is_ready(pool)


# ── what is to exist ───────────────────────────────────────────────────────────────────────────────────────────


def _exists(decision: Decision, admitted: Admitted, observed: Observed, *, workers_wanted: int) -> Decision:
    """`workers_wanted`: none before quota is there for the cluster whose episodes they run."""
    desired, attempt, ray = admitted.desired, decision.remembered.attempt, admitted.ray
    pools = [resolved(pool) for pool in admitted.experts]
    config = config_map(desired, pools, attempt=attempt, ray_address=ray.ray_address(desired, attempt=attempt))
    once: list[Manifest] = [_token(admitted, observed.token)]
    for one in (storage_claim(desired), cache_claim(desired), nats_secret(desired, attempt=attempt)):
        once += [one] if one is not None else []
    once += [config, *ray.manifests(desired, attempt=attempt)]
    create = tuple(one for one in once if Ref.of(one) not in observed.objects)
    live = observed.objects.get(workers.ref(desired.names))
    deployment = workers.deployment(desired, pools, attempt=attempt, replicas=workers_wanted, live=live)
    keep = not observed.messaging.answered or _fits(desired, observed.messaging)
    streams: Literal["keep", "make"] = "keep" if keep else "make"
    return replace(decision, create=create, apply=(deployment,), streams=streams)


def _fits(desired: Desired, messaging: Messaging) -> bool:
    """The streams are there; and as many workers as the spec has by now may hold tasks."""
    leases = messaging.leases
    return messaging.ready and (leases is None or leases == settings_of(desired).max_ack_pending)


def _token(admitted: Admitted, token: str) -> Manifest:
    """Made once: it outlives attempts, and is never compared."""
    names = admitted.desired.names
    metadata = names.metadata(names.ray_token, "ray")
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": {SECRET_TOKEN_KEY: token}}


def everything_of(admitted: Admitted, attempt: int) -> tuple[Ref, ...]:
    """What an attempt that is over leaves: its cluster, then its configuration."""
    names = admitted.desired.names
    configuration = Ref("v1", "ConfigMap", names.namespace, names.attempt(attempt))
    return (
        *admitted.ray.refs(names, attempt),
        configuration,
        Ref("v1", "Secret", names.namespace, names.nats(attempt)),
    )


def leftovers(admitted: Admitted, observed: Observed, attempt: int) -> tuple[Ref, ...]:
    """What is to go of the attempt before `attempt`: its head, and nodes when no head needs them for a checkpoint."""
    if attempt <= 1:
        return ()
    refs = everything_of(admitted, attempt - 1)
    return refs[:1] if _heads_of_others(observed, attempt) else refs


# ── how it ends ────────────────────────────────────────────────────────────────────────────────────────────────


def exported(admitted: Admitted) -> str:
    """Where the model of a training that is complete lies."""
    return uri(f"{admitted.desired.run_path}/export/last", claim=admitted.desired.claim, root=STORAGE_PATH)


def _complete(decision: Decision, admitted: Admitted, now: datetime) -> Decision:
    """Whoever sees that it is complete finds the model."""
    remembered = replace(decision.remembered, terminal="Complete", completion_time=now)
    fields = {"exportURI": exported(admitted)}
    return replace(decision, remembered=remembered, fields=fields, requeue_after=0.0).says(
        "Complete", "True", Reason.STEPS_DONE, "all steps are done and the model is exported"
    )


def fail(decision: Decision, reason: Reason, message: str, now: datetime) -> Decision:
    """For good: nothing brings it back but a new training."""
    remembered = replace(decision.remembered, terminal="Failed", completion_time=now)
    failed = replace(decision, remembered=remembered, create=(), apply=(), requeue_after=0.0)
    return failed.says("Failed", "True", reason, message)


def _failed(decision: Decision, admitted: Admitted, state: ClusterState, now: datetime) -> Decision:
    limit, restarts = admitted.desired.spec.backoff_limit, decision.remembered.restarts
    if restarts >= limit:
        message = f"it failed {restarts + 1} times; the last words: {state.message}"
        return fail(decision, Reason.BACKOFF_LIMIT_EXCEEDED, message, now)
    return next_attempt(decision, Reason.RESTARTING, state.message, failed=True)


def next_attempt(decision: Decision, reason: Reason, message: str, *, failed: bool) -> Decision:
    """The fact is written first; what is left of this attempt is removed when the next one begins."""
    before = decision.remembered
    remembered = replace(before, attempt=before.attempt + 1, restarts=before.restarts + (1 if failed else 0))
    said = f"attempt {before.attempt} ended: {message}"
    return replace(decision, remembered=remembered, create=(), apply=(), remove=(), requeue_after=0.0).says(
        "Running", "False", reason, said
    )


def _paused(decision: Decision, admitted: Admitted, observed: Observed, state: ClusterState) -> Decision:
    """Until the spec differs from what the attempt was told: the change is the person's answer. Nodes and workers go;
    what tells that it is paused stays.
    """
    told = of_attempt(observed.progress, decision.remembered.attempt)
    reason = Reason(told["reason"]) if "reason" in told else state.reason
    desired, attempt = admitted.desired, decision.remembered.attempt
    ref = Ref("v1", "ConfigMap", desired.names.namespace, desired.names.attempt(attempt))
    pools = [resolved(pool) for pool in admitted.experts]
    address = admitted.ray.ray_address(desired, attempt=attempt)
    now = config_map(desired, pools, attempt=attempt, ray_address=address)
    before = observed.objects.get(ref)
    if before is not None and before["data"][RESOURCES_FILE] != now["data"][RESOURCES_FILE]:
        return next_attempt(decision, Reason.RESTARTING, "the spec was changed", failed=False)
    tells, *_ = admitted.ray.refs(desired.names, attempt)
    nodes = (ref for ref in admitted.ray.compute(desired.names, attempt, failed=False) if ref != tells)
    remove = (*decision.remove, workers.ref(desired.names), *nodes)
    return replace(decision, remove=remove, requeue_after=None).says(
        "Running", "False", reason, str(told.get("message", state.message))
    )


def _steps(told: Mapping[str, Any]) -> bool:
    """Whether it has begun to train; a supervised start is training."""
    return told.get("state") == "Running" or str(told.get("message", "")).startswith(WARM_START)


def _deadlines(
    decision: Decision, admitted: Admitted, observed: Observed, state: ClusterState, now: datetime
) -> Decision:
    spec, remembered = admitted.desired.spec, decision.remembered
    active = spec.active_deadline_seconds
    if active is not None and remembered.start_time and now - remembered.start_time > timedelta(seconds=active):
        return fail(decision, Reason.ACTIVE_DEADLINE_EXCEEDED, f"it ran for more than {active} seconds", now)
    begun = admitted.ray.begun(admitted.desired.names, remembered.attempt, objects=observed.objects)
    if begun is None or _steps(of_attempt(observed.progress, remembered.attempt)):
        return decision
    if not observed.messaging.answered:
        return decision  # it may have made its steps long ago: nobody can tell
    if now - begun > timedelta(seconds=spec.start_deadline_seconds):
        _, message = obstacle(observed.pods) or (None, state.message)
        said = f"no step within {spec.start_deadline_seconds} seconds: {message}"
        return fail(decision, Reason.START_DEADLINE_EXCEEDED, said, now)
    return decision
