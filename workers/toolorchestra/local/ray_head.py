"""One-machine Ray: a head in a process of its own, so that a killed controller leaves trainers' host and engines alive.

Ray's own processes share its fate (Ray starts them with a parent-death signal), so killing this process ends them all.
"""

from __future__ import annotations

import argparse
import json
import signal
from pathlib import Path
from typing import Any

import ray

from toolorchestra.process import die_with_parent
from toolorchestra.train.run_dir import write_atomically


def main() -> None:
    """`python -m toolorchestra.local.ray_head --ready FILE --cpus N`: serve until SIGTERM; FILE says where."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ready", type=Path, required=True)
    parser.add_argument("--cpus", type=int, required=True, help="logical CPUs: one per actor, not cores")
    parser.add_argument("--gpus", type=int, default=None)
    args = parser.parse_args()
    die_with_parent()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    context: Any = ray.init(
        num_cpus=args.cpus,
        num_gpus=args.gpus,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=256 * 1024**2,
    )
    info = {"address": context.address_info["gcs_address"], "session": context.address_info["session_dir"]}
    write_atomically(args.ready, json.dumps(info))
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    ray.shutdown()


if __name__ == "__main__":
    main()
