"""The operator's entry point, `toolorchestra-operator`, with all its watches; each handler is a check and one call.

kopf runs the watches and the process. A watched event only puts the parent's key on the queue (`KeyQueue`); the
queue's workers (`ReconcileLoop`) do everything else.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import kopf

from toolorchestra.telemetry import setup as telemetry
from toolorchestra.telemetry.logs import configure_logs
from toolorchestra_operator.kubernetes.api_server import ApiServer
from toolorchestra_operator.kubernetes.discovery import Discovery
from toolorchestra_operator.runtime import assembly, watching
from toolorchestra_operator.runtime.metrics import Meter
from toolorchestra_operator.runtime.operator_process import Machinery, OperatorProcess
from toolorchestra_operator.runtime.parents import key_of, parent_of
from toolorchestra_operator.runtime.settings import Settings, SettingsError

_log = logging.getLogger(__name__)
_SERVICE = "toolorchestra-operator"
_RESOLVERS = 64
_CHATTY = ("kopf.objects", "aiohttp.access")
"""Loggers that write a line for every event."""

Assemble = Callable[[Settings, ApiServer], Machinery]


def handlers(process: OperatorProcess) -> kopf.OperatorRegistry:
    """Return the registry of everything that kopf calls."""
    registry, settings = kopf.OperatorRegistry(), process.settings

    @kopf.on.startup(id="configured", registry=registry)
    async def configured(settings: kopf.OperatorSettings, **_: Any) -> None:
        seconds = process.settings.watch_seconds, process.settings.request_seconds
        watching.configure(settings, children=process.children, watch_seconds=seconds[0], request_seconds=seconds[1])

    @kopf.on.login(id="logged-in", registry=registry)
    async def logged_in(**kwargs: Any) -> kopf.AiohttpSession:
        return watching.login(
            settings.kubeconfig, watch_health=process.watch_health, count=process.meter.request, **kwargs
        )

    @kopf.on.cleanup(id="stopped", registry=registry)
    async def stopped(**_: Any) -> None:
        await process.stop()

    async def parent_changed(body: kopf.Body, type: str | None, **_: Any) -> None:
        if (key := key_of(body)) is not None:
            process.queue.add(key)
        for user in process.pool_users.saw(body, gone=type == "DELETED"):
            process.queue.add(user)

    async def child_changed(body: kopf.Body, **_: Any) -> None:
        if (key := parent_of(body)) is not None:
            process.queue.add(key)

    for kind in process.parents:
        kopf.on.event(kind.group, kind.version, kind.plural, registry=registry)(parent_changed)
    for kind in process.children:
        kopf.on.event(kind.group, kind.version, kind.plural, registry=registry)(child_changed)
    return registry


async def operate(settings: Settings, assemble: Assemble = assembly.assemble) -> int:
    """Run until SIGTERM, or until a task fails; return the exit status. CancelledError: SIGTERM came before that."""
    ended = asyncio.current_task()
    assert ended is not None
    # The start may wait for the API server before kopf handles the signals.
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.cancel)
    # Host names are resolved in this pool. Its size leaves room when hosts that resources name do not resolve.
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(_RESOLVERS, thread_name_prefix="resolver"))
    meter = Meter()
    discovery = Discovery(lambda: ApiServer.connect(settings.kubeconfig), interval=settings.discovery_seconds)
    served = await discovery.first()
    options = {"timeout": settings.request_seconds, "count": meter.request}
    async with await ApiServer.connect(settings.kubeconfig, **options) as api:
        process = OperatorProcess(
            settings=settings,
            api=api,
            machinery=assemble(settings, api),
            served=served,
            discovery=discovery,
            meter=meter,
        )
        try:
            await process.start()
            await kopf.operator(
                registry=handlers(process),
                clusterwide=not settings.watch_namespaces,
                namespaces=settings.watch_namespaces,
                stop_flag=process.stopping,
                # kopf would look up the user's name, which a container's user does not have.
                identity=cast(Any, f"toolorchestra-operator@{socket.gethostname()}"),
            )
        finally:
            await process.stop()
        return process.exit_status


def main(argv: Sequence[str] | None = None, *, assemble: Assemble = assembly.assemble) -> None:
    """Run the console script. Exit status 0: ended by a signal; 1: a task failed; 2: bad settings; 75: restart me."""
    try:
        settings = Settings.read(sys.argv[1:] if argv is None else argv)
        configure_logs(service=_SERVICE)
        for chatty in _CHATTY:
            logging.getLogger(chatty).setLevel(logging.WARNING)
        traces = telemetry.configure(service=_SERVICE)
    except (SettingsError, telemetry.TelemetryError, ValueError) as error:
        sys.exit(_bad(error))
    _log.info("settings: %s", settings.model_dump_json(exclude_defaults=True))
    try:
        status = asyncio.run(operate(settings, assemble))
    except asyncio.CancelledError:
        status = 0
    except Exception:
        _log.critical("the operator failed", exc_info=True)
        status = 1
    finally:
        traces.shutdown()
    sys.exit(status)


def _bad(error: Exception) -> int:
    print(f"{_SERVICE}: {error}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    main()
