"""The entrypoint of a RayJob: runs the driver. Ray starts it in the head's container, and reports how it ended.

`python -m toolorchestra.pods.entrypoint --config FILE`. The exit status is the driver's. The driver's last message is
the end of the output; Ray makes it the job's message. SIGTERM (from Ray when the job is stopped, from the pre-stop hook
when the pod is) goes to the driver, which writes a checkpoint and ends.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
from collections.abc import Coroutine, Sequence
from pathlib import Path

from toolorchestra.contract.driver_config import DriverConfig
from toolorchestra.contract.exit_status import EXIT_CODES
from toolorchestra.pods.claim import Claim
from toolorchestra.pods.head import last_words
from toolorchestra.process import Child
from toolorchestra.runs.run_dir import RunDir
from toolorchestra.telemetry.logs import configure_logs

PID_FILE = Path("/tmp/toolorchestra-driver.pid")
"""File in the head's container with this process's id, for the pre-stop hook."""

_log = logging.getLogger(__name__)


async def serve(config: DriverConfig, *, argv: Sequence[str], claim: Claim) -> tuple[int, str]:
    """Run the driver `argv` to its end, as the run's only driver; return its exit status and its last message."""
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    for sig in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(sig, told.set)
    if not claim.take():
        return EXIT_CODES["Cancelled"], f"the head of Ray cluster {claim.holder} was replaced: its actors are gone"
    beat = asyncio.create_task(claim.beat())
    try:
        if not await _unless(told, claim.alone()):
            return EXIT_CODES["Cancelled"], "the driver was told to end before it began"
        return await _drive(config, argv, told)
    finally:
        beat.cancel()
        claim.end()


async def _unless(told: asyncio.Event, waits: Coroutine[None, None, None]) -> bool:
    """Await `waits`; return whether it ended before the signal `told`."""
    waiting, stop = asyncio.create_task(waits), asyncio.create_task(told.wait())
    await asyncio.wait({waiting, stop}, return_when=asyncio.FIRST_COMPLETED)
    stop.cancel()
    if not waiting.done():
        waiting.cancel()
        return False
    waiting.result()
    return True


async def _drive(config: DriverConfig, argv: Sequence[str], told: asyncio.Event) -> tuple[int, str]:
    run = RunDir(config.run)
    driver = Child(name="controller", argv=argv, log=run.logs / f"controller-attempt-{config.attempt}.log")
    driver.start()
    ended, stop = asyncio.create_task(driver.wait()), asyncio.create_task(told.wait())
    try:
        await asyncio.wait({ended, stop}, return_when=asyncio.FIRST_COMPLETED)
        if not ended.done():
            _log.info("told to stop: the driver writes a checkpoint")
            driver.signal(signal.SIGTERM)
        code = await ended
    finally:
        stop.cancel()
        driver.kill()
    # After a kill by a signal: 128 + its number, as in a shell.
    return code if code >= 0 else 128 - code, last_words(run, code, driver.log)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the entrypoint: `python -m toolorchestra.pods.entrypoint --config FILE`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument(
        "--cluster", default=os.environ.get("RAY_CLUSTER_NAME"), help="name of the Ray cluster; default: KubeRay's"
    )
    parser.add_argument("--pid-file", type=Path, default=PID_FILE)
    args = parser.parse_args(argv)
    if not args.cluster:
        parser.error("give the name of this Ray cluster: --cluster or RAY_CLUSTER_NAME")
    configure_logs(service="head")
    args.pid_file.write_text(str(os.getpid()), encoding="utf-8")
    config = DriverConfig.read(args.config)
    claim = Claim(RunDir(config.run).root / "drivers", args.cluster)
    driver = [sys.executable, "-m", "toolorchestra.controller.driver", "--config", str(args.config)]
    try:
        code, words = asyncio.run(serve(config, argv=driver, claim=claim))
    finally:
        args.pid_file.unlink(missing_ok=True)
    print(words, file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
