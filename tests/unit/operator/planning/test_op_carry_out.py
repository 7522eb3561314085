"""A plan carried out, interrupted at every step, and carried out again; and what belongs to others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from toolorchestra.bus.streams import StreamSettings
from toolorchestra.contract.labels import MANAGER
from toolorchestra.kube.errors import AlreadyExists, Conflict, Forbidden, Unavailable
from toolorchestra_operator.kubernetes.manifest import Ref
from toolorchestra_operator.kubernetes.ownership import MADE_FOR
from toolorchestra_operator.planning.carry_out import NameTaken, carry_out
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

PARENT = Ref("toolorchestra.dev/v1alpha1", "OrchestratorTraining", "team", "t")
US = [{"kind": "OrchestratorTraining", "name": "t", "uid": "us", "controller": True}]
OTHERS = [{"kind": "OrchestratorTraining", "name": "t", "uid": "before", "controller": True}]
MANAGED = {"app.kubernetes.io/managed-by": "toolorchestra"}


class Killed(BaseException):
    """The operator's process, ended."""


@dataclass
class World:
    """Objects, streams, events and the status, by what was done to them; `dies_at`: the call that kills."""

    objects: dict[Ref, dict[str, Any]] = field(default_factory=dict)
    streams: dict[str, StreamSettings] = field(default_factory=dict)
    events: list[str] = field(default_factory=list)
    finalizers: set[str] = field(default_factory=set)
    status: Mapping[str, Any] | None = None
    dies_at: int = -1
    calls: int = 0

    def step(self) -> None:
        self.calls += 1
        if self.calls - 1 == self.dies_at:
            raise Killed

    async def get(self, ref: Ref) -> dict[str, Any] | None:
        self.step()
        return self.objects.get(ref)

    async def apply(self, manifest: Mapping[str, Any]) -> dict[str, Any]:
        self.step()
        ref, live = Ref.of(manifest), self.objects.get(Ref.of(manifest))
        uid = manifest["metadata"].get("uid")
        if uid and (live is None or live["metadata"]["uid"] != uid):
            raise Conflict("uid mismatch", verb="apply", resource=str(ref))
        if live is not None and "resourceVersion" in manifest["metadata"]:
            raise Conflict("it has another version", verb="apply", resource=str(ref))
        mine = {"manager": MANAGER, "operation": "Apply", "fieldsV1": {"f:spec": {}}}
        metadata = {**manifest["metadata"], "uid": uid or f"uid of {ref.name}", "managedFields": [mine]}
        version = str(int(live["metadata"]["resourceVersion"]) + 1) if live else "1"
        self.objects[ref] = {**manifest, "metadata": {**metadata, "resourceVersion": version}}
        return self.objects[ref]

    async def create(self, manifest: Mapping[str, Any]) -> dict[str, Any]:
        self.step()
        ref = Ref.of(manifest)
        if ref in self.objects:
            raise AlreadyExists("it is there", verb="create", resource=str(ref))
        self.objects[ref] = live(dict(manifest))
        return self.objects[ref]

    async def delete(self, ref: Ref, *, uid: str, propagation: str) -> bool:
        self.step()
        found = self.objects.get(ref)
        if found is None or found["metadata"]["uid"] != uid:
            return False
        del self.objects[ref]
        return True

    async def patch_status(self, ref: Ref, status: Mapping[str, Any], *, uid: str) -> dict[str, Any] | None:
        self.step()
        self.status = status
        return {}

    async def set_finalizer(self, ref: Ref, present: bool, *, uid: str) -> dict[str, Any] | None:
        self.step()
        (self.finalizers.add if present else self.finalizers.discard)("f")
        return {}

    async def make(self, *, url: str, uid: str, settings: StreamSettings) -> None:
        self.step()
        self.streams[uid] = settings

    async def remove(self, *, url: str, uid: str) -> None:
        self.step()
        self.streams.pop(uid, None)

    async def emit(self, event: Emit) -> None:
        self.events.append(event.reason)

    async def carry_out(self, plan: Plan) -> None:
        await carry_out(plan, parent=PARENT, api=self, streams=self, emit=self.emit, uid="us")

    def state(self) -> tuple[Any, ...]:
        specs = {ref: found["spec"] for ref, found in self.objects.items()}
        return specs, self.streams, self.finalizers, self.status


def manifest(name: str, *, kind: str = "Deployment", owners: Any = US, spec: Any = 1) -> dict[str, Any]:
    metadata: dict[str, Any] = {"name": name, "namespace": "team", "labels": dict(MANAGED)}
    if owners:
        metadata["ownerReferences"] = owners
    return {"apiVersion": "apps/v1", "kind": kind, "metadata": metadata, "spec": spec}


def live(wanted: dict[str, Any], *, uid: str = "", applied: bool = False) -> dict[str, Any]:
    fields = [{"manager": MANAGER, "operation": "Apply", "fieldsV1": {"f:spec": {}}}] if applied else []
    metadata = {"uid": uid or f"uid of {wanted['metadata']['name']}", "resourceVersion": "1", "managedFields": fields}
    return {**wanted, "metadata": {**wanted["metadata"], **metadata}}


PLAN = Plan(
    actions=(
        SetFinalizer(present=True),
        MakeStreams("nats://x", "u1", StreamSettings(replicas=3)),
        Apply(manifest("pool")),
        Create(manifest("job-1", kind="Job")),
        Delete(Ref.of(manifest("old")), uid="uid of old"),
        RemoveStreams("nats://x", "u0"),
        Emit("Normal", "Running", "it runs"),
    ),
    status={"attempt": 1},
)


def start() -> World:
    world = World(streams={"u0": StreamSettings()})
    world.objects[Ref.of(manifest("old"))] = live(manifest("old"))
    return world


async def test_all_of_it() -> None:
    world = start()
    await world.carry_out(PLAN)
    assert world.state() == (
        {Ref.of(manifest("pool")): 1, Ref.of(manifest("job-1", kind="Job")): 1},
        {"u1": StreamSettings(replicas=3)},
        {"f"},
        {"attempt": 1},
    )
    assert world.events == ["Running"]


async def test_killed_before_any_call_and_repeated_it_ends_the_same() -> None:
    whole = start()
    await whole.carry_out(PLAN)
    for dies_at in range(whole.calls):
        world = start()
        world.dies_at = dies_at
        with pytest.raises(Killed):
            await world.carry_out(PLAN)
        assert world.status is None
        world.dies_at = -1
        await world.carry_out(PLAN)
        assert world.state() == whole.state()


async def test_the_first_failure_ends_it_and_leaves_the_status() -> None:
    world = start()

    async def refuse(**_: Any) -> None:
        raise Unavailable("down", verb="make", resource="streams")

    world.make = refuse  # type: ignore[method-assign]
    with pytest.raises(Unavailable):
        await world.carry_out(PLAN)
    assert Ref.of(manifest("pool")) not in world.objects
    assert world.status is None


@pytest.mark.parametrize("action", [Apply, Create])
@pytest.mark.parametrize("owners", [None, OTHERS])
async def test_what_is_anothers_is_left_alone(action: type[Apply | Create], owners: Any) -> None:
    world = World()
    theirs = live(manifest("pool", owners=owners, spec="theirs"), uid="theirs")
    world.objects[Ref.of(theirs)] = theirs
    with pytest.raises(NameTaken, match="Deployment team/pool is there already"):
        await world.carry_out(Plan(actions=(action(manifest("pool")),)))
    assert world.objects[Ref.of(theirs)] == theirs


@pytest.mark.parametrize("action", [Apply, Create])
async def test_what_is_ours_is_no_failure(action: type[Apply | Create]) -> None:
    world = World()
    ours = live(manifest("pool", spec="ours"))
    world.objects[Ref.of(ours)] = ours
    await world.carry_out(Plan(actions=(action(manifest("pool")),)))
    assert world.objects[Ref.of(ours)]["spec"] == (1 if action is Apply else "ours")


@pytest.mark.parametrize("action", [Apply, Create])
async def test_what_nobody_owns_is_not_adopted_though_we_made_it(action: type[Apply | Create]) -> None:
    """`kubectl delete --cascade=orphan` leaves such: made of another resource's spec."""
    world = World()
    orphan = live(manifest("pool", owners=None), applied=True)
    world.objects[Ref.of(orphan)] = orphan
    with pytest.raises(NameTaken):
        await world.carry_out(Plan(actions=(action(manifest("pool")),)))
    assert world.objects[Ref.of(orphan)] == orphan


@pytest.mark.parametrize("action", [Apply, Create])
async def test_a_retained_claim_is_only_whose_it_was_made_for(action: type[Apply | Create]) -> None:
    def claim(made_for: str) -> dict[str, Any]:
        found = manifest("t-storage", kind="PersistentVolumeClaim", owners=None)
        return {**found, "metadata": {**found["metadata"], "annotations": {MADE_FOR: made_for}}}

    world = World()
    retained = live(claim("us"), applied=True)
    world.objects[Ref.of(retained)] = retained
    with pytest.raises(NameTaken, match="t-storage is there already"):
        await world.carry_out(Plan(actions=(action(claim("another")),)))
    await world.carry_out(Plan(actions=(action(claim("us")),)))


async def test_a_deletion_that_is_refused_does_not_hold_up_the_others() -> None:
    """Of what gives compute back, what may be given back is; then it is told."""
    world = start()
    delete, refused = world.delete, live(manifest("refused"))
    world.objects[Ref.of(refused)] = refused

    async def may_delete(ref: Ref, **options: Any) -> bool:
        if ref.name == "refused":
            raise Forbidden("no", verb="delete", resource=str(ref))
        return await delete(ref, **options)

    world.delete = may_delete  # type: ignore[method-assign]
    deletes = [Delete(Ref.of(manifest(name)), uid=f"uid of {name}") for name in ("refused", "old")]
    world.streams["u0"] = StreamSettings()
    plan = (*deletes, RemoveStreams("nats://x", "u0"), Apply(manifest("pool")))
    with pytest.raises(Forbidden):
        await world.carry_out(Plan(plan, status={"attempt": 1}))
    assert not world.streams, "of a training that goes nobody would find them again"
    assert set(world.objects) == {Ref.of(refused)}, "and nothing is made after it"
    assert world.status is None


async def test_an_object_that_was_replaced_meanwhile_is_not_applied_to() -> None:
    world = World()
    ours = live(manifest("pool"))
    world.objects[Ref.of(ours)] = ours
    seen_before = world.get

    async def get(ref: Ref) -> dict[str, Any] | None:
        found = await seen_before(ref)
        world.objects[ref] = live(manifest("pool", owners=OTHERS), uid="another")
        return found

    world.get = get  # type: ignore[method-assign]
    with pytest.raises(Conflict):
        await world.carry_out(Plan(actions=(Apply(manifest("pool", spec=2)),)))
    assert world.objects[Ref.of(ours)]["spec"] == 1
