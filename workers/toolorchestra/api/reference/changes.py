"""Generates docs/immutability.md: which changes the CRDs' rules refuse, and what the other changes do.

Invariant (a test checks it): every field of both specs is either refused by a rule or explained in `EFFECTS`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from toolorchestra.api.kinds import CUSTOM_RESOURCES
from toolorchestra.api.reference.page import GENERATED, escaped
from toolorchestra.api.rules import VALIDATIONS
from toolorchestra.api.schema import Schema, structural_schema

GUARDS: Final[Mapping[str, str]] = {"": "always", "oldSelf.suspend || ": "unless already suspended"}
"""The CEL before the comparison in a rule over `oldSelf`, and when such a rule refuses."""

_NEXT_ATTEMPT: Final = (
    "Applies from the next attempt on; a running attempt keeps the old value. A paused training continues."
)
_AT_ONCE: Final = "At once; nothing is restarted."
_ROLLS: Final = "Replicas are drained and replaced one by one; no request is lost."

EFFECTS: Final[Mapping[str, Mapping[str, str]]] = {
    "OrchestratorTraining": {
        "spec.suspend": "`true`: a checkpoint, then compute is released. `false`: the next attempt continues.",
        "spec.limits": _NEXT_ATTEMPT,
        "spec.rollout.workers": "The workers' Deployment is scaled, and so is the number of tasks leased at once.",
        "spec.rollout.concurrencyPerWorker": "The workers are replaced. Running episodes get a minute to end, "
        "and are then dispatched again.",
        "spec.rollout.resources": "The workers are replaced.",
        "spec.rollout.podTemplate": "The workers are replaced.",
        "spec.ray": "While suspended: the next attempt uses it.",
        "spec.startDeadlineSeconds": _AT_ONCE,
        "spec.activeDeadlineSeconds": _AT_ONCE,
        "spec.backoffLimit": _AT_ONCE,
        "spec.keepFailedSeconds": _AT_ONCE,
        "spec.ttlSecondsAfterFinished": _AT_ONCE,
    },
    "ExpertPool": {
        "spec.roles": "Applies to trainings that are admitted later.",
        "spec.description": _NEXT_ATTEMPT,
        "spec.descriptionFrom": "Checked at once for existence; a training reads it when an attempt begins.",
        "spec.price": _NEXT_ATTEMPT,
        "spec.expectedLatencyMilliseconds": _NEXT_ATTEMPT,
        "spec.limits": _NEXT_ATTEMPT,
        "spec.parameters": _NEXT_ATTEMPT,
        "spec.endpoint": f"Probed again at once. Trainings: {_NEXT_ATTEMPT[0].lower()}{_NEXT_ATTEMPT[1:]}",
        "spec.vllm.replicas": "Scaled; a replica is drained before it is removed.",
        "spec.vllm.minAvailable": _AT_ONCE,
        "spec.vllm.queueName": "Changes the Deployment's label; running pods stay.",
        "spec.vllm": f"Everything else under `vllm`: {_ROLLS[0].lower()}{_ROLLS[1:]}",
    },
}
"""What a change does, by field. A field includes all fields below it that have no row of their own."""

INTRO = f"""# What may change, and what may not

{GENERATED}
The API server refuses a change that a running attempt could not apply, with a message, at `kubectl apply`. Applying the
same file again changes nothing, and names are immutable, as everywhere in Kubernetes.

```
$ kubectl patch ot demo --type=merge -p '{{"spec": {{"algorithm": {{"steps": 9}}}}}}'
The OrchestratorTraining "demo" is invalid: spec.algorithm: Invalid value: "object": algorithm is immutable: …
```

[podtemplate.md](podtemplate.md) says what an overlay on pods (`podTemplate`) may set.
"""


def changes_page() -> str:
    """Return the page in Markdown."""
    lines = [INTRO]
    for kind in CUSTOM_RESOURCES:
        lines += [f"## {kind.__name__}", "", "Refused:", "", "| field | refused | message |", "| --- | --- | --- |"]
        lines += [f"| `{where}` | {when} | {escaped(said)} |" for where, when, said in refused(structural_schema(kind))]
        lines += ["", "Allowed:", "", "| field | effect |", "| --- | --- |"]
        lines += [f"| `{where}` | {escaped(said)} |" for where, said in EFFECTS[kind.__name__].items()]
        lines.append("")
    return "\n".join(lines)


def refused(schema: Schema, path: str = "") -> Iterator[tuple[str, str, str]]:
    """Yield (field, when a change is refused, message) of every rule over `oldSelf`."""
    for declared in schema.get(VALIDATIONS, ()):
        if "oldSelf" in declared["rule"]:
            guard = declared["rule"].partition("has(self.")[0]
            yield (path + declared.get("fieldPath", "")).lstrip("."), GUARDS[guard], declared["message"]
    for name, sub in schema.get("properties", {}).items():
        yield from refused(sub, f"{path}.{name}")
    if "items" in schema:
        yield from refused(schema["items"], path + "[]")
