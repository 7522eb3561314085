"""Observes a training for a reconcile: GETs by name, a LIST of pools, and one of pods if something is wrong.

If the operator may not read something (a right was removed), the reconcile continues: the object is reported as
missing, and everything else is supervised. Foreign objects under the training's names are kept apart
(`Observed.foreign`).
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from toolorchestra.api.conditions import Reason
from toolorchestra.api.pool import ExpertPool
from toolorchestra.api.scalars import MOST_TEXT
from toolorchestra.bus.nats_url import has_credentials
from toolorchestra.contract.labels import TRAINING_LABEL
from toolorchestra.kube.errors import Forbidden
from toolorchestra_operator.kubernetes.discovery import KUEUE_WORKLOADS
from toolorchestra_operator.kubernetes.kinds import RAY_JOB
from toolorchestra_operator.kubernetes.manifest import Key, Manifest, Ref
from toolorchestra_operator.kubernetes.openapi import Schemas
from toolorchestra_operator.planning.needs import Missing, Need, look
from toolorchestra_operator.planning.refusal import in_words
from toolorchestra_operator.trainings.kueue import JOB_UID_LABEL
from toolorchestra_operator.trainings.names import TrainingNames
from toolorchestra_operator.trainings.needs import needs
from toolorchestra_operator.trainings.observed import Messaging, Observed
from toolorchestra_operator.trainings.ownership import is_own, is_own_pod
from toolorchestra_operator.trainings.pod_reasons import lacks_pods, lacks_workers
from toolorchestra_operator.trainings.provider import PROVIDERS
from toolorchestra_operator.trainings.remembered import Provider, Remembered
from toolorchestra_operator.trainings.runtime import Runtime
from toolorchestra_operator.trainings.terms import nats_url_of, of_deleted

API_VERSION = "toolorchestra.dev/v1alpha1"
EVENTS = ("events.k8s.io/v1", "Event")


class TrainingReader(Protocol):
    """The part of `ApiServer` that observing needs."""

    async def get(self, ref: Ref) -> dict[str, Any] | None: ...

    async def list(
        self, api_version: str, kind: str, *, namespace: str = "", labels: str = "", fields: str = ""
    ) -> list[dict[str, Any]]: ...

    async def openapi(self) -> Schemas: ...

    async def served(self, api_version: str, kind: str) -> bool: ...


class StreamsReader(Protocol):
    """The part of NATS that observing reads."""

    async def look(self, url: str, uid: str, *, whose: Key | None = None) -> Messaging: ...


@dataclass(frozen=True)
class _Sight:
    """The API server within the operator's rights, for one reconcile; refusals are collected."""

    api: TrainingReader
    missing: list[Missing] = field(default_factory=list[Missing])
    hidden: set[Ref] = field(default_factory=set[Ref])

    async def get(self, ref: Ref) -> dict[str, Any] | None:
        try:
            return await self.api.get(ref)
        except Forbidden as error:
            self.hidden.add(ref)
            self._note(error)
            return None

    async def list(self, api_version: str, kind: str, *, namespace: str, labels: str = "") -> list[dict[str, Any]]:
        try:
            return await self.api.list(api_version, kind, namespace=namespace, labels=labels)
        except Forbidden as error:
            self._note(error)
            return []

    async def needs(self, needs: tuple[Need, ...]) -> None:
        try:
            lacking, _ = await look(self.api, needs)
            self.missing.extend(lacking)
        except Forbidden as error:
            self._note(error)

    def _note(self, error: Forbidden) -> None:
        said = Missing(Reason.FORBIDDEN, in_words(error))
        if said not in self.missing:
            self.missing.append(said)


@dataclass(frozen=True)
class TrainingObserver:
    """Observes one training."""

    api: TrainingReader
    streams: StreamsReader
    runtime: Runtime
    hear: Callable[[str, Mapping[str, Any]], None] = lambda namespace, progress: None
    """Called with the namespace and every progress that is observed."""

    async def observe(self, key: Key) -> Observed | None:
        """Return the facts; None: the training is gone."""
        parent = await self.api.get(Ref(API_VERSION, key.kind, key.namespace, key.name))
        if parent is None:
            return None
        if parent["metadata"].get("deletionTimestamp"):
            parent = of_deleted(parent)
        names, remembered, sight = TrainingNames.of(parent), Remembered.of(parent), _Sight(self.api)
        kuberay = await self.api.served(*RAY_JOB)
        url = nats_url_of(parent) or self.runtime.nats_url
        found = await self._objects(sight, names, remembered, kuberay=kuberay, secret_url=has_credentials(url or ""))
        admitted = remembered.attempt > 0
        objects = {ref: live for ref, live in found.items() if is_own(live, names, admitted=admitted)}
        has_storage = Ref("v1", "PersistentVolumeClaim", names.namespace, names.storage) in objects
        await sight.needs(needs(parent, has_storage=has_storage))
        messaging, progress = Messaging(), dict[str, Any]()
        if url is not None:
            messaging = await self.streams.look(url, names.short_uid, whose=key)
            if messaging.ready and remembered.attempt:
                progress = dict(messaging.progress)
                self.hear(names.namespace, progress)
        pods = await self._pods(sight, names, remembered, objects)
        pools = await self._pools(sight, key.namespace)
        workloads = await self._workloads(sight, parent, names, remembered, objects)
        return Observed(
            parent=parent,
            runtime=self.runtime,
            schemas=await self.api.openapi(),
            objects=objects,
            foreign={ref: live for ref, live in found.items() if ref not in objects},
            hidden=frozenset(sight.hidden),
            pods=pods,
            events=await self._events(objects) if remembered.attempt and not remembered.terminal else (),
            pools=pools,
            missing=tuple(sight.missing),
            messaging=messaging,
            progress=progress,
            kuberay=kuberay,
            workloads=workloads,
            token=secrets.token_hex(32),
        )

    async def _objects(
        self, sight: _Sight, names: TrainingNames, remembered: Remembered, *, kuberay: bool, secret_url: bool
    ) -> dict[Ref, Manifest]:
        """Return the objects under the training's names, whoever owns them; before a provider is chosen, of both."""
        refs = [
            Ref("apps/v1", "Deployment", names.namespace, names.workers),
            Ref("v1", "Secret", names.namespace, names.ray_token),
            Ref("v1", "PersistentVolumeClaim", names.namespace, names.storage),
            Ref("v1", "PersistentVolumeClaim", names.namespace, names.model_cache),
        ]
        possible: tuple[Provider, ...] = ("Builtin", "KubeRay") if kuberay else ("Builtin",)
        providers = possible if remembered.provider is None else (remembered.provider,)
        for attempt in {max(1, remembered.attempt - 1), max(1, remembered.attempt)}:
            refs += [ref for provider in providers for ref in PROVIDERS[provider].refs(names, attempt)]
            refs.append(Ref("v1", "ConfigMap", names.namespace, names.attempt(attempt)))
            refs += [names.nats_ref(attempt)] if secret_url else []
        found = {ref: await sight.get(ref) for ref in refs}
        return {ref: live for ref, live in found.items() if live is not None}

    async def _pods(
        self, sight: _Sight, names: TrainingNames, remembered: Remembered, objects: Mapping[Ref, Manifest]
    ) -> tuple[Manifest, ...]:
        """List the pods, only while the cluster is not up with all of its workers."""
        if not remembered.attempt or remembered.terminal or remembered.provider is None:
            return ()
        state = PROVIDERS[remembered.provider].state(names, remembered.attempt, objects=objects, pods=())
        deployment = objects.get(Ref("apps/v1", "Deployment", names.namespace, names.workers))
        if state.life == "Up" and not (deployment and lacks_workers(deployment)):
            return ()
        found = await sight.list("v1", "Pod", namespace=names.namespace, labels=f"{TRAINING_LABEL}={names.name}")
        return tuple(pod for pod in found if is_own_pod(pod, names))

    async def _events(self, objects: Mapping[Ref, Manifest]) -> tuple[Manifest, ...]:
        """List the events of Jobs that lack pods: only events say that pods are refused, and why. Without the right to
        read events, that reason is missing, and nothing else."""
        found = list[Manifest]()
        for ref, live in objects.items():
            if ref.kind == "Job" and lacks_pods(live):
                fields = f"regarding.uid={live['metadata']['uid']}"
                with contextlib.suppress(Forbidden):
                    found += await self.api.list(*EVENTS, namespace=ref.namespace, fields=fields)
        return tuple(found)

    async def _workloads(
        self,
        sight: _Sight,
        parent: Manifest,
        names: TrainingNames,
        remembered: Remembered,
        objects: Mapping[Ref, Manifest],
    ) -> tuple[Manifest, ...] | None:
        """List Kueue's Workloads, only if a queue is named and still decides."""
        job = objects.get(Ref(*RAY_JOB, names.namespace, names.attempt(remembered.attempt)))
        waits = job is not None and job["spec"].get("suspend") and "queueName" in parent["spec"]
        if not waits or job is None:
            return None
        for version, kind in KUEUE_WORKLOADS:
            if await self.api.served(version, kind):
                labels = f"{JOB_UID_LABEL}={job['metadata']['uid']}"
                return tuple(await sight.list(version, kind, namespace=names.namespace, labels=labels))
        return None

    async def _pools(self, sight: _Sight, namespace: str) -> tuple[ExpertPool, ...]:
        """Return the pools that the models accept; a pool that they refuse is no expert, and reports it itself."""
        found = []
        for live in await sight.list(API_VERSION, "ExpertPool", namespace=namespace):
            await asyncio.sleep(0)  # a namespace may have thousands, and all workers share this thread
            try:
                pool = ExpertPool.model_validate(live)
            except ValueError:
                continue
            found.append(await self._described(sight, pool, namespace))
        return tuple(found)

    async def _described(self, sight: _Sight, pool: ExpertPool, namespace: str) -> ExpertPool:
        """Return the pool with its description from a ConfigMap, as if it had been written in the pool."""
        if pool.spec.description_from is None:
            return pool
        kept = pool.spec.description_from.config_map_key_ref
        live = await sight.get(Ref("v1", "ConfigMap", namespace, kept.name))
        text = str(((live or {}).get("data") or {}).get(kept.key, "")).strip()[:MOST_TEXT] or None
        spec = pool.spec.model_copy(update={"description": text, "description_from": None})
        return pool.model_copy(update={"spec": spec})
