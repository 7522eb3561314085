"""docs/conditions.md: every condition of both kinds and every reason, out of `conditions.py` and `explanations.py`."""

from __future__ import annotations

from collections.abc import Iterable

from toolorchestra.api.conditions import POOL_CONDITIONS, TRAINING_CONDITION_ORDER, TRAINING_CONDITIONS, Reason
from toolorchestra.api.reference.explanations import EXPLAINED
from toolorchestra.api.reference.page import GENERATED, escaped

INTRO = f"""# Conditions and their reasons

{GENERATED}
Both kinds tell how they are by conditions, as `metav1.Condition`, and have no phase. `kubectl describe` shows them,
each with a *reason* out of the closed list below and a *message* that says what was seen: the field, the scheduler's
words, the last line of a container. Wait for one in a script:

```sh
kubectl wait ot/demo --for=condition=Complete --timeout=6h
kubectl wait xp --all --for=condition=Ready
```

A condition that changes is also an event (`kubectl events --for ot/demo`). `observedGeneration` says which generation
of the spec it is about. Whatever its cause, a condition heals within a resync (5 minutes by default) when the cause is
gone; nothing has to be restarted. By symptom instead of by reason: [troubleshooting.md](troubleshooting.md).
"""

TRAININGS = """## Of an OrchestratorTraining

Written with the most telling first: {order}.
The Status column of `kubectl get ot` is the first that is `True`. While `Accepted` is `False` the other conditions stay
as they were last.
"""

POOLS = """## Of an ExpertPool

Always all of them. Of a pool that is refused before anything can be seen those that would tell of it are `Unknown`.
"""

REASONS = """## Every reason

In alphabetical order, with the conditions that it is written on.
"""


def conditions_page() -> str:
    """The page, in Markdown."""
    return "\n".join(
        [
            INTRO,
            TRAININGS.format(order=", ".join(f"`{kind}`" for kind in TRAINING_CONDITION_ORDER)),
            *_meanings(TRAINING_CONDITIONS.items()),
            POOLS,
            *_meanings(POOL_CONDITIONS.items()),
            REASONS,
            "| reason | on | what has happened | what to do |",
            "| --- | --- | --- | --- |",
            *(_row(reason) for reason in sorted(Reason)),
            "",
        ]
    )


def _meanings(conditions: Iterable[tuple[str, str]]) -> list[str]:
    rows = (f"| `{kind}` | {escaped(text)} |" for kind, text in conditions)
    return ["| condition | says |", "| --- | --- |", *rows, ""]


def _row(reason: Reason) -> str:
    said = EXPLAINED[reason]
    on = ", ".join(f"`{one}`" for one in said.on)
    return f"| `{reason}` | {on} | {escaped(said.meaning)} | {escaped(said.remedy)} |"
