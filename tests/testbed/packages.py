"""The Debian packages and the rights that a node needs; whatever is missing is said in one message."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from testbed.binaries import Say

NEEDED = {
    "containerd": "containerd",
    "runc": "runc",
    "nft": "nftables",
    "ip": "iproute2",
    "unshare": "util-linux",
    "/usr/lib/cni/bridge": "containernetworking-plugins",
}
"""Program (or file): the package that has it."""
BUILDERS = {"buildah": "buildah", "debootstrap": "debootstrap"}
"""What builds the project's images."""
FRESH_GB, CACHED_GB = 40, 15
"""Free disk that images and a node take: from nothing, and where the images' layers are kept already."""


class CannotRun(RuntimeError):
    """A node cannot run on this machine; the message says what to change."""


def missing(*, images: bool = False) -> list[str]:
    """Packages that have to be installed; with `images`, those that build images too."""
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    return sorted(
        package
        for program, package in {**NEEDED, **(BUILDERS if images else {})}.items()
        if not (Path(program).exists() if program.startswith("/") else shutil.which(program, path=path))
    )


def ensure(*, install: bool, say: Say, images: bool = False) -> None:
    """Check that a node can run here; with `install`, Debian packages that are missing are installed first.

    With `images`, that the project's images can be built too, for which there has to be room.

    Raises:
        CannotRun: not root, not Linux, no room, or packages are missing and were not, or could not be, installed.
    """
    if os.uname().sysname != "Linux":
        raise CannotRun("a node needs Linux; elsewhere use kind, and set TOOLORCHESTRA_TEST_KUBECONFIG")
    if os.geteuid() != 0:
        raise CannotRun("a node needs root, for its namespaces, mounts and cgroups: use sudo, or kind")
    if images:
        _check_room()
    wanted = missing(images=images)
    if wanted and install and shutil.which("apt-get"):
        say(f"testbed: installing {', '.join(wanted)}")
        quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        subprocess.run(["apt-get", "update", "-qq"], env=quiet, check=False, stdout=subprocess.DEVNULL)
        done = subprocess.run(
            ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *wanted],
            env=quiet,
            capture_output=True,
            text=True,
        )
        if done.returncode != 0:
            raise CannotRun(f"apt-get install {' '.join(wanted)} failed:\n{done.stderr.strip()[-2000:]}")
        wanted = missing(images=images)
    if wanted:
        raise CannotRun(f"a node needs these Debian packages: apt-get install {' '.join(wanted)}")


def _check_room() -> None:
    layers = Path("/var/lib/containers/storage/overlay-layers/layers.json")
    wanted = CACHED_GB if layers.exists() and layers.stat().st_size > 10_000 else FRESH_GB
    free = shutil.disk_usage(tempfile.gettempdir()).free // 10**9
    if free < wanted:
        raise CannotRun(f"images and a node take {wanted} GB of disk in {tempfile.gettempdir()}; {free} GB are free")
