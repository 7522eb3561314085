"""Plays a training's life, and says what of it was not as it should be."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from nats.aio.client import Client
from nats.errors import Error as NatsError

from support.cluster.training_life import STEPS, Stage
from testbed.api import Api, Refused
from toolorchestra_operator.trainings.reconcile import SKIP_ANNOTATION
from week.kubelet import ANY_ERROR, Kubelet
from week.stories import Life
from week.world import PLURALS, REFUSED, World, is_there, lacking_secret, remove, wrong

PATIENCE = 240.0
"""Seconds in which anything that is waited for has to come, operator, API server and NATS killed meanwhile."""
TICK = 0.5


class NotSo(Exception):
    """Something was not as it should be."""


@dataclass
class Lives:
    """Everything that a life needs. `ended` counts lives; `wrong` says what was not right."""

    api: Api
    bus: Client
    kubelet: Kubelet
    world: World
    dead: list[str]
    """URLs of NATS servers that are."""
    ended: int = 0
    wrong: list[str] = field(default_factory=list[str])
    made: int = 0
    """Trainings, those that were made again included."""

    async def live(self, life: Life) -> None:
        """To its end, whatever it is."""
        try:
            await self._play(life)
        except Exception as problem:  # the others go on, and what it was is told
            said = await self._calm(lambda: self._conditions(life))
            what = str(problem) if isinstance(problem, NotSo) else repr(problem)
            self.wrong.append(f"{life.tenant}/{life.name} ({life.story}, {life.variant}): {what}; it says {said}")
        finally:
            self.ended += 1

    async def _play(self, life: Life) -> None:
        match life.story:
            case "completes":
                await self._made(life)
                await self._completes(life, 1)
            case "fails once, then completes":
                await self._made(life)
                await self._fails(life, 1)
                await self._completes(life, 2)
            case "fails for good":
                await self._made(life, backoffLimit=0)
                await self._fails(life, 1)
                await self._says(life, "Failed", "True", "BackoffLimitExceeded")
            case "is suspended and resumed":
                await self._made(life)
                await self._runs(life, 1)
                await self._suspended(life)
                await self._completes(life, 2)
            case "is deleted while it runs":
                await self._made(life)
                await self._runs(life, 1)
            case "is made again under its name":
                await self._made(life)
                await self._completes(life, 1)
                await self._gone(life)
                await self._made(life)
                await self._completes(life, 1)
            case "is wrong":
                await self._made(life, **wrong(life.variant))
                await self._says(life, "Accepted", "False", REFUSED[life.variant % len(REFUSED)])
            case "lacks a Secret for a while":
                await self._lacks(life)
            case "meets foreign objects":
                await self._calm(lambda: self.world.put_in_the_way(life))
                await self._made(life)
                await self._says(life, "Accepted", "False", "NameTaken")
                await self._nothing_made(life)
            case "names a dead NATS server":
                url = self.dead[life.variant % len(self.dead)]
                await self._made(life, annotations={SKIP_ANNOTATION: "true"}, messaging={"url": url})
                await self._says(life, "MessagingReady", "False", "MessagingUnreachable")
        await self._gone(life)

    # ── steps ──────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _made(self, life: Life, *, annotations: dict[str, str] | None = None, **spec: Any) -> None:
        self.kubelet.forget(life.tenant, life.name)
        stage = self._stage(life)

        def make() -> None:
            try:
                stage.submit(pools=False, **spec)
            except Refused as refused:
                if refused.reason != "AlreadyExists":  # made, and the answer was lost
                    raise
            if annotations:
                self.api.merge(stage.path(life.name), {"metadata": {"annotations": annotations}})

        await self._calm(make)
        self.made += 1

    async def _runs(self, life: Life, attempt: int) -> None:
        """The attempt is up, and trains."""
        await self._tells(life, attempt, 1)
        await self._says(life, "Running", "True", "Training")
        await self._says(life, "ClusterReady", "True", "ClusterReady")

    async def _completes(self, life: Life, attempt: int) -> None:
        await self._runs(life, attempt)
        if (await self._status(life)).get("exportURI"):
            raise NotSo("it has an exportURI before it is complete")
        await self._tells(life, attempt, STEPS, state="Complete")
        self.kubelet.head_ends(life.tenant, life.name, attempt, 0)
        await self._says(life, "Complete", "True", "StepsDone")
        status = await self._status(life)
        if (status.get("attempt"), bool(status.get("exportURI"))) != (attempt, True):
            raise NotSo(f"complete at attempt {status.get('attempt')}, not {attempt}, or without a model")

    async def _fails(self, life: Life, attempt: int) -> None:
        await self._runs(life, attempt)
        self.kubelet.head_ends(life.tenant, life.name, attempt, 1, "ValueError: boom")

    async def _suspended(self, life: Life) -> None:
        path = self._stage(life).path(life.name)
        await self._calm(lambda: self.api.merge(path, {"spec": {"suspend": True}}))
        await self._says(life, "Suspended", "True", "SuspendedByUser")

        def compute_is_back() -> bool:
            return not [one for one in self._own(life, "job") if not one["metadata"].get("deletionTimestamp")]

        await self._until("its compute is given back", compute_is_back)
        await self._calm(lambda: self.api.merge(path, {"spec": {"suspend": False}}))

    async def _lacks(self, life: Life) -> None:
        secret = f"{life.name}-hub"
        await self._made(life, **lacking_secret(secret))
        await self._says(life, "Accepted", "False", "SecretNotFound")
        body = {"metadata": {"name": secret}, "stringData": {"token": "x"}}
        collection = PLURALS["secret"].format(space=life.tenant)
        await self._calm(lambda: _unless_there(lambda: self.api.create(collection, body)))
        await self._completes(life, 1)
        await self._removed(f"{collection}/{secret}")

    async def _nothing_made(self, life: Life) -> None:
        def own() -> list[str]:
            return [f"{kind} {one['metadata']['name']}" for kind in PLURALS for one in self._own(life, kind)]

        if found := await self._calm(own):
            raise NotSo(f"it made {', '.join(found)} though a name was taken")

    async def _gone(self, life: Life) -> None:
        path = self._stage(life).path(life.name)
        await self._removed(path)
        claim = f"{PLURALS['claim'].format(space=life.tenant)}/{life.name}-storage"
        if not any(one.kind == "claim" and one.path == claim for one in self.world.foreign):
            # Its owner removes the models that were kept; the next one of the name would find the name taken.
            await self._removed(claim)

    async def _removed(self, path: str) -> None:
        """Asked for until it is gone: an answer may be lost."""

        def is_gone() -> bool:
            if is_there(self.api, path):
                remove(self.api, path)
            return not is_there(self.api, path)

        await self._until(f"{path} is gone", is_gone)

    # ── looking ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _stage(self, life: Life) -> Stage:
        return Stage(self.api, life.tenant, self.bus, life.name)

    def _own(self, life: Life, kind: str) -> list[dict[str, Any]]:
        """Objects of the training that is there now, by their owner."""
        uid = self.api.get(self._stage(life).path(life.name))["metadata"]["uid"]
        found = self.api.get(PLURALS[kind].format(space=life.tenant))["items"]
        return [one for one in found if any(o["uid"] == uid for o in one["metadata"].get("ownerReferences") or ())]

    def _conditions(self, life: Life) -> str:
        try:
            said = self._stage(life).status().get("conditions") or ()
        except Refused as refused:
            return str(refused)
        return ", ".join(f"{c['type']}={c['status']} {c['reason']} {c.get('message', '')[:200]}" for c in said)

    async def _status(self, life: Life) -> dict[str, Any]:
        found: dict[str, Any] = await self._calm(lambda: self._stage(life).status())
        return found

    async def _says(self, life: Life, kind: str, status: str, reason: str) -> None:
        stage = self._stage(life)

        def so() -> bool:
            if stage.condition("Complete")[0] == "True" and kind not in ("Complete", "ClusterReady"):
                raise NotSo("it is complete without having trained")
            return stage.condition(kind) == (status, reason)

        await self._until(f"{kind}={status} ({reason})", so)

    async def _tells(self, life: Life, attempt: int, step: int, *, state: str = "Running") -> None:
        """The head, as soon as there is one."""
        stage = self._stage(life)

        def head_runs() -> bool:
            path = f"{PLURALS['job'].format(space=life.tenant)}/{life.name}-{attempt}-head"
            try:
                job = self.api.get(path)
            except Refused as refused:
                if refused.code == 404:
                    return False
                raise
            uid = stage.live()["metadata"]["uid"]
            own = any(owner["uid"] == uid for owner in job["metadata"].get("ownerReferences") or ())
            return bool(own and (job.get("status") or {}).get("ready"))

        await self._until(f"the head of attempt {attempt} runs", head_runs)
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                async with asyncio.timeout(10):
                    await stage.tells(attempt, step, state=state)
                return
            except (NatsError, TimeoutError, *ANY_ERROR):
                if time.monotonic() > deadline:
                    raise NotSo("its head cannot tell NATS how it is") from None
                await asyncio.sleep(TICK)

    async def _until(self, what: str, is_so: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not await self._calm(is_so):
            if time.monotonic() > deadline:
                raise NotSo(f"not within {PATIENCE:.0f} s: {what}")
            await asyncio.sleep(TICK)

    async def _calm(self, ask: Callable[[], Any]) -> Any:
        """Again and again while the API server is away; what it refuses is an error."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                return await asyncio.to_thread(ask)
            except Refused as refused:
                if refused.code < 500 and refused.code != 429:
                    raise NotSo(f"the API server said: {refused}") from refused
                error: Exception = refused
            except ANY_ERROR as away:
                error = away
            if time.monotonic() > deadline:
                raise NotSo(f"the API server is away: {error}") from error
            await asyncio.sleep(TICK)


def _unless_there(make: Callable[[], Any]) -> None:
    try:
        make()
    except Refused as refused:
        if refused.reason != "AlreadyExists":
            raise
