"""Carries a plan out: its actions in order, then the status.

Invariants
- The first action that fails ends the plan, and the status is not written. When the plan is carried out again, finished
  actions stay finished. Only a refused deletion (also of streams) lets the others continue, so that one missing right
  does not keep the other objects.
- Nothing is taken over: an existing object that is not this parent's own (`ownership`) is not changed (`NameTaken`),
  even if it has no owner. Nothing is ever adopted.
- A new object of an old name is never written to: deletes, finalizers and the status name the UID that was observed.
- A decision about an older state of the parent is not carried out (Conflict): if two operators overlap for a moment,
  the slower one reconciles again, instead of creating an attempt again that the other has ended.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final, Literal, Protocol, assert_never

from toolorchestra.kube.errors import AlreadyExists, Conflict, Forbidden
from toolorchestra_operator.errors import OperatorError
from toolorchestra_operator.kubernetes.manifest import Manifest, Ref
from toolorchestra_operator.kubernetes.ownership import owner_in_words, owner_uid
from toolorchestra_operator.messaging.streams import StreamsPort
from toolorchestra_operator.planning.plan import (
    Apply,
    Create,
    Delete,
    Emit,
    MakeStreams,
    Plan,
    RemoveStreams,
    SetFinalizer,
)

_log = logging.getLogger(__name__)
_NO_VERSION: Final = "1"
"""The store's first version, which no object can have: an apply with it creates the object, or is a Conflict."""


class Objects(Protocol):
    """The part of `ApiServer` that carrying out needs."""

    async def get(self, ref: Ref) -> dict[str, Any] | None: ...

    async def apply(self, manifest: Manifest) -> dict[str, Any]: ...

    async def create(self, manifest: Manifest) -> dict[str, Any]: ...

    async def delete(self, ref: Ref, *, uid: str, propagation: Literal["Background", "Foreground"]) -> bool: ...

    async def patch_status(
        self, ref: Ref, status: Manifest, *, uid: str, version: str = ""
    ) -> dict[str, Any] | None: ...

    async def set_finalizer(self, ref: Ref, present: bool, *, uid: str) -> dict[str, Any] | None: ...


class NameTaken(OperatorError):
    """An object that the plan wants to create exists already and is not the parent's."""

    def __init__(self, ref: Ref, owner: str) -> None:
        super().__init__(f"{ref} is there already and belongs to {owner}: delete it, or wait until it is gone")
        self.ref = ref


async def carry_out(
    plan: Plan,
    *,
    parent: Ref,
    api: Objects,
    streams: StreamsPort,
    emit: Callable[[Emit], Awaitable[None]],
    uid: str = "",
    version: str = "",
) -> None:
    """Carry out `plan`. `uid`: the parent's; with it, nothing is written to another object of the parent's name.
    `version`: the resourceVersion of the parent that the plan is about; with it, nothing is done if the parent changed.

    Raises: ApiError, NameTaken, MessagingUnreachable: an action failed; those before it are done.
    """
    refused: Forbidden | None = None
    if version and not all(isinstance(action, Emit) for action in plan.actions):
        await _check_unchanged(parent, version, api=api)
    for action in plan.actions:
        if isinstance(action, SetFinalizer):
            live = await api.set_finalizer(parent, action.present, uid=uid)
            if version and live is not None:
                version = live["metadata"]["resourceVersion"]
        elif refused is None or isinstance(action, Delete | RemoveStreams):
            try:
                await _do(action, api=api, streams=streams, emit=emit)
            except Forbidden as error:
                if not isinstance(action, Delete):
                    raise
                refused = refused or error
    if refused is not None:
        raise refused
    if plan.status is not None:
        await api.patch_status(parent, plan.status, uid=uid, **({"version": version} if version else {}))


async def _check_unchanged(parent: Ref, version: str, *, api: Objects) -> None:
    live = await api.get(parent)
    if live is None or live["metadata"]["resourceVersion"] != version:
        raise Conflict("it was changed or deleted since it was observed", verb="get", resource=str(parent))


async def _do(
    action: Apply | Create | Delete | MakeStreams | RemoveStreams | Emit,
    *,
    api: Objects,
    streams: StreamsPort,
    emit: Callable[[Emit], Awaitable[None]],
) -> None:
    match action:
        case Apply(manifest):
            await _apply(manifest, api=api)
        case Create(manifest):
            await _create(manifest, api=api)
        case Delete(ref, seen, propagation):
            await api.delete(ref, uid=seen, propagation=propagation)
        case MakeStreams(url, short_uid, settings):
            await streams.make(url=url, uid=short_uid, settings=settings)
        case RemoveStreams(url, short_uid):
            await streams.remove(url=url, uid=short_uid)
        case Emit():
            await emit(action)
        case _:
            assert_never(action)


async def _apply(manifest: Manifest, *, api: Objects) -> None:
    """Apply to our object, or create it. The apply names what was observed, so that a change in between is a
    Conflict."""
    ref = Ref.of(manifest)
    live = await api.get(ref)
    if live is None:
        await api.apply({**manifest, "metadata": {**manifest["metadata"], "resourceVersion": _NO_VERSION}})
        return
    _check_own(manifest, live)
    metadata = {**manifest["metadata"], "uid": live["metadata"]["uid"]}
    applied = await api.apply({**manifest, "metadata": metadata})
    if applied["metadata"]["resourceVersion"] == live["metadata"]["resourceVersion"]:
        _log.info("applied %s, but the server kept no change", ref)


async def _create(manifest: Manifest, *, api: Objects) -> None:
    ref = Ref.of(manifest)
    try:
        await api.create(manifest)
    except AlreadyExists as error:
        live = await api.get(ref)
        if live is None:
            raise Conflict("it existed, and was deleted meanwhile", verb="create", resource=str(ref)) from error
        _check_own(manifest, live)


def _check_own(manifest: Manifest, live: Manifest) -> None:
    """Raise NameTaken if the existing object is not the wanted one, but another owner's or nobody's."""
    wanted = owner_uid(manifest)
    if wanted is None or owner_uid(live) != wanted:
        raise NameTaken(Ref.of(manifest), owner_in_words(live))
