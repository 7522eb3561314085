"""`helm test`: apply the resources of a file, wait until they are as they should be, and take them away again.

Runs in the operator's image. Exit status 0: the training is Complete (or, without one, every pool is Ready); what was
made is gone. 1: the last conditions are printed, and what was made stays for a look.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from kubernetes import client, config
from kubernetes.client.exceptions import ApiException

GROUP, VERSION = "toolorchestra.dev", "v1alpha1"
PLURALS = {"ExpertPool": "expertpools", "OrchestratorTraining": "orchestratortrainings"}
DONE = {"ExpertPool": "Ready", "OrchestratorTraining": "Complete"}


class Resources:
    """The resources of a file in a namespace."""

    def __init__(self, wanted: list[dict[str, Any]], *, namespace: str, deadline: float) -> None:
        self.wanted, self.deadline = wanted, deadline
        self._objects, self._at = client.CustomObjectsApi(), (GROUP, VERSION, namespace)
        self._said: dict[str, str] = {}

    def live(self, one: dict[str, Any]) -> dict[str, Any] | None:
        """None: it is not there."""
        try:
            found: Any = self._objects.get_namespaced_custom_object(*self._at, *_named(one))
            return dict(found)
        except ApiException as error:
            if error.status != 404:
                raise
            return None

    def make(self) -> None:
        """Create all of them."""
        for one in self.wanted:
            self._objects.create_namespaced_custom_object(*self._at, PLURALS[one["kind"]], one)
            say(f"created {_title(one)}")

    def remove(self) -> None:
        """Delete all of them, the last first, and wait until they are gone."""
        for one in reversed(self.wanted):
            if self.live(one) is None:
                continue
            self._objects.delete_namespaced_custom_object(
                *self._at, *_named(one), body=client.V1DeleteOptions(propagation_policy="Foreground")
            )
            while self.live(one) is not None:
                self.wait(f"{_title(one)} is not gone")
            say(f"deleted {_title(one)}")

    def complete(self, one: dict[str, Any]) -> None:
        """Wait for the condition that is the end of it. SystemExit: it failed, or time is up."""
        wanted = DONE[one["kind"]]
        while True:
            live = self.live(one) or {}
            conditions = {c["type"]: c for c in (live.get("status") or {}).get("conditions") or ()}
            self._tell(one, conditions)
            if conditions.get(wanted, {}).get("status") == "True":
                return
            if conditions.get("Failed", {}).get("status") == "True":
                fail(f"{_title(one)} failed: {conditions['Failed'].get('message', '')}")
            self.wait(f"{_title(one)} is not {wanted}")

    def wait(self, otherwise: str) -> None:
        """A moment. SystemExit with `otherwise`: time is up."""
        if time.monotonic() > self.deadline:
            fail(f"time is up: {otherwise}")
        time.sleep(1)

    def _tell(self, one: dict[str, Any], conditions: dict[str, dict[str, Any]]) -> None:
        for kind, condition in conditions.items():
            said = f"{condition['status']} {condition.get('reason', '')}: {condition.get('message', '')}"
            key = f"{_title(one)} {kind}"
            if self._said.get(key) != said:
                self._said[key] = said
                say(f"{key} {said}")


def say(line: str) -> None:
    """To the pod's log, which `kubectl logs` shows; a pod that passes goes, so that uninstalling leaves nothing."""
    print(line, flush=True)


def fail(message: str) -> None:
    """The test has failed."""
    sys.exit(f"FAILED: {message}")


def _named(one: dict[str, Any]) -> tuple[str, str]:
    return PLURALS[one["kind"]], one["metadata"]["name"]


def _title(one: dict[str, Any]) -> str:
    return f"{one['kind']} {one['metadata']['name']}"


def main() -> None:
    """Everything that the file names is done, in its order."""
    config.load_incluster_config()  # type: ignore[no-untyped-call]
    deadline = time.monotonic() + float(os.environ["TIMEOUT_SECONDS"])
    wanted = json.loads(Path(sys.argv[1]).read_text())
    resources = Resources(wanted, namespace=os.environ["TEST_NAMESPACE"], deadline=deadline)
    resources.remove()
    resources.make()
    for one in wanted:
        resources.complete(one)
    for one in wanted:
        status = (resources.live(one) or {}).get("status") or {}
        if one["kind"] == "OrchestratorTraining":
            say(f"steps {status['step']}, model at {status['exportURI']}, spent {status.get('spentUSD')} US dollars")
            if status["step"] != one["spec"]["algorithm"]["steps"]:
                fail("it is Complete without all of its steps")
    resources.remove()
    say("PASSED")


if __name__ == "__main__":
    main()
