"""The addresses of a cluster with a node: the machine and the node meet on one veth pair; pods lie behind the node.

The ranges are fixed, so that images, certificates and documents can name them; one such cluster runs on a machine at a
time. Nothing of the machine's own network is changed but for that pair and two routes, which end with it.
"""

from __future__ import annotations

import subprocess

HOST = "10.87.0.1"
"""The machine, as the node and the pods see it: the API server and the registry are there."""
NODE = "10.87.0.2"
PREFIX = 30
PODS = "10.88.0.0/16"
DNS = "10.88.0.1"
"""The bridge's own address, on which the name server listens."""
SERVICES = "10.96.0.0/16"
REGISTRY = f"{HOST}:5000"
"""The prefix of images in the cluster's registry: the same for who pushes and who pulls."""
HOST_LINK = "toolorchestra0"
NODE_LINK = "eth0"


def ip(*arguments: str) -> None:
    """Run ip(8).

    Raises:
        RuntimeError: with what it said.
    """
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"`ip {' '.join(arguments)}` said: {done.stderr.strip()}")


def connect(pid: int) -> None:
    """Connect the machine with the network namespace of `pid`: pods and Services can be reached from here too."""
    ip("link", "add", HOST_LINK, "type", "veth", "peer", "name", NODE_LINK, "netns", str(pid))
    ip("address", "add", f"{HOST}/{PREFIX}", "dev", HOST_LINK)
    ip("link", "set", HOST_LINK, "up")
    ip("route", "add", PODS, "via", NODE, "dev", HOST_LINK)
    ip("route", "add", SERVICES, "via", NODE, "dev", HOST_LINK)


def disconnect() -> None:
    """Remove the pair, and the routes with it; nothing where it is not there."""
    subprocess.run(["ip", "link", "delete", HOST_LINK], capture_output=True)
