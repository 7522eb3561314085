"""The first process of a node: makes its mounts and its network, starts its programs, and ends with any of them.

Run by `testbed.node` inside new mount, network, PID, IPC and UTS namespaces. Invariants: nothing that is mounted,
created or spawned here is seen outside, but for cgroups; when this process ends the kernel ends everything in the
namespaces, and the mounts and links go with the last process.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import NoReturn

from testbed.network import DNS, HOST, NODE, NODE_LINK, PODS, PREFIX, ip
from testbed.node_files import CGROUP, CONTAINERD_SOCKET, NODE_NAME

_SECONDS = 60.0


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


def _mounts(folder: Path) -> None:
    """Folders of the node's own where its programs expect theirs; shared, as kubelet's volumes need it."""
    _mount("--make-rshared", "/")
    _mount("-t", "tmpfs", "tmpfs", "/run")
    _mount("--bind", str(folder / "var-lib"), "/var/lib")
    _mount("--bind", str(folder / "var-log"), "/var/log")


def _await(what: str, check: str, seconds: float = _SECONDS) -> None:
    """Wait for a link (by name) or a Unix socket (by path)."""
    deadline = time.monotonic() + seconds
    while not _there(check):
        if time.monotonic() > deadline:
            sys.exit(f"{what} is not there after {seconds:.0f} s")
        time.sleep(0.05)


def _there(check: str) -> bool:
    if not check.startswith("/"):
        return any(name == check for _, name in socket.if_nameindex())
    with socket.socket(socket.AF_UNIX) as client:
        return client.connect_ex(check) == 0


def _network() -> None:
    """The link to the machine, and the pods' bridge before the first pod: the name server listens on it."""
    ip("link", "set", "lo", "up")
    _await("the link to the machine", NODE_LINK)
    ip("address", "add", f"{NODE}/{PREFIX}", "dev", NODE_LINK)
    ip("link", "set", NODE_LINK, "up")
    ip("route", "add", "default", "via", HOST)
    ip("link", "add", "cni0", "type", "bridge")
    ip("address", "add", f"{DNS}/{PODS.partition('/')[2]}", "dev", "cni0")
    ip("link", "set", "cni0", "up")
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")


def cgroup_folders() -> list[Path]:
    """The node's cgroup under every controller (v1), or the one (v2)."""
    root = Path("/sys/fs/cgroup")
    if (root / "cgroup.controllers").exists():
        return [root / CGROUP]
    return [
        path / CGROUP for path in root.iterdir() if path.is_dir() and not path.is_symlink() and path.name != "unified"
    ]


def _cgroups() -> None:
    for folder in cgroup_folders():
        folder.mkdir(exist_ok=True)
        controllers = folder.parent / "cgroup.controllers"
        if controllers.exists():
            enabled = " ".join(f"+{name}" for name in controllers.read_text().split())
            (folder.parent / "cgroup.subtree_control").write_text(enabled)


def main(folder: Path) -> NoReturn:
    programs: dict[str, str] = json.loads((folder / "programs.json").read_text())
    children: dict[int, str] = {}

    def spawn(name: str, *flags: str) -> None:
        with (folder / "logs" / f"{name}.log").open("ab") as log:
            process = subprocess.Popen([programs[name], *flags], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        children[process.pid] = name

    socket.sethostname(NODE_NAME)
    _mounts(folder)
    _network()
    _cgroups()
    spawn("containerd", f"--config={folder / 'containerd.toml'}")
    _await("containerd's socket", CONTAINERD_SOCKET)
    pause = ["ctr", "--namespace=k8s.io", "images", "import", str(folder / "pause.tar")]
    subprocess.run(pause, check=True, stdout=subprocess.DEVNULL)
    spawn(
        "kubelet",
        f"--config={folder / 'kubelet.yaml'}",
        f"--kubeconfig={folder / 'kubelet.kubeconfig'}",
        f"--hostname-override={NODE_NAME}",
        f"--node-ip={NODE}",
    )
    spawn("kube-proxy", f"--config={folder / 'kube-proxy.yaml'}")
    spawn("coredns", f"-conf={folder / 'Corefile'}")
    while True:  # as init of its PID namespace it also reaps what containers leave behind
        pid, status = os.wait()
        if pid in children:
            sys.exit(f"{children[pid]} ended with status {os.waitstatus_to_exitcode(status)}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
