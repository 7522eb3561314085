"""docs/immutability.md: what the CRDs' rules refuse to have changed, and what a change of the rest does.

Invariant (a test holds it): every field of both specs is either refused by a rule or explained in `EFFECTS`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from toolorchestra.api.kinds import CUSTOM_RESOURCES
from toolorchestra.api.reference.page import GENERATED, escaped
from toolorchestra.api.rules import VALIDATIONS
from toolorchestra.api.schema import Schema, structural_schema

GUARDS: Final[Mapping[str, str]] = {"": "always", "oldSelf.suspend || ": "unless it is suspended already"}
"""CEL before the comparison of a rule on the past, and when the rule refuses."""

_NEXT_ATTEMPT: Final = (
    "Counts from the next attempt on: a running one keeps what it was told. A paused training goes on."
)
_AT_ONCE: Final = "At once; nothing is restarted."
_ROLLS: Final = "Replicas are replaced one by one, each drained: no request is lost."

EFFECTS: Final[Mapping[str, Mapping[str, str]]] = {
    "OrchestratorTraining": {
        "spec.suspend": "`true`: a checkpoint, then compute is given back; `false`: the next attempt goes on.",
        "spec.limits": _NEXT_ATTEMPT,
        "spec.rollout.workers": "The workers' Deployment is scaled, and the number of tasks that may be held at once.",
        "spec.rollout.concurrencyPerWorker": "The workers roll; episodes in flight get a minute to end, then are "
        "sent again.",
        "spec.rollout.resources": "The workers roll.",
        "spec.rollout.podTemplate": "The workers roll.",
        "spec.ray": "While suspended: the next attempt is made with it.",
        "spec.startDeadlineSeconds": _AT_ONCE,
        "spec.activeDeadlineSeconds": _AT_ONCE,
        "spec.backoffLimit": _AT_ONCE,
        "spec.keepFailedSeconds": _AT_ONCE,
        "spec.ttlSecondsAfterFinished": _AT_ONCE,
    },
    "ExpertPool": {
        "spec.roles": "For trainings that are admitted later.",
        "spec.description": _NEXT_ATTEMPT,
        "spec.descriptionFrom": "Whether it is there is checked at once; a training reads it when an attempt begins.",
        "spec.price": _NEXT_ATTEMPT,
        "spec.expectedLatencyMilliseconds": _NEXT_ATTEMPT,
        "spec.limits": _NEXT_ATTEMPT,
        "spec.parameters": _NEXT_ATTEMPT,
        "spec.endpoint": f"Asked anew at once. Trainings: {_NEXT_ATTEMPT[0].lower()}{_NEXT_ATTEMPT[1:]}",
        "spec.vllm.replicas": "Scaled; a replica that goes is drained first.",
        "spec.vllm.minAvailable": _AT_ONCE,
        "spec.vllm.queueName": "The Deployment's label; pods that run stay.",
        "spec.vllm": f"Everything else under `vllm`: {_ROLLS[0].lower()}{_ROLLS[1:]}",
    },
}
"""What a change does, by field; a field stands for all below it that have no row of their own."""

INTRO = f"""# What may change, and what may not

{GENERATED}
A change that could not be honoured is refused by the API server, with a message, at `kubectl apply`. Applying the same
file again changes nothing, and names are immutable, as everywhere in Kubernetes.

```
$ kubectl patch ot demo --type=merge -p '{{"spec": {{"algorithm": {{"steps": 9}}}}}}'
The OrchestratorTraining "demo" is invalid: spec.algorithm: Invalid value: "object": algorithm is immutable: …
```

What an overlay on pods (`podTemplate`) may set is in [podtemplate.md](podtemplate.md).
"""


def changes_page() -> str:
    """The page, in Markdown."""
    lines = [INTRO]
    for kind in CUSTOM_RESOURCES:
        lines += [f"## {kind.__name__}", "", "Refused:", "", "| field | refused | message |", "| --- | --- | --- |"]
        lines += [f"| `{where}` | {when} | {escaped(said)} |" for where, when, said in refused(structural_schema(kind))]
        lines += ["", "Taken, and what follows:", "", "| field | a change |", "| --- | --- |"]
        lines += [f"| `{where}` | {escaped(said)} |" for where, said in EFFECTS[kind.__name__].items()]
        lines.append("")
    return "\n".join(lines)


def refused(schema: Schema, path: str = "") -> Iterator[tuple[str, str, str]]:
    """(field, when a change is refused, message) of every rule on an object's past."""
    for declared in schema.get(VALIDATIONS, ()):
        if "oldSelf" in declared["rule"]:
            guard = declared["rule"].partition("has(self.")[0]
            yield (path + declared.get("fieldPath", "")).lstrip("."), GUARDS[guard], declared["message"]
    for name, sub in schema.get("properties", {}).items():
        yield from refused(sub, f"{path}.{name}")
    if "items" in schema:
        yield from refused(schema["items"], path + "[]")
