"""The tiny training on a real API server, for the command line, and the status that an operator would write."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from click.testing import Result

from support.real_run import TINY_RUN
from testbed.api import Api

TINY = TINY_RUN / "training.yaml"
Run = Callable[..., Result]


def path(namespace: str, plural: str = "orchestratortrainings", name: str = "tiny") -> str:
    return f"/apis/toolorchestra.dev/v1alpha1/namespaces/{namespace}/{plural}/{name}"


def condition(kind: str, status: str, reason: str, message: str = "") -> dict[str, Any]:
    since = "2030-01-01T00:00:00Z"
    return {"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": since}


def play(api: Api, namespace: str, *conditions: dict[str, Any], **status: Any) -> None:
    """What the operator writes."""
    live = api.get(path(namespace))
    found = {"observedGeneration": live["metadata"]["generation"], "conditions": list(conditions), **status}
    api.merge(f"{path(namespace)}/status", {"status": found})


RUNNING = (condition("Running", "True", "Training", "step 3 of 10"), condition("Accepted", "True", "Accepted"))
COMPLETE = (condition("Complete", "True", "StepsDone"), condition("Accepted", "True", "Accepted"))
