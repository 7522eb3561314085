"""What a training, its Ray cluster and its pods said, and when: a table for people (docs/cluster.md has one).

Nothing is decided by it. It looks four times a second, so that a state shorter than that may be missing.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from testbed.api import Api, Refused

_LOOK_SECONDS = 0.25
_KINDS = {
    "orchestratortrainings": "/apis/toolorchestra.dev/v1alpha1",
    "rayjobs": "/apis/ray.io/v1",
    "rayclusters": "/apis/ray.io/v1",
    "jobs": "/apis/batch/v1",
    "pods": "/api/v1",
}
_ENDS = ("Complete", "Failed")


class Timeline:
    """Records from `with` on; `write` what was seen of the training `name`."""

    def __init__(self, api: Api, namespace: str, name: str) -> None:
        self._api, self._namespace, self._name = api, namespace, name
        self._rows: list[tuple[float, str, str]] = []
        self._last: dict[tuple[str, str], str] = {}
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Timeline:
        self._began = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def write(self, file: Path) -> None:
        """As a Markdown table; what one object said in one second is one row."""
        rows: dict[tuple[int, str], list[str]] = {}
        for seconds, thing, said in self._rows:
            rows.setdefault((round(seconds), thing), []).append(said)
        lines = [f"| {seconds} s | {thing} | {', '.join(said)} |" for (seconds, thing), said in rows.items()]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("\n".join(["| after | object | says |", "| --- | --- | --- |", *lines, ""]))

    def _watch(self) -> None:
        while not self._done.wait(_LOOK_SECONDS):
            for plural, group in _KINDS.items():
                self._look(plural, group)

    def _look(self, plural: str, group: str) -> None:
        try:
            found = self._api.get(f"{group}/namespaces/{self._namespace}/{plural}")["items"]
        except Refused:  # not served here
            return
        kind = plural.removesuffix("s")
        there = {one["metadata"]["name"]: one for one in found if one["metadata"]["name"].startswith(self._name)}
        things = {f"{kind} …{name.removeprefix(self._name)}".removesuffix(" …"): one for name, one in there.items()}
        for thing, one in things.items():
            for aspect, said in _said(plural, one):
                self._note(thing, aspect, said)
        for thing, aspect in list(self._last):
            if thing.startswith(kind) and thing not in things:
                self._note(thing, aspect, "gone")

    def _note(self, thing: str, aspect: str, said: str) -> None:
        if self._last.get((thing, aspect)) != said:
            self._last[thing, aspect] = said
            self._rows.append((time.monotonic() - self._began, thing, said))


def _said(plural: str, live: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Aspect, and what is said of it; one that says nothing yet is left out."""
    status: Mapping[str, Any] = live.get("status") or {}
    if plural == "orchestratortrainings":
        for one in reversed(status.get("conditions") or ()):
            yield one["type"], f"`{one['type']}={one['status']}` {one['reason']}"
        return
    if plural == "rayjobs":
        deployment, job = status.get("jobDeploymentStatus"), status.get("jobStatus")
        yield "", ", ".join(filter(None, (deployment, job))) or "is there"
    elif plural == "rayclusters":
        yield "", status.get("state") or "is there"
    elif plural == "jobs":
        ended = [one["type"] for one in status.get("conditions") or () if one["type"] in _ENDS]
        yield "", ended[0] if ended else "ready" if status.get("ready") else "is there"
    else:
        ready = any(one["type"] == "Ready" and one["status"] == "True" for one in status.get("conditions") or ())
        yield "", "ready" if ready else str(status.get("phase"))
