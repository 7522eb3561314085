"""Builds the command that starts Ray in a pod. Pure.

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
    """Return the command for a head without actors; the driver runs beside it.

    `address`: the pod's. `ready`: file that is written when the head is ready. It does not use `ray start --head`,
    because that starts an unused Ray Client server whose end would end the head.
    """
    argv = [sys.executable, "-m", "toolorchestra.controller.ray_head", "--ready", str(ready), "--cpus", "0"]
    return [*argv, "--address", address, "--port", str(port)]


def node_arguments(
    *, roles: Sequence[Role], head: str, address: str, gpus: int | None, port: int = GCS_PORT
) -> list[str]:
    """Return the command for a node: one actor and one logical CPU per role. `gpus` None: all that Ray finds."""
    arguments = [*_start(address), "--address", f"{head}:{port}", "--num-cpus", str(len(roles))]
    if gpus is not None:
        arguments += ["--num-gpus", str(gpus)]
    return [*arguments, "--resources", json.dumps(dict.fromkeys(roles, 1))]


def _start(address: str) -> list[str]:
    # `--block`: the process, and so the pod, ends with its Ray.
    return [
        *(sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats"),
        *("--node-ip-address", address),
    ]
