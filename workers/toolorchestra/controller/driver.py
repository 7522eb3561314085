"""The driver: the process of one incarnation of a training. The supervisor starts it locally, a RayJob on a cluster.

It starts engines and trainers on an existing Ray cluster, restores the last checkpoint and runs the controller to its
end. Its exit status says how the incarnation ended (contract/exit_status.py). It never restarts itself.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import ray
from opentelemetry.metrics import Meter

from toolorchestra.contract.driver_config import DriverConfig
from toolorchestra.contract.exit_status import EXIT_CODES, TRAINER_LOST
from toolorchestra.contract.progress import State
from toolorchestra.controller.incarnation.assignment import assignment_of
from toolorchestra.controller.incarnation.incarnation import Incarnation
from toolorchestra.controller.pauses import Paused, Stopped
from toolorchestra.controller.settings import SettingsError
from toolorchestra.ledger.journal import JournalError
from toolorchestra.plugins import PluginError
from toolorchestra.process import die_with_parent
from toolorchestra.runs.run_dir import RunDir
from toolorchestra.telemetry.logs import configure_logs
from toolorchestra.telemetry.setup import TelemetryError, configure
from toolorchestra.trainer.group import TrainerLost

_log = logging.getLogger(__name__)


async def drive(config: DriverConfig, *, otel: Meter | None = None) -> int:
    """Run one incarnation to its end; return the exit status that says how it ended."""
    run = RunDir(config.run)
    try:
        assignment = assignment_of(config, run, otel=otel)
    except SettingsError as refused:  # before anything is started: nothing has told of itself yet
        _refuse(config, run, str(refused))
        return EXIT_CODES["Failed"]
    ray.init(address=config.ray_address, namespace=config.uid, log_to_driver=False, logging_level=logging.ERROR)
    job = Incarnation(assignment)
    # After ray.init, which installs a handler of its own that ends the process on the spot.
    loop = asyncio.get_running_loop()
    for sig in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(sig, job.stop)
    state: State = "Failed"
    message, lost_trainer = "", False
    try:
        training = await job.start()
        await training.run()
        state, message = "Complete", "all steps are done"
    except Stopped:
        await job.ending.withdraw()
        await job.ending.save()
        state, message = "Cancelled", f"stopped at step {job.ending.step()}"
    except Paused as pause:
        await job.ending.withdraw()
        await job.ending.save()
        state, message = "Paused", str(pause)
        job.assignment.status.fields["reason"] = pause.reason.value
    except (SettingsError, PluginError) as refused:  # no traceback: the YAML, the model or a plug-in is wrong
        message = str(refused)
        _log.error("%s", message)
    except TrainerLost as lost:
        message, lost_trainer = f"a trainer died: {lost}", True
        _log.error("%s", message)
    except JournalError as error:
        message = str(error)
        _log.error("%s", message)
    finally:
        await job.finish(state, message=message)
        await job.close(keep_engines=state == "Failed")
    return TRAINER_LOST if lost_trainer else EXIT_CODES[state]


def _refuse(config: DriverConfig, run: RunDir, message: str) -> None:
    """Say that no run can be made of the YAML here, where the pod's last words and `orchestra status` are read from."""
    _log.error("%s", message)
    last = {"state": "Failed", "phase": "Ended", "message": message, "uid": config.uid, "attempt": config.attempt}
    run.set_status(run.read_status() | last | {"updated": round(time.time(), 3)})
    run.event("ended", message, state="Failed")


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point: `python -m toolorchestra.controller.driver --config FILE`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True)
    args = parser.parse_args(argv)
    die_with_parent()
    os.environ.setdefault("RAY_DISABLE_IMPORT_WARNING", "1")
    configure_logs(service="controller")
    config = DriverConfig.read(args.config)
    url = os.environ.get("NATS_URL")
    if config.cluster and url:  # the URL may have credentials, so it is not in the file
        config = config.model_copy(update={"nats_url": url})
    attributes = {"toolorchestra.training": config.uid}
    try:
        telemetry = configure(service="toolorchestra-controller", attributes=attributes, scraped=True)
    except TelemetryError as error:  # exit before anything is spent
        sys.exit(f"error: {error}")
    code = asyncio.run(drive(config, otel=telemetry.meter))
    telemetry.shutdown()
    sys.stdout.flush()
    os._exit(code)  # threads of Ray and gRPC could otherwise keep the finished process running


if __name__ == "__main__":
    main()
