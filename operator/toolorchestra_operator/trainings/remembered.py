"""The facts that cannot be observed and are read from status: a closed list. Nothing else in status is an input.

attempt and its start, restarts, the terminal condition, the Ray provider, the present cluster's name and image, the
resolved experts, the last committed checkpoint, the dollars spent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from toolorchestra_operator.kubernetes.manifest import Manifest

Provider = Literal["KubeRay", "Builtin"]
Terminal = Literal["Complete", "Failed"]


@dataclass(frozen=True)
class Remembered:
    """The remembered facts. `attempt` 0: the training was never admitted."""

    attempt: int = 0
    restarts: int = 0
    start_time: datetime | None = None
    completion_time: datetime | None = None
    terminal: Terminal | None = None
    provider: Provider | None = None
    cluster: str | None = None
    image: str | None = None
    """The image of the pods of `cluster`, whatever the operator would use today."""
    experts: tuple[Mapping[str, Any], ...] = ()
    step: int | None = None
    checkpoint: Mapping[str, Any] | None = None
    spent: str | None = None

    @classmethod
    def of(cls, parent: Manifest) -> Remembered:
        status: Mapping[str, Any] = parent.get("status") or {}
        ray: Mapping[str, Any] = status.get("ray") or {}
        ended: list[Terminal] = ["Complete", "Failed"]
        terminal = next((kind for kind in ended if condition_of(parent, kind).get("status") == "True"), None)
        return cls(
            attempt=status.get("attempt", 0),
            restarts=status.get("restarts", 0),
            start_time=_time(status.get("startTime")),
            completion_time=_time(status.get("completionTime")),
            terminal=terminal,
            provider=ray.get("provider"),
            cluster=ray.get("name"),
            image=ray.get("image"),
            experts=tuple(status.get("experts") or ()),
            step=status.get("step"),
            checkpoint=status.get("checkpoint"),
            spent=status.get("spentUSD"),
        )


def condition_of(parent: Manifest, kind: str) -> Mapping[str, Any]:
    """Return the condition of that type; empty: it was never written."""
    conditions = (parent.get("status") or {}).get("conditions") or ()
    return next((c for c in conditions if c["type"] == kind), {})


def _time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
