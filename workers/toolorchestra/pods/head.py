"""The program of the head's pod: runs Ray's head and the driver, one process each. It ends with the driver's status.

`python -m toolorchestra.pods.head --config FILE`. SIGTERM goes to the driver, which writes a checkpoint and ends. Its
last message becomes the pod's termination message, which the operator reads. With KubeRay, KubeRay starts the head, and
the driver is the job's entrypoint (entrypoint.py).
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from toolorchestra.contract.driver_config import DriverConfig
from toolorchestra.contract.ray import GCS_PORT
from toolorchestra.pods.ray_start import head_arguments
from toolorchestra.process import Child, tail
from toolorchestra.runs.run_dir import RunDir
from toolorchestra.telemetry.logs import configure_logs

READY_SECONDS = 120.0
GRACE_SECONDS = 20.0
TERMINATION_BYTES = 4000
"""Most bytes of the termination message; the kubelet keeps 4,096."""

_log = logging.getLogger(__name__)


class HeadError(RuntimeError):
    """Ray's head did not start, or died."""


async def serve(config: DriverConfig, *, config_file: Path, address: str, port: int = GCS_PORT) -> int:
    """Run Ray's head and the driver until the driver ends; return its exit status."""
    run = RunDir(config.run)
    run.logs.mkdir(parents=True, exist_ok=True)
    attempt = f"attempt-{config.attempt}"
    ready = run.root / "ray.json"
    ready.unlink(missing_ok=True)
    head = head_arguments(address=address, ready=ready, port=port)
    ray = Child(name="ray", argv=head, log=run.logs / f"ray-head-{attempt}.log")
    argv = [sys.executable, "-m", "toolorchestra.controller.driver", "--config", str(config_file)]
    driver = Child(name="controller", argv=argv, log=run.logs / f"controller-{attempt}.log")
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    for sig in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(sig, told.set)
    ray.start()
    try:
        await _up(ray, ready)
        driver.start()
        return await _until_it_ends(driver, ray, told)
    finally:
        for child in (driver, ray):
            if child.alive:
                await child.stop(grace=GRACE_SECONDS)


async def _up(ray: Child, ready: Path) -> None:
    try:
        async with asyncio.timeout(READY_SECONDS):
            while not await asyncio.to_thread(ready.exists):
                if not ray.alive:
                    raise HeadError(f"Ray's head ended at its start:\n{tail(ray.log)}")
                await asyncio.sleep(0.2)
    except TimeoutError as error:
        raise HeadError(f"Ray's head did not answer within {READY_SECONDS:g} s:\n{tail(ray.log)}") from error


async def _until_it_ends(driver: Child, ray: Child, told: asyncio.Event) -> int:
    ended = asyncio.create_task(driver.wait())
    gone = asyncio.create_task(ray.wait())
    stop = asyncio.create_task(told.wait())
    await asyncio.wait({ended, gone, stop}, return_when=asyncio.FIRST_COMPLETED)
    if stop.done() and not ended.done():
        _log.info("told to stop: the driver writes a checkpoint")
        driver.signal(signal.SIGTERM)
        await asyncio.wait({ended, gone}, return_when=asyncio.FIRST_COMPLETED)
    if not ended.done():
        raise HeadError(f"Ray's head died:\n{tail(ray.log)}")
    return await ended


def last_words(run: RunDir, code: int, log: Path) -> str:
    """Return why the driver ended, for the condition: its status message, or the end of its log after a crash."""
    status = run.read_status()
    said = str(status.get("message", ""))
    if code == 0 or (said and status.get("state") not in ("Starting", "Running")):
        return said
    return f"{said}\n{tail(log)}".strip()


def main(argv: Sequence[str] | None = None) -> None:
    """Run the head: `python -m toolorchestra.pods.head --config FILE`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--address", default=os.environ.get("POD_IP"), help="this pod's address; default: $POD_IP")
    parser.add_argument("--port", type=int, default=GCS_PORT)
    parser.add_argument("--termination-log", type=Path, default=Path("/dev/termination-log"))
    args = parser.parse_args(argv)
    if not args.address:
        parser.error("give this pod's address, for the nodes: --address or POD_IP")
    configure_logs(service="head")
    config = DriverConfig.read(args.config)
    run, code, words = RunDir(config.run), 1, ""
    try:
        code = asyncio.run(serve(config, config_file=args.config, address=args.address, port=args.port))
        words = last_words(run, code, run.logs / f"controller-attempt-{config.attempt}.log")
    except HeadError as error:
        words = str(error)
    if words:
        print(words, file=sys.stderr)
        if args.termination_log.exists():
            args.termination_log.write_bytes(words.encode()[-TERMINATION_BYTES:])
    sys.exit(code)


if __name__ == "__main__":
    main()
