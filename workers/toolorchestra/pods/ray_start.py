"""How a pod starts its Ray, as an argument list. Pure.

Source: https://docs.ray.io/en/latest/cluster/cli.html#ray-start (2.60).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

GCS_PORT = 6379
Role = Literal["trainer", "engine"]


def head_arguments(*, address: str, ready: Path, port: int = GCS_PORT) -> list[str]:
    """A head that carries no actors: the driver runs beside it. `address`: the pod's; `ready`: written when it is up.

    Not `ray start --head`: that brings a Ray Client server which nobody uses, and whose end would end the head.
    """
    argv = [sys.executable, "-m", "toolorchestra.controller.ray_head", "--ready", str(ready), "--cpus", "0"]
    return [*argv, "--address", address, "--port", str(port)]


def node_arguments(
    *, roles: Sequence[Role], head: str, address: str, gpus: int | None, port: int = GCS_PORT
) -> list[str]:
    """A node for one actor of each role; `gpus` None: as many as Ray finds. One logical CPU: one actor."""
    arguments = [*_start(address), "--address", f"{head}:{port}", "--num-cpus", str(len(roles))]
    if gpus is not None:
        arguments += ["--num-gpus", str(gpus)]
    return [*arguments, "--resources", json.dumps(dict.fromkeys(roles, 1))]


def _start(address: str) -> list[str]:
    # `--block`: the process lives as long as its Ray does, and the pod with it.
    return [
        *(sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats"),
        *("--node-ip-address", address),
    ]
