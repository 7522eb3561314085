"""The program of a node's pod: runs a Ray node for one trainer, one engine, or one of each, and joins the head.

`python -m toolorchestra.pods.node --role trainer --head HOST`; with `--role engine` as well where both share a GPU. The
head may start later: the node tries until the head answers. The pod ends with its Ray; SIGTERM ends both.
"""

from __future__ import annotations

import argparse
import os
import socket
import time
from collections.abc import Sequence

from toolorchestra.contract.ray import GCS_PORT
from toolorchestra.pods.ray_start import node_arguments

POLL_SECONDS = 1.0


def main(argv: Sequence[str] | None = None) -> None:
    """Wait for the head, then replace this process by `ray start --block`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--role", choices=("trainer", "engine"), action="append", required=True, help="can be repeated")
    parser.add_argument("--head", required=True, help="host name of the head's Service")
    parser.add_argument("--address", default=os.environ.get("POD_IP"), help="this pod's address; default: $POD_IP")
    parser.add_argument("--port", type=int, default=GCS_PORT, help="port of the head")
    parser.add_argument("--gpus", type=int, default=None)
    args = parser.parse_args(argv)
    if not args.address:
        parser.error("give this pod's address, for the other nodes: --address or POD_IP")
    print(f"waiting for the head at {args.head}:{args.port}", flush=True)
    while not _answers(args.head, args.port):
        time.sleep(POLL_SECONDS)
    where = {"head": args.head, "port": args.port, "address": args.address}
    command = node_arguments(roles=args.role, gpus=args.gpus, **where)
    os.execv(command[0], command)


def _answers(head: str, port: int) -> bool:
    """Return whether the head's port accepts a connection; False also while its name does not resolve."""
    try:
        socket.create_connection((head, port), timeout=2).close()
    except OSError:
        return False
    return True


if __name__ == "__main__":
    main()
