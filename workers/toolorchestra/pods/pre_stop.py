"""The pre-stop hook of KubeRay's Ray pods: it makes sure that a last checkpoint is written.

`python -m toolorchestra.pods.pre_stop head|node`. In the head's pod it tells the driver to end, and waits for it. In a
trainer's or engine's pod it waits for the head's end: all pods of a cluster are stopped at once, and the driver needs
these pods for the checkpoint. The pod's grace period limits both.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from toolorchestra.contract.ray import GCS_PORT
from toolorchestra.pods.entrypoint import PID_FILE

POLL_SECONDS = 1.0


def end_driver(pid_file: Path) -> None:
    """Send SIGTERM to the driver's entrypoint and wait until it has ended; return at once where there is none."""
    if not pid_file.exists():
        return
    with contextlib.suppress(psutil.NoSuchProcess):
        driver = psutil.Process(int(pid_file.read_text(encoding="utf-8")))
        driver.send_signal(signal.SIGTERM)
        driver.wait()


def outlive_head(port: int, *, poll: float = POLL_SECONDS) -> None:
    """Wait until no process of this pod is connected to the head any more.

    The head's name cannot be used: its Service is deleted with the cluster, while the head still writes.
    """
    while any(one.raddr and one.raddr.port == port for one in _established()):
        time.sleep(poll)


def _established() -> list[psutil._ntuples.sconn]:
    return [one for one in psutil.net_connections("tcp") if one.status == psutil.CONN_ESTABLISHED]


def main(argv: Sequence[str] | None = None) -> None:
    """Run the hook: `python -m toolorchestra.pods.pre_stop head|node`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("role", choices=("head", "node"))
    parser.add_argument("--pid-file", type=Path, default=PID_FILE, help="file with the entrypoint's process id")
    parser.add_argument("--port", type=int, default=GCS_PORT, help="port of the head")
    args = parser.parse_args(argv)
    if args.role == "head":
        end_driver(args.pid_file)
    else:
        outlive_head(args.port)


if __name__ == "__main__":
    main()
