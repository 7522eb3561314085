"""The pools' half of the operator on a real API server, one look at a time."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from support.cluster.pool_world import HERE, RUNTIME
from toolorchestra_operator.kubernetes.api_server import ApiServer
from toolorchestra_operator.kubernetes.manifest import Key, Manifest, Ref
from toolorchestra_operator.messaging.streams import NatsStreams
from toolorchestra_operator.planning.carry_out import carry_out
from toolorchestra_operator.planning.events import Events
from toolorchestra_operator.planning.plan import Emit, Plan
from toolorchestra_operator.pools.observe import PoolObserver
from toolorchestra_operator.pools.probe import Prober
from toolorchestra_operator.pools.reconcile import reconcile
from toolorchestra_operator.pools.runtime import PoolRuntime

POOLS = "/apis/toolorchestra.dev/v1alpha1/namespaces/{}/expertpools"


@dataclass
class Operator:
    """The pools' half of the operator, one look at a time; `now` is the test's."""

    server: ApiServer
    namespace: str
    now: datetime = field(default_factory=lambda: datetime.now(UTC))
    runtime: PoolRuntime = field(default_factory=lambda: replace(RUNTIME, reach=HERE))

    def __post_init__(self) -> None:
        self.prober = Prober(self.runtime.reach, patience=60, now=lambda: self.now)

    async def look(self, name: str = "qwen") -> Plan:
        observer = PoolObserver(api=self.server, runtime=self.runtime, prober=self.prober)
        observed = await observer.observe(Key("ExpertPool", self.namespace, name))
        assert observed is not None
        plan = reconcile(observed, self.now)
        await self.carry_out(plan, observed.parent)
        return plan

    async def carry_out(self, plan: Plan, parent: Manifest) -> None:
        events = Events(self.server)

        async def emit(event: Emit) -> None:
            await events.post(event, about=parent)

        about = {"parent": Ref.of(parent), "uid": parent["metadata"]["uid"]}
        await carry_out(plan, api=self.server, streams=NatsStreams(), emit=emit, **about)

    async def live(self, name: str = "qwen") -> dict[str, Any]:
        found = await self.server.get(Ref("toolorchestra.dev/v1alpha1", "ExpertPool", self.namespace, name))
        assert found is not None
        return found

    async def says(self, kind: str, name: str = "qwen") -> tuple[str, str]:
        conditions = (await self.live(name))["status"]["conditions"]
        (found,) = (one for one in conditions if one["type"] == kind)
        return found["status"], found["reason"]
