"""Who owns an object: checked before an object with one of our names is read, changed or deleted. Pure.

A parent owns the objects whose controlling owner has its UID. A volume that is kept after its parent has no owner; an
annotation says for which parent it was created. A name proves nothing: others may use it, and so may an earlier parent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from toolorchestra_operator.kubernetes.manifest import Manifest

MADE_FOR: Final = "toolorchestra.dev/made-for"
"""Annotation of an object without an owner: the UID of the parent that it was created for."""


def controller(live: Manifest) -> Mapping[str, Any]:
    """Return the reference to the controlling owner; empty if there is none."""
    owners: list[Mapping[str, Any]] = live["metadata"].get("ownerReferences") or []
    return next((owner for owner in owners if owner.get("controller")), {})


def owner_uid(manifest: Manifest) -> str | None:
    """Return the UID of the parent that owns the object; None: no parent does."""
    if uid := controller(manifest).get("uid"):
        return str(uid)
    found = (manifest["metadata"].get("annotations") or {}).get(MADE_FOR)
    return None if manifest["metadata"].get("ownerReferences") else found


def owner_in_words(live: Manifest) -> str:
    """Return the owner as text, for a message."""
    owner = controller(live)
    if owner:
        return f"{owner['kind']} {owner['name']} ({owner['uid']})"
    made_for = owner_uid(live)
    return f"an earlier resource ({made_for}), which left it" if made_for else "no resource of this operator"
