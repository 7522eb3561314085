"""`make cluster-up` and `make cluster-down`, a cluster that outlives the command; and what `make e2e` does first.

`up` spawns the process that runs the cluster and waits until it is ready; `down` asks that one to end and waits. Where
it was killed the kernel has ended what it had started, and `down` removes the rest.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys
from types import FrameType
from typing import NoReturn

from testbed import network
from testbed.binaries import COMPONENTS, OPTIONAL, CannotBuild, binaries, cache_folder
from testbed.control_plane import NotReady
from testbed.node import clear_cgroups
from testbed.node_cluster import NodeCluster
from testbed.packages import CannotRun, ensure
from testbed.place import holder, taken
from toolorchestra.process import tail

FOLDER = cache_folder() / "cluster"
LOG = cache_folder() / "cluster.log"


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _asked_to_end(number: int, frame: FrameType | None) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough: the end is not to be interrupted
    sys.exit(0)


def serve() -> None:
    """Run the cluster until SIGTERM; one line on standard output once it is ready."""
    signal.signal(signal.SIGTERM, _asked_to_end)
    with NodeCluster(FOLDER, say=_say):
        print("ready", flush=True)
        signal.pause()


def up() -> None:
    """Start the cluster in a process of its own, wait until it is ready, and say how to use it."""
    if holder() is None:
        ensure(install=True, say=_say)
        LOG.parent.mkdir(parents=True, exist_ok=True)
        _say(f"testbed: starting a cluster; its log is {LOG}")
        with LOG.open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "testbed.by_hand", "serve"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
        assert process.stdout is not None
        if process.stdout.readline() != b"ready\n":
            raise CannotRun(f"the cluster did not start:\n{tail(LOG, lines=40)}")
    kubectl = binaries(["kubectl"], say=_say)["kubectl"]
    _say(f"testbed: the cluster is up; kubectl: {kubectl}; images: {NodeCluster.registry}/…; end it: make cluster-down")
    print(f"export KUBECONFIG={FOLDER / 'admin.kubeconfig'}")


def prepare() -> None:
    """Install and build all that a cluster and its tests need: minutes, once, and outside of any test's time."""
    ensure(install=True, images=True, say=_say)
    wanted = OPTIONAL if os.environ.get("PROVIDER") == "KubeRay" else ()
    binaries([name for name in COMPONENTS if name not in OPTIONAL or name in wanted], say=_say)


def down() -> None:
    """End the cluster, and remove everything of it."""
    pid = holder()
    if pid is not None:
        ended = os.pidfd_open(pid)
        os.kill(pid, signal.SIGTERM)
        select.select([ended], [], [])
        os.close(ended)
    with taken():
        network.disconnect()
        clear_cgroups()
        shutil.rmtree(FOLDER, ignore_errors=True)
    _say("testbed: the cluster is down")


def main() -> int:
    """`up`, `down`, `prepare`, or (in the process that `up` spawns) `serve`."""
    try:
        {"up": up, "down": down, "prepare": prepare, "serve": serve}[sys.argv[1]]()
    except (CannotBuild, CannotRun, NotReady) as error:
        _say(f"testbed: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
