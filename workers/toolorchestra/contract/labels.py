"""Labels of a training's objects and pods: the operator writes them, the command line finds pods by them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

MANAGER: Final = "toolorchestra"
"""`app.kubernetes.io/managed-by`, and the operator's field manager in server-side apply."""
FINALIZER: Final = "toolorchestra.dev/streams"
"""Holds a training until its streams are removed."""

MANAGED_BY_LABEL: Final = "app.kubernetes.io/managed-by"
COMPONENT_LABEL: Final = "app.kubernetes.io/component"
TRAINING_LABEL: Final = "toolorchestra.dev/training"
ATTEMPT_LABEL: Final = "toolorchestra.dev/attempt"
UID_LABEL: Final = "toolorchestra.dev/training-uid"
"""On what belongs to an attempt, and its pods: an earlier training of the name may have had one of that number."""

Role = Literal["head", "trainer", "engine", "worker"]
"""What a pod of a training is for. The head runs the controller."""
COMPONENTS: Final[Mapping[Role, str]] = {
    "head": "head",
    "trainer": "trainers",
    "engine": "engines",
    "worker": "workers",
}
"""The component label of each role's pods."""

SHORT_UID: Final = 8
"""Digits of a training's UID that key its streams, subjects and folder in storage."""


def short_uid(uid: str) -> str:
    """Of a UID as the API server writes it; two namespaces, or a delete and a re-create, never meet under it."""
    return uid.replace("-", "")[:SHORT_UID]
