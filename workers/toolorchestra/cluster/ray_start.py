"""The `ray start` of a pod, as an argument list. Pure.

Source: https://docs.ray.io/en/latest/cluster/cli.html#ray-start (2.60).
"""

from __future__ import annotations

import json
import sys
from typing import Literal

GCS_PORT = 6379
Role = Literal["trainer", "engine"]


def head_arguments(*, address: str, port: int = GCS_PORT) -> list[str]:
    """A head that carries no actors: the driver runs beside it. `address`: the pod's."""
    # Port 0: no Ray Client server, which nobody uses and whose end would end the head.
    return [
        *_start(address),
        "--ray-client-server-port",
        "0",
        "--head",
        "--port",
        str(port),
        "--num-cpus",
        "0",
        "--include-dashboard",
        "false",
    ]


def node_arguments(*, role: Role, head: str, address: str, gpus: int | None, port: int = GCS_PORT) -> list[str]:
    """A node for one trainer or one engine; `gpus` None: as many as Ray finds. One logical CPU: one actor."""
    arguments = [*_start(address), "--address", f"{head}:{port}", "--num-cpus", "1"]
    if gpus is not None:
        arguments += ["--num-gpus", str(gpus)]
    return [*arguments, "--resources", json.dumps({role: 1})]


def _start(address: str) -> list[str]:
    # `--block`: the process lives as long as its Ray does, and the pod with it.
    return [
        *(sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats"),
        *("--node-ip-address", address),
    ]
