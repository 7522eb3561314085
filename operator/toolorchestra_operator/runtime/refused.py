"""The conditions of a resource whose plan could not be carried out, and the way to solve it.

`Accepted=False`: the API server refuses an object, or the operator itself failed on the resource.
`MessagingReady=False`: NATS refuses. Because a plan writes its status last, a missing right, a refused field, a taken
name, a full JetStream or an error of the operator would otherwise be visible in its log only. The plan's other
conditions of what runs are written too, because they were observed and not created by the plan. The next reconcile
that succeeds clears the condition.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from toolorchestra.api.conditions import Reason
from toolorchestra_operator.kubernetes.kinds import POOLS
from toolorchestra_operator.kubernetes.manifest import Manifest
from toolorchestra_operator.messaging.servers import MessagingUnreachable
from toolorchestra_operator.planning.conditions import Condition, condition, merged, transitions
from toolorchestra_operator.planning.plan import Plan
from toolorchestra_operator.planning.refusal import in_words, reason_of
from toolorchestra_operator.pools import states


def refused(parent: Manifest, error: Exception, now: datetime, *, decided: Manifest | None = None) -> Plan:
    """Return the plan that reports `error` on the live `parent`; empty if the parent reports it already. `decided`: the
    status of the plan that was not carried out, if that plan is about this very parent.
    """
    before: Manifest = parent.get("status") or {}
    old, facts = before.get("conditions") or (), before if decided is None else decided
    generation = int(parent["metadata"].get("generation", 1))
    said = _said(parent, error)
    kinds = {one["type"] for one in said}
    seen = () if decided is None else facts.get("conditions") or ()
    told = [*(one for one in seen if one["type"] not in kinds), *said]
    conditions = merged(old, told, now=now, generation=generation)
    status = {**facts, "observedGeneration": generation, "conditions": list(conditions)}
    return Plan() if status == before else Plan(transitions(old, conditions), status)


def _said(parent: Manifest, error: Exception) -> Sequence[Condition]:
    if isinstance(error, MessagingUnreachable):
        return [condition("MessagingReady", "False", Reason.MESSAGING_UNREACHABLE, str(error))]
    accepted = condition("Accepted", "False", reason_of(error), in_words(error))
    if parent.get("kind") != POOLS[1]:
        return [accepted]
    return states.of_refused(accepted, (parent.get("status") or {}).get("conditions") or ())
