"""Pod templates that stay as they were applied: an upgrade of the operator rolls nothing.

Invariant: a template is recorded on its Deployment, with a digest of what it was made from. As long as that digest is
the same the recorded template stays, whatever this version of the operator, or its configuration, would make of it.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, Final

from toolorchestra_operator.kubernetes.manifest import Manifest

INPUTS_ANNOTATION: Final = "toolorchestra.dev/template-inputs"
TEMPLATE_ANNOTATION: Final = "toolorchestra.dev/template"


def digest(inputs: Any) -> str:
    """Of JSON: what of the resource the template is made from."""
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:16]


def recorded(live: Manifest | None, *, inputs: str) -> dict[str, Any] | None:
    """The template that was applied, where it was made from the same inputs."""
    annotations = ((live or {}).get("metadata") or {}).get("annotations") or {}
    if annotations.get(INPUTS_ANNOTATION) != inputs:
        return None
    try:
        found: dict[str, Any] = json.loads(annotations[TEMPLATE_ANNOTATION])
    except (KeyError, ValueError):  # taken away or edited by hand: made anew
        return None
    return found


def record(template: Manifest, *, inputs: str) -> dict[str, str]:
    """The Deployment's annotations."""
    return {INPUTS_ANNOTATION: inputs, TEMPLATE_ANNOTATION: json.dumps(template, sort_keys=True, separators=(",", ":"))}
