"""What a Ray pod of KubeRay's does before it is told to end (its `preStop` hook), so that a last checkpoint is written.

`python -m toolorchestra.pods.pre_stop head|node`. In the head's: the driver is told to end, and waited for. On a
trainer's or an engine's: it stays for as long as the head does, because the driver needs it for the checkpoint, and all
pods of a cluster are told to end at once. The kubelet bounds both by the pod's grace period.
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
    """Tell the driver, and wait until it has ended; at once where there is none."""
    if not pid_file.exists():
        return
    with contextlib.suppress(psutil.NoSuchProcess):
        driver = psutil.Process(int(pid_file.read_text(encoding="utf-8")))
        driver.send_signal(signal.SIGTERM)
        driver.wait()


def outlive_head(port: int, *, poll: float = POLL_SECONDS) -> None:
    """Wait until nothing of this pod is connected to the head any more.

    Not by the head's name: its Service goes with the cluster, while the head still writes.
    """
    while any(one.raddr and one.raddr.port == port for one in _established()):
        time.sleep(poll)


def _established() -> list[psutil._ntuples.sconn]:
    return [one for one in psutil.net_connections("tcp") if one.status == psutil.CONN_ESTABLISHED]


def main(argv: Sequence[str] | None = None) -> None:
    """`python -m toolorchestra.pods.pre_stop head|node`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("role", choices=("head", "node"))
    parser.add_argument("--pid-file", type=Path, default=PID_FILE, help="the driver's, in the head's pod")
    parser.add_argument("--port", type=int, default=GCS_PORT, help="of the head")
    args = parser.parse_args(argv)
    if args.role == "head":
        end_driver(args.pid_file)
    else:
        outlive_head(args.port)


if __name__ == "__main__":
    main()
