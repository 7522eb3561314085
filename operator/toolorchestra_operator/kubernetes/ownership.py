"""Whose an object is: asked before anything that has one of our names is read, changed or deleted. Pure.

A parent's own is what its UID controls. A volume that outlives its parent has no owner; an annotation says whom it was
made for. A name says nothing: others may use it, and so did an earlier parent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from toolorchestra_operator.kubernetes.manifest import Manifest

MADE_FOR: Final = "toolorchestra.dev/made-for"
"""Annotation of what is made without an owner: the UID of the parent that it was made for."""


def controller(live: Manifest) -> Mapping[str, Any]:
    """The reference to the owner that controls it; empty where nobody does."""
    owners: list[Mapping[str, Any]] = live["metadata"].get("ownerReferences") or []
    return next((owner for owner in owners if owner.get("controller")), {})


def owner_uid(manifest: Manifest) -> str | None:
    """The UID of the parent whose own it is; None: nobody's."""
    if uid := controller(manifest).get("uid"):
        return str(uid)
    found = (manifest["metadata"].get("annotations") or {}).get(MADE_FOR)
    return None if manifest["metadata"].get("ownerReferences") else found


def owner_in_words(live: Manifest) -> str:
    """For a message."""
    owner = controller(live)
    if owner:
        return f"{owner['kind']} {owner['name']} ({owner['uid']})"
    made_for = owner_uid(live)
    return f"an earlier resource ({made_for}), which left it" if made_for else "nobody of ours"
