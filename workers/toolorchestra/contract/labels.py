"""Labels of a training's objects and pods. The operator writes them; the command line finds pods by them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

MANAGER: Final = "toolorchestra"
"""`app.kubernetes.io/managed-by`, and the operator's field manager in server-side apply."""
FINALIZER: Final = "toolorchestra.dev/streams"
"""Finalizer that keeps a training until its streams are removed."""

MANAGED_BY_LABEL: Final = "app.kubernetes.io/managed-by"
COMPONENT_LABEL: Final = "app.kubernetes.io/component"
TRAINING_LABEL: Final = "toolorchestra.dev/training"
ATTEMPT_LABEL: Final = "toolorchestra.dev/attempt"
UID_LABEL: Final = "toolorchestra.dev/training-uid"
"""On an attempt's objects and pods: an earlier training of the same name may have had the same attempt number."""

Role = Literal["head", "trainer", "engine", "worker"]
"""Role of a training's pod. The head runs the controller."""
COMPONENTS: Final[Mapping[Role, str]] = {
    "head": "head",
    "trainer": "trainers",
    "engine": "engines",
    "worker": "workers",
}
"""Value of the component label, by role."""

SHORT_UID: Final = 8
"""Number of UID digits in the names of a training's streams, subjects and storage folder."""


def short_uid(uid: str) -> str:
    """Return the short form of a UID. It differs between namespaces, and after an object is deleted and made again."""
    return uid.replace("-", "")[:SHORT_UID]
