"""Observes a pool for a reconcile: GETs by name, a LIST of pods while replicas are missing, and the prober's answer."""

from __future__ import annotations

import base64
import binascii
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from toolorchestra.api.pool import ExpertPool, MeasuredService
from toolorchestra_operator.kubernetes.kinds import POOLS
from toolorchestra_operator.kubernetes.manifest import Key, Manifest, Ref
from toolorchestra_operator.kubernetes.openapi import Schemas
from toolorchestra_operator.kubernetes.ownership import owner_uid
from toolorchestra_operator.planning.needs import Missing, Need, look
from toolorchestra_operator.pools import states
from toolorchestra_operator.pools.admission import read, unreachable
from toolorchestra_operator.pools.names import API_KEY, POOL_LABEL, PoolNames
from toolorchestra_operator.pools.needs import needs
from toolorchestra_operator.pools.observed import Observed
from toolorchestra_operator.pools.probe import Answer, Prober, Target
from toolorchestra_operator.pools.runtime import PoolRuntime


class PoolReader(Protocol):
    """The part of `ApiServer` that observing needs."""

    async def get(self, ref: Ref) -> dict[str, Any] | None: ...

    async def list(
        self, api_version: str, kind: str, *, namespace: str = "", labels: str = ""
    ) -> list[dict[str, Any]]: ...

    async def openapi(self) -> Schemas: ...


Measurements = Callable[[Key], MeasuredService | None]
"""Returns the measured service times of calls to a pool; None: there are none."""


def unmeasured(pool: Key) -> MeasuredService | None:
    """Return None: no measurements."""
    return None


@dataclass(frozen=True)
class PoolObserver:
    """Observes one pool."""

    api: PoolReader
    runtime: PoolRuntime
    prober: Prober
    measurements: Measurements = unmeasured

    async def observe(self, key: Key) -> Observed | None:
        """Return the facts; None: the pool is gone."""
        parent = await self.api.get(Ref(*POOLS, key.namespace, key.name))
        if parent is None:
            self.prober.forget(key)
            return None
        names, pool = PoolNames.of(parent), read(parent)
        objects: dict[Ref, Manifest] = {}
        pods: tuple[Manifest, ...] = ()
        lacking: tuple[Missing, ...] = ()
        target: Target | None = None
        if isinstance(pool, ExpertPool) and not parent["metadata"].get("deletionTimestamp"):
            if pool.spec.type == "VLLM":
                objects = await self._objects(names)
                pods = await self._pods(names, pool, objects)
            wanted = needs(pool, namespace=key.namespace, labelled=self.runtime.secrets_need_label)
            lacking, held = await look(self.api, wanted)
            refused = lacking or unreachable(pool, self.runtime.reach)
            target = _target(pool, names, objects, held) if not refused else None
        return Observed(
            parent=parent,
            runtime=self.runtime,
            schemas=await self.api.openapi(),
            objects=objects,
            pods=pods,
            missing=lacking,
            answer=await self._answer(key, target),
            asking=target is not None,
            measured=self.measurements(key),
            token=secrets.token_hex(32),
        )

    async def close(self) -> None:
        """End the probes."""
        await self.prober.close()

    async def _answer(self, key: Key, target: Target | None) -> Answer | None:
        if target is None:
            self.prober.forget(key)
            return None
        return await self.prober.answer(key, target)

    async def _objects(self, names: PoolNames) -> dict[Ref, Manifest]:
        """Return the pool's own objects. Foreign ones under its names are neither read nor changed (`NameTaken`)."""
        found = {ref: await self.api.get(ref) for ref in names.refs}
        return {ref: live for ref, live in found.items() if live is not None and owner_uid(live) == names.uid}

    async def _pods(self, names: PoolNames, pool: ExpertPool, objects: dict[Ref, Manifest]) -> tuple[Manifest, ...]:
        """List the pods, only while some are missing: labels are not indexed, so a list reads the whole namespace."""
        live = objects.get(names.deployment_ref)
        wanted = pool.spec.vllm.replicas if pool.spec.vllm else 0
        if live is None or (states.ready_replicas(live) >= wanted and states.rolled_out(live)):
            return ()
        return tuple(await self.api.list("v1", "Pod", namespace=names.namespace, labels=f"{POOL_LABEL}={names.name}"))


def _target(
    pool: ExpertPool, names: PoolNames, objects: dict[Ref, Manifest], held: dict[Ref, Manifest]
) -> Target | None:
    """Return what to probe; None: nothing is to be probed, or nothing serves yet."""
    endpoint = pool.spec.endpoint
    if endpoint is None:
        key = _value(objects.get(names.key_ref), API_KEY)
        if not states.ready_replicas(objects.get(names.deployment_ref)):
            return None
        return Target("Models", names.url, names.name, key=key, inside=True)
    if endpoint.probe == "None":
        return None
    secret = endpoint.api_key_secret_ref
    need = None if secret is None else Need("", Ref("v1", "Secret", names.namespace, secret.name), secret.key)
    key = None if need is None else _value(held.get(need.ref), need.key)
    return Target(endpoint.probe, endpoint.url, endpoint.model, key=key, max_tokens=endpoint.parameter_names.max_tokens)


def _value(secret: Manifest | None, key: str) -> str | None:
    """Return the text of a Secret's key; None: there is none, or it is not text."""
    try:
        return base64.b64decode(((secret or {}).get("data") or {})[key]).decode().strip()
    except (KeyError, binascii.Error, UnicodeDecodeError):
        return None
