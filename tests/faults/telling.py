"""What a controller that does not move would say of itself."""

from __future__ import annotations

from collections import Counter

from faults.controller import ScriptedJob


def tell(job: ScriptedJob) -> str:
    """Groups by state, siblings by status, money, what the ledger waits for, evaluations under way."""
    books = getattr(job, "_books", None)
    if books is None:
        return "no books yet"
    ledger = books.ledger
    states = Counter(str(group.state) for group in ledger.groups.values())
    statuses = Counter(str(s.status) for group in ledger.groups.values() for s in group.siblings)
    waiting = getattr(job._evaluator, "_waiting", {})
    engines = [f"{s.name} {s.state} {s.version}" for s in job._engines.statuses] if job._engines is not None else []
    lines = [
        f"step {ledger.step} of {ledger.steps}, incarnation {ledger.incarnation}, filtered {ledger.filtered}",
        f"groups {dict(states)}, siblings {dict(statuses)}",
        f"the ledger says: {ledger.next_step()}",
        f"spend {ledger.spend.as_dict()}",
        f"evaluations wait for {len(waiting)} results, engines {engines}",
        f"status: {job.status.latest.get('state')} {job.status.latest.get('message')}",
    ]
    return "\n".join(lines)
