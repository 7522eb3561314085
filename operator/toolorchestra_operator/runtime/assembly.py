"""Builds the reconcilers, connections and sweeps of the operator from its settings."""

from __future__ import annotations

from dataclasses import replace

from toolorchestra_operator.kubernetes.api_server import ApiServer
from toolorchestra_operator.messaging.servers import NatsServers
from toolorchestra_operator.messaging.streams import NatsStreams
from toolorchestra_operator.pools.observe import PoolObserver
from toolorchestra_operator.pools.probe import Prober
from toolorchestra_operator.pools.reconcile import reconcile as reconcile_pool
from toolorchestra_operator.runtime.measurements import Measurements
from toolorchestra_operator.runtime.operator_process import Machinery
from toolorchestra_operator.runtime.reconcile_loop import Reconciler
from toolorchestra_operator.runtime.runtimes import pool_runtime_of, runtime_of
from toolorchestra_operator.runtime.settings import Settings
from toolorchestra_operator.trainings.nats_look import NatsLook
from toolorchestra_operator.trainings.observe import TrainingObserver
from toolorchestra_operator.trainings.reconcile import reconcile as reconcile_training
from toolorchestra_operator.trainings.sweep import StreamSweep


def assemble(settings: Settings, api: ApiServer, *, servers: NatsServers | None = None) -> Machinery:
    """Return the machinery of both kinds. `Machinery.close` closes what is opened here."""
    servers, measurements = servers or NatsServers(), Measurements()
    runtime = replace(runtime_of(settings), cluster=api.cluster)
    trainings = TrainingObserver(api, NatsLook(servers), runtime, measurements.hear)
    pool_runtime = pool_runtime_of(settings)
    reach = replace(pool_runtime.reach, api_server=api.address)
    pools = PoolObserver(api, replace(pool_runtime, reach=reach), Prober(reach), measurements.of)
    sweep = StreamSweep(
        find=api.get,
        streams=NatsStreams(servers=servers, patient=True),
        cluster=api.cluster,
        namespaces=settings.watch_namespaces,
        nats_url=settings.nats_url,
    )
    return Machinery(
        reconcilers={
            "OrchestratorTraining": Reconciler(trainings.observe, reconcile_training),
            "ExpertPool": Reconciler(pools.observe, reconcile_pool),
        },
        sweeps=(sweep,),
        streams=NatsStreams(servers=servers),
        news=(servers.tell,),
        close=(servers.close, pools.close),
    )
