"""Which objects and pods under a training's names are its own; and messages about foreign ones. Pure."""

from __future__ import annotations

from toolorchestra.contract.labels import MANAGED_BY_LABEL, MANAGER, TRAINING_LABEL, UID_LABEL
from toolorchestra_operator.kubernetes.kinds import TRAININGS
from toolorchestra_operator.kubernetes.manifest import Manifest, Ref
from toolorchestra_operator.kubernetes.ownership import controller, owner_in_words, owner_uid
from toolorchestra_operator.trainings.names import TrainingNames


def is_own(live: Manifest, names: TrainingNames, *, admitted: bool) -> bool:
    """Return whether a live object under one of the training's names was created for it."""
    uid = owner_uid(live)
    return uid == names.uid or (uid is None and admitted and _is_unmarked_volume(live, names))


def _is_unmarked_volume(live: Manifest, names: TrainingNames) -> bool:
    """Return whether it is a retained volume of a release that did not mark them. An admitted training owns the one of
    its name: if the volume had belonged to another one, the training would not have been admitted.
    """
    labels = live["metadata"].get("labels") or {}
    made = (labels.get(MANAGED_BY_LABEL), labels.get(TRAINING_LABEL)) == (MANAGER, names.name)
    named = (live["kind"], live["metadata"]["name"]) == ("PersistentVolumeClaim", names.storage)
    return made and named and not live["metadata"].get("ownerReferences")


def is_own_pod(pod: Manifest, names: TrainingNames) -> bool:
    """Return whether a pod with the training's name is its own: pods of an earlier training may still be ending. (A pod
    without a UID label is of a release that wrote none, and counts: the wait for heads includes it.)
    """
    labels = pod["metadata"].get("labels") or {}
    return labels.get(UID_LABEL) in (None, names.uid)


def leaves(live: Manifest, names: TrainingNames) -> bool:
    """Return whether it will be deleted: it is in deletion, or the garbage collector removes it after its training."""
    owner = controller(live)
    earlier = (owner.get("kind"), owner.get("name")) == (TRAININGS[1], names.name) and owner["uid"] != names.uid
    return earlier or bool(live["metadata"].get("deletionTimestamp"))


def taken(ref: Ref, live: Manifest, names: TrainingNames) -> str:
    """Return what to do about a foreign object whose name the training needs."""
    whose = owner_in_words(live)
    if leaves(live, names):
        return f"{ref} belongs to {whose} and is being deleted: waiting until it is gone"
    if ref.kind == "PersistentVolumeClaim" and not live["metadata"].get("ownerReferences"):
        take = f"storage: {{type: ExistingClaim, existingClaim: {{claimName: {ref.name}}}}}"
        return (
            f"{ref} is there already, and belongs to {whose}: to use it, name it in a new training ({take}); "
            "else delete it, or give the training another name"
        )
    return f"{ref} is there already and belongs to {whose}: delete it, or give the training another name"
