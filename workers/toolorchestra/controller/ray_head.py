"""Runs Ray's head in its own process, so that engines and trainers' hosts survive a killed controller.

Ray's daemons end with this process (Ray starts them with a parent-death signal), but the raylet's agents do not.
Therefore, when its own parent dies, this process shuts Ray down and kills what is left of it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
from pathlib import Path
from typing import Any

import psutil
import ray

from toolorchestra.process import die_with_parent
from toolorchestra.runs.run_dir import write_atomically

SHUTDOWN_SECONDS = 5.0


def main() -> None:
    """Entry point: `python -m toolorchestra.controller.ray_head --ready FILE --cpus N`.

    Runs until SIGTERM; writes the head's address to FILE.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ready", type=Path, required=True)
    parser.add_argument("--cpus", type=int, required=True, help="logical CPUs of Ray: one per actor, not cores")
    parser.add_argument("--gpus", type=int, default=None)
    parser.add_argument("--address", default=None, help="this node's address for other nodes; default: none can join")
    parser.add_argument("--port", type=int, default=None, help="port of the head; default: any free one")
    args = parser.parse_args()
    die_with_parent(signal.SIGTERM)  # not SIGKILL: the agents of a killed raylet would keep running
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    if args.port is not None:
        os.environ["RAY_GCS_SERVER_PORT"] = str(args.port)
    context: Any = ray.init(
        address="local",  # never another Ray of this machine, which RAY_ADDRESS or Ray's own files may name
        num_cpus=args.cpus,
        num_gpus=args.gpus,
        _node_ip_address=args.address,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=256 * 1024**2,
    )
    info = {"address": context.address_info["gcs_address"], "session": context.address_info["session_dir"]}
    write_atomically(args.ready, json.dumps(info))
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    family = psutil.Process().children(recursive=True)
    ray.shutdown()
    _, left = psutil.wait_procs(family, timeout=SHUTDOWN_SECONDS)
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


if __name__ == "__main__":
    main()
