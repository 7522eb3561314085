"""Ray's head in a process of its own, so that a killed controller leaves trainers' host and engines alive.

Ray's daemons share its fate (Ray starts them with a parent-death signal), but the raylet's agents do not: so this
process takes its own parent's death as a request to shut Ray down, and sees that nothing of it is left.
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
    """`python -m toolorchestra.controller.ray_head --ready FILE --cpus N`: serve until SIGTERM; FILE says where."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ready", type=Path, required=True)
    parser.add_argument("--cpus", type=int, required=True, help="logical CPUs: one per actor, not cores")
    parser.add_argument("--gpus", type=int, default=None)
    parser.add_argument("--address", default=None, help="of this node, where others may join; default: nobody can")
    parser.add_argument("--port", type=int, default=None, help="of the head; default: any free one")
    args = parser.parse_args()
    die_with_parent(signal.SIGTERM)  # not SIGKILL: the agents of a killed raylet would live on
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    if args.port is not None:
        os.environ["RAY_GCS_SERVER_PORT"] = str(args.port)
    context: Any = ray.init(
        address="local",  # never another Ray of this machine, which RAY_ADDRESS or Ray's own notes may name
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
