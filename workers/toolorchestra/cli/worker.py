"""`orchestra worker`: run one rollout worker. Local runs and Deployments start it; people rarely do."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from toolorchestra.bus.errors import BusError
from toolorchestra.bus.nats import NatsBus
from toolorchestra.experts.endpoint import Endpoint
from toolorchestra.policy.renderer import RendererError
from toolorchestra.policy.template import TemplateError
from toolorchestra.process import die_with_parent
from toolorchestra.rollout.heartbeat import STALL_SECONDS, Heartbeat
from toolorchestra.rollout.pools import PoolFileError, read_pools, read_resources
from toolorchestra.rollout.worker import WorkerSettings
from toolorchestra.rollout.worker_process import serve
from toolorchestra.telemetry.logs import configure_logs
from toolorchestra.telemetry.setup import TelemetryError, configure


def worker(
    nats: Annotated[str, typer.Option(help="URL of the NATS server.", envvar="NATS_URL")],
    uid: Annotated[str, typer.Option(help="Short UID of the training whose NATS streams the worker reads.")],
    pools: Annotated[
        Path | None, typer.Option(help='Pool file: {"pools": [{"pool", "url", "model", …}]}.', metavar="FILE")
    ] = None,
    resources: Annotated[
        Path | None, typer.Option(help="Instead of --pools: the training and its pools, as YAML.", metavar="FILE")
    ] = None,
    model: Annotated[
        Path | None, typer.Option(help="Folder with the policy's tokenizer and chat template.", metavar="DIR")
    ] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="How many episodes run at once.")] = 32,
    grace: Annotated[float, typer.Option(min=0, help="Seconds that running episodes get after SIGTERM.")] = 25.0,
    stall: Annotated[
        float, typer.Option(min=1, help="The process ends when its event loop is blocked for this many seconds.")
    ] = STALL_SECONDS,
    heartbeat: Annotated[
        Path | None, typer.Option(help="File to touch while the event loop runs, for a probe.", metavar="FILE")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name in traces and logs; default: HOST-PID.")] = None,
    with_parent: Annotated[bool, typer.Option("--die-with-parent", help="Exit when the parent process dies.")] = False,
) -> None:
    """Run a rollout worker until SIGTERM or Ctrl-C.

    Without --model it runs baselines only. API keys come from the environment variables that the pool file names.
    """
    if with_parent:
        parent = os.getppid()
        die_with_parent()
        if os.getppid() != parent:  # the parent died before the call, so the kernel will send no signal
            raise typer.Exit(1)
    configure_logs(service="worker")
    name = name or f"{socket.gethostname()}-{os.getpid()}"
    if heartbeat is not None:
        heartbeat.unlink(missing_ok=True)  # the file may be from before a restart of the container
    settings = WorkerSettings(concurrency=concurrency, grace_seconds=grace)
    try:
        telemetry = configure(service="toolorchestra-worker", attributes={"toolorchestra.training": uid})
        endpoints = _endpoints(pools, resources)

        async def run() -> int:
            bus = await NatsBus.connect(nats, uid=uid, name=name)
            heart = Heartbeat(stall_seconds=stall, file=heartbeat)
            return await serve(bus, name=name, endpoints=endpoints, model=model, settings=settings, heartbeat=heart)

        finished = asyncio.run(run())
    except (PoolFileError, RendererError, TemplateError, BusError, TelemetryError) as error:
        for line in str(error).splitlines():
            typer.echo(f"error: {line}", err=True)
        raise typer.Exit(2) from error
    telemetry.shutdown()
    logging.getLogger(__name__).info("worker %s: %d episodes finished", name, finished)


def _endpoints(pools: Path | None, resources: Path | None) -> Sequence[Endpoint]:
    if pools is not None and resources is None:
        return read_pools(pools, environment=os.environ)
    if resources is not None and pools is None:
        return read_resources(resources, environment=os.environ)
    raise PoolFileError("give the experts: either --pools FILE or --resources FILE")
