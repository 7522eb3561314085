"""Pod templates that are kept as they were applied, so that an upgrade of the operator rolls nothing.

Invariant: a template is recorded on its Deployment, with a digest of its inputs. As long as the digest is the same, the
recorded template is kept, whatever this version of the operator, or its configuration, would make of the inputs.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, Final

from toolorchestra_operator.kubernetes.manifest import Manifest

INPUTS_ANNOTATION: Final = "toolorchestra.dev/template-inputs"
TEMPLATE_ANNOTATION: Final = "toolorchestra.dev/template"


def digest(inputs: Any) -> str:
    """Return the digest of the parts of a resource, as JSON, from which a template is made."""
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:16]


def recorded(live: Manifest | None, *, inputs: str) -> dict[str, Any] | None:
    """Return the recorded template if it was made from the same inputs, else None."""
    annotations = ((live or {}).get("metadata") or {}).get("annotations") or {}
    if annotations.get(INPUTS_ANNOTATION) != inputs:
        return None
    try:
        found: dict[str, Any] = json.loads(annotations[TEMPLATE_ANNOTATION])
    except (KeyError, ValueError):  # removed or edited by hand: it is made again
        return None
    return found


def record(template: Manifest, *, inputs: str) -> dict[str, str]:
    """Return the Deployment's annotations that record the template."""
    return {INPUTS_ANNOTATION: inputs, TEMPLATE_ANNOTATION: json.dumps(template, sort_keys=True, separators=(",", ":"))}
