"""A real node as processes of this one: containerd, kubelet, kube-proxy and CoreDNS in namespaces of their own.

Invariants: when the node stops, or whoever started it dies in any way, the kernel ends every process in its PID
namespace, and its mounts and links end with them. What is left for `stop` is the folder, the cgroups, and the link.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import sys
import time
from pathlib import Path

from testbed import network
from testbed.binaries import Say, binaries
from testbed.control_plane import ControlPlane, NotReady, end
from testbed.image import PAUSE, image_of
from testbed.node_files import NODE_NAME, write_node_files
from testbed.node_init import cgroup_folders
from toolorchestra.process import Child, tail

_TESTS = Path(__file__).parents[1]
_SECONDS = 60.0
PROGRAMS = ("kubelet", "kube-proxy", "coredns", "pause")


class Node:
    """One node of a control plane that was made with `node_address=network.HOST`."""

    def __init__(self, plane: ControlPlane, *, say: Say = lambda line: print(line, file=sys.stderr)) -> None:
        self.folder = plane.folder / "node"
        self.folder.mkdir()
        (self.folder / "logs").mkdir()
        programs = {name: str(path) for name, path in binaries(PROGRAMS, say=say).items()}
        (self.folder / "programs.json").write_text(json.dumps(programs | {"containerd": "containerd"}))
        image_of(Path(programs["pause"])).write(self.folder / "pause.tar", name=PAUSE)
        write_node_files(self.folder, plane.authority, port=plane.port)
        namespaces = ["--mount", "--net", "--pid", "--ipc", "--uts"]
        self._child = Child(
            name="node",
            argv=[
                *("unshare", *namespaces, "--fork", "--kill-child", "--mount-proc", "--propagation", "private"),
                *(sys.executable, "-m", "testbed.node_init", str(self.folder)),
            ],
            log=self.folder / "logs" / "node.log",
            env={
                "PYTHONPATH": f"{_TESTS}:{_TESTS.parent / 'workers'}",
                "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin",
            },
        )
        self._init = -1

    @property
    def pid(self) -> int:
        """The node's init, as seen from here: for `nsenter --all --target`."""
        children = Path(f"/proc/{self._child.pid}/task/{self._child.pid}/children").read_text().split()
        if not children:
            raise NotReady(f"the node has no process: {tail(self._child.log)}")
        return int(children[0])

    @property
    def namespace(self) -> str:
        """Its PID namespace, as /proc names it."""
        return os.readlink(f"/proc/{self.pid}/ns/pid")

    def start(self) -> None:
        """Spawn it and connect it with this machine; its Ready condition comes some seconds later."""
        clear_cgroups()
        network.disconnect()
        self._child.start()
        deadline = time.monotonic() + _SECONDS
        while not self._in_namespaces():
            if not self._child.alive or time.monotonic() > deadline:
                raise NotReady(f"the node did not start: {tail(self._child.log)}")
            time.sleep(0.05)
        self._init = os.pidfd_open(self.pid)
        network.connect(self.pid)

    def check(self) -> None:
        """Raise NotReady, with the log, where one of its programs has ended."""
        if not self._child.alive:
            raise NotReady(f"the node ended: {tail(self._child.log)}")

    def log_tails(self) -> str:
        """The last lines of every program's log."""
        logs = sorted((self.folder / "logs").glob("*.log"))
        return "\n".join(f"== {log.stem}\n{tail(log)}" for log in logs)

    def stop(self) -> None:
        """End it, wait until the kernel has ended all of its processes, and remove what they left."""
        if self._child.starts:
            if self._init >= 0:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(self._init, signal.SIGKILL)
                select.select([self._init], [], [], _SECONDS)  # init's end comes after everyone else's
                os.close(self._init)
                self._init = -1
            end(self._child)  # unshare, which ends by itself once it has reaped init
        network.disconnect()  # only now: what it had open to this machine was closed in its place
        clear_cgroups()
        for name in ("var-lib", "var-log"):
            shutil.rmtree(self.folder / name, ignore_errors=True)

    def _in_namespaces(self) -> bool:
        """Whether unshare has forked the node's init."""
        with contextlib.suppress(NotReady, FileNotFoundError):
            return os.readlink(f"/proc/{self.pid}/ns/net") != os.readlink("/proc/self/ns/net")
        return False


def is_ready(node: dict[str, object]) -> bool:
    """Whether a Node's status says so."""
    status = node.get("status")
    conditions = status.get("conditions", []) if isinstance(status, dict) else []
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


def node_path() -> str:
    """The node, in the API."""
    return f"/api/v1/nodes/{NODE_NAME}"


def clear_cgroups(*, seconds: float = 10.0) -> None:
    """Remove the pods' cgroups; a process that is just ending keeps its own busy for a moment.

    Raises:
        OSError: one is still in use after `seconds`.
    """
    deadline = time.monotonic() + seconds
    for root in cgroup_folders():
        for folder, _, _ in os.walk(root, topdown=False):
            while True:
                try:
                    os.rmdir(folder)
                    break
                except FileNotFoundError:
                    break
                except OSError:
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.05)
