"""Generates docs/conditions.md: all conditions and reasons, from `conditions.py` and `explanations.py`."""

from __future__ import annotations

from collections.abc import Iterable

from toolorchestra.api.conditions import POOL_CONDITIONS, TRAINING_CONDITION_ORDER, TRAINING_CONDITIONS, Reason
from toolorchestra.api.reference.explanations import EXPLAINED
from toolorchestra.api.reference.page import GENERATED, escaped

INTRO = f"""# Conditions and their reasons

{GENERATED}
Both kinds report their state as conditions (`metav1.Condition`), and have no phase. `kubectl describe` shows them. Each
has a *reason* from the fixed list below, and a *message* with the details: the field, the scheduler's message, the last
line of a container. Wait for a condition in a script:

```sh
kubectl wait ot/demo --for=condition=Complete --timeout=6h
kubectl wait xp --all --for=condition=Ready
```

Each change of a condition is also an event (`kubectl events --for ot/demo`). `observedGeneration` says which generation
of the spec the condition is about. When the cause is gone, the condition changes within a resync (5 minutes by
default); nothing has to be restarted. To search by symptom, see [troubleshooting.md](troubleshooting.md).
"""

TRAININGS = """## Of an OrchestratorTraining

The most important condition comes first: {order}.
The Status column of `kubectl get ot` shows the first one that is `True`. While `Accepted` is `False`, the other
conditions keep their last status.
"""

POOLS = """## Of an ExpertPool

A pool always has all of them. If a pool is refused before it can be observed, the conditions about its state are
`Unknown`.
"""

REASONS = """## Every reason

In alphabetical order, with the conditions that can have the reason.
"""


def conditions_page() -> str:
    """Return the page in Markdown."""
    return "\n".join(
        [
            INTRO,
            TRAININGS.format(order=", ".join(f"`{kind}`" for kind in TRAINING_CONDITION_ORDER)),
            *_meanings(TRAINING_CONDITIONS.items()),
            POOLS,
            *_meanings(POOL_CONDITIONS.items()),
            REASONS,
            "| reason | on | what happened | what to do |",
            "| --- | --- | --- | --- |",
            *(_row(reason) for reason in sorted(Reason)),
            "",
        ]
    )


def _meanings(conditions: Iterable[tuple[str, str]]) -> list[str]:
    rows = (f"| `{kind}` | {escaped(text)} |" for kind, text in conditions)
    return ["| condition | meaning |", "| --- | --- |", *rows, ""]


def _row(reason: Reason) -> str:
    said = EXPLAINED[reason]
    on = ", ".join(f"`{one}`" for one in said.on)
    return f"| `{reason}` | {on} | {escaped(said.meaning)} | {escaped(said.remedy)} |"
