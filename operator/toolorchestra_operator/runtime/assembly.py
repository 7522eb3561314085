"""What the operator looks after, put together from its settings."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from toolorchestra_operator.kubernetes.api_server import ApiServer
from toolorchestra_operator.kubernetes.manifest import Key, Ref
from toolorchestra_operator.kubernetes.openapi import Schemas
from toolorchestra_operator.messaging.servers import NatsServers
from toolorchestra_operator.messaging.streams import NatsStreams
from toolorchestra_operator.planning.plan import Plan
from toolorchestra_operator.pools.observe import PoolReconciler
from toolorchestra_operator.pools.probe import Prober
from toolorchestra_operator.runtime.measurements import Measurements
from toolorchestra_operator.runtime.process import Machinery
from toolorchestra_operator.runtime.runtimes import pool_runtime_of, runtime_of
from toolorchestra_operator.runtime.settings import Settings
from toolorchestra_operator.trainings.nats_look import NatsLook
from toolorchestra_operator.trainings.observe import TrainingObserver
from toolorchestra_operator.trainings.reconcile import reconcile as reconcile_training
from toolorchestra_operator.trainings.sweep import StreamSweep


@dataclass(frozen=True)
class Halves:
    """A kind's reconciler, made of what observes and what decides."""

    observes: Callable[[Key], Awaitable[Any]]
    decides: Callable[[Any, datetime], Plan]

    async def observe(self, key: Key) -> Any:
        """Read what is there."""
        return await self.observes(key)

    def reconcile(self, observed: Any, now: datetime) -> Plan:
        """Decide."""
        return self.decides(observed, now)


@dataclass(frozen=True)
class Reader:
    """What reconcilers read of the API server; label selectors as mappings."""

    api: ApiServer

    async def get(self, ref: Ref) -> dict[str, Any] | None:
        """The object; None: there is none."""
        return await self.api.get(ref)

    async def list(
        self,
        api_version: str,
        kind: str,
        *,
        namespace: str,
        labels: Mapping[str, str] | None = None,
        fields: str = "",
    ) -> list[dict[str, Any]]:
        """The objects that carry all of `labels`; `fields` is a selector as the API server has it."""
        selector = ",".join(f"{name}={value}" for name, value in (labels or {}).items())
        return await self.api.list(api_version, kind, namespace=namespace, labels=selector, fields=fields)

    async def openapi(self) -> Schemas:
        """The schemas of the kinds that are made."""
        return await self.api.openapi()

    async def served(self, api_version: str, kind: str) -> bool:
        """Whether the server has the kind."""
        return await self.api.served(api_version, kind)


def assemble(settings: Settings, api: ApiServer, *, servers: NatsServers | None = None) -> Machinery:
    """The machinery of both kinds. What it opens, `Machinery.close` closes."""
    servers, measurements = servers or NatsServers(), Measurements()
    runtime = replace(runtime_of(settings), cluster=api.cluster)
    trainings = TrainingObserver(Reader(api), NatsLook(servers), runtime, measurements.hear)
    pool_runtime = pool_runtime_of(settings)
    reach = replace(pool_runtime.reach, api_server=api.address)
    pools = PoolReconciler(api, replace(pool_runtime, reach=reach), Prober(reach), measurements.of)
    sweep = StreamSweep(
        find=api.get,
        streams=NatsStreams(servers=servers, patient=True),
        cluster=api.cluster,
        namespaces=settings.watch_namespaces,
        nats_url=settings.nats_url,
    )
    return Machinery(
        reconcilers={"OrchestratorTraining": Halves(trainings.observe, reconcile_training), "ExpertPool": pools},
        sweeps=(sweep,),
        streams=NatsStreams(servers=servers),
        news=(servers.tell,),
        close=(servers.close, pools.close),
    )
