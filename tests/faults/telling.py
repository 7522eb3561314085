"""What a controller that does not move would say of itself."""

from __future__ import annotations

from collections import Counter

from faults.controller import ScriptedJob


def tell(job: ScriptedJob) -> str:
    """Groups by state, siblings by status, money, what the ledger waits for, evaluations under way."""
    if not job.journalled:
        return "no books yet"
    ledger = job.journalled[0].ledger
    states = Counter(str(group.state) for group in ledger.groups.values())
    statuses = Counter(str(s.status) for group in ledger.groups.values() for s in group.siblings)
    waiting = sum(evaluator.waits_for for evaluator in job.evaluators)
    engines = [f"{s.name} {s.state} {s.version}" for engines in job.engines for s in engines.statuses]
    lines = [
        f"step {ledger.step} of {ledger.steps}, incarnation {ledger.incarnation}, filtered {ledger.filtered}",
        f"groups {dict(states)}, siblings {dict(statuses)}",
        f"the ledger says: {ledger.next_step()}",
        f"spend {ledger.spend.as_dict()}",
        f"evaluations wait for {waiting} results, engines {engines}",
        f"status: {job.assignment.status.latest.get('state')} {job.assignment.status.latest.get('message')}",
    ]
    return "\n".join(lines)
