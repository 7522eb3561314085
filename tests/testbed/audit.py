"""What was written to a test cluster, by whom: read from its API server's audit log."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

WRITES = ("create", "update", "patch", "delete", "deletecollection")

POLICY: dict[str, Any] = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [
        # Reviews and tokens are asked by `create`, and change nothing.
        {"level": "None", "resources": [{"group": "authorization.k8s.io"}, {"group": "authentication.k8s.io"}]},
        {"level": "Metadata", "verbs": list(WRITES)},
        {"level": "None"},
    ],
}
"""Every write once, when it is answered; no reads and no bodies."""


@dataclass(frozen=True)
class Write:
    """One request that could change something, and how it was answered. `at`: when, in seconds since the epoch."""

    at: float
    verb: str
    resource: str
    """`pods`, `deployments.apps`, with `/status` or `/finalizers` where a sub-resource was written."""
    namespace: str
    name: str
    user: str
    user_agent: str
    field_manager: str
    dry_run: bool
    code: int
    """The answer's HTTP status."""

    def __str__(self) -> str:
        at = f"{self.namespace}/{self.name}" if self.namespace else self.name
        return f"{self.verb} {self.resource} {at} by {self.user_agent} as {self.field_manager or '-'}: {self.code}"


def _write(event: dict[str, Any]) -> Write:
    what = event.get("objectRef", {})
    query = parse_qs(urlsplit(event["requestURI"]).query)
    resource = ".".join(part for part in (what.get("resource", ""), what.get("apiGroup", "")) if part)
    sub = what.get("subresource")
    return Write(
        at=datetime.fromisoformat(event["stageTimestamp"]).timestamp(),
        verb=event["verb"],
        resource=f"{resource}/{sub}" if sub else resource,
        namespace=what.get("namespace", ""),
        name=what.get("name", ""),
        user=event["user"].get("username", ""),
        user_agent=event.get("userAgent", ""),
        field_manager=query.get("fieldManager", [""])[0],
        dry_run="dryRun" in query,
        code=event.get("responseStatus", {}).get("code", 0),
    )


class AuditLog:
    """The log of one API server, over its restarts. The server writes a request's line before it answers it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def position(self) -> int:
        """Where the log ends now: `writes(since=…)` of it has only what came after."""
        return self.path.stat().st_size if self.path.exists() else 0

    def writes(self, *, since: int = 0, user_agent: str = "", namespace: str = "") -> list[Write]:
        """The writes after `since`, oldest first; only of agents that begin with `user_agent`, only in `namespace`."""
        if not self.path.exists():
            return []
        with self.path.open("rb") as file:
            file.seek(since)
            lines = file.read().split(b"\n")[:-1]  # the last piece is empty, or a line half written
        found = [_write(json.loads(line)) for line in lines]
        return [
            write
            for write in found
            if write.user_agent.startswith(user_agent) and (not namespace or write.namespace == namespace)
        ]
