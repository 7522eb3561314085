"""What a cluster that has ended would have left behind: processes, mounts, links, cgroups."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from testbed.network import HOST_LINK
from testbed.node_init import cgroup_folders


def left_behind(folder: Path, *, namespace: str) -> list[str]:
    """Everything that is still there of the cluster whose files lie in `folder`; empty where it ended as it should.

    `namespace` is the PID namespace of its node, as `Node.namespace` said while it ran.
    """
    return [*_mounts(folder), *_links(), *_cgroups(), *_processes(folder, namespace)]


def _mounts(folder: Path) -> Iterator[str]:
    for line in Path("/proc/mounts").read_text().splitlines():
        if str(folder) in line:
            yield f"mount {line}"


def _links() -> Iterator[str]:
    if HOST_LINK in os.listdir("/sys/class/net"):
        yield f"link {HOST_LINK}"


def _cgroups() -> Iterator[str]:
    for path in cgroup_folders():
        if path.exists():
            yield f"cgroup {path}"


def _processes(folder: Path, namespace: str) -> Iterator[str]:
    """What names the folder in its command line, and all that runs in the node's PID namespace."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            line = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            inside = os.readlink(path / "ns" / "pid") == namespace
        except (FileNotFoundError, ProcessLookupError, PermissionError):  # it ended while we looked, or is not ours
            continue
        if inside or str(folder) in line:
            yield f"process {path.name} {line}"
