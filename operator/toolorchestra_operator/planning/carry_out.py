"""Carries a plan out: its actions in order, then the status.

Invariants
- The first action that fails ends it, with the status unwritten; carried out again, what is done stays done. Only a
  deletion that is refused lets the others be tried, of streams too: one missing right keeps nothing else.
- Nothing is taken from anybody: an object that is there and not this parent's own (`ownership`) is left alone
  (`NameTaken`), also one that nobody owns. Nothing is ever adopted.
- What is gone is never written to: deletes, finalizers and the status name the UID that was seen.
- What was decided about an older state of the parent is not done (Conflict): of two operators that overlap for a moment
  the slower one looks again, instead of making an attempt anew that the other has ended.
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
"""The first of the API server's store, and so no object's: an apply that names it makes an object, or is a Conflict."""


class Objects(Protocol):
    """What it needs of `ApiServer`, which has it."""

    async def get(self, ref: Ref) -> dict[str, Any] | None: ...

    async def apply(self, manifest: Manifest) -> dict[str, Any]: ...

    async def create(self, manifest: Manifest) -> dict[str, Any]: ...

    async def delete(self, ref: Ref, *, uid: str, propagation: Literal["Background", "Foreground"]) -> bool: ...

    async def patch_status(
        self, ref: Ref, status: Manifest, *, uid: str, version: str = ""
    ) -> dict[str, Any] | None: ...

    async def set_finalizer(self, ref: Ref, present: bool, *, uid: str) -> dict[str, Any] | None: ...


class NameTaken(OperatorError):
    """An object that the plan wants to make is there already, and is not the parent's."""

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
    """Do what `plan` says. `uid`: the parent's; with it, nothing is written to another object of the parent's name.
    `version`: the parent's resourceVersion as it was decided on; with it, nothing is done about one that has changed.

    Raises: ApiError, NameTaken, MessagingUnreachable: the action that failed; those before it are done.
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
        raise Conflict("it was changed, or is gone, since it was looked at", verb="get", resource=str(parent))


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
    """Apply to our object, or to none: what was looked at goes along, so that nothing comes in between."""
    ref = Ref.of(manifest)
    live = await api.get(ref)
    if live is None:
        await api.apply({**manifest, "metadata": {**manifest["metadata"], "resourceVersion": _NO_VERSION}})
        return
    _check_own(manifest, live)
    metadata = {**manifest["metadata"], "uid": live["metadata"]["uid"]}
    applied = await api.apply({**manifest, "metadata": metadata})
    if applied["metadata"]["resourceVersion"] == live["metadata"]["resourceVersion"]:
        _log.info("applied %s, and nothing changed: it differed in nothing that the server keeps", ref)


async def _create(manifest: Manifest, *, api: Objects) -> None:
    ref = Ref.of(manifest)
    try:
        await api.create(manifest)
    except AlreadyExists as error:
        live = await api.get(ref)
        if live is None:
            raise Conflict("it was there, and is gone", verb="create", resource=str(ref)) from error
        _check_own(manifest, live)


def _check_own(manifest: Manifest, live: Manifest) -> None:
    """NameTaken: what is there is not the object that is wanted, but another's, or nobody's."""
    wanted = owner_uid(manifest)
    if wanted is None or owner_uid(live) != wanted:
        raise NameTaken(Ref.of(manifest), owner_in_words(live))
