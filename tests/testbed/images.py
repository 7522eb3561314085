"""The project's own images, built with buildah and pushed to the test cluster's registry.

The base is Debian with Python, made by debootstrap: a stand-in for `python:3.11-slim-bookworm` where no container
registry is in reach. buildah keeps the layers, so that a change of code rebuilds and moves the last one alone.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from testbed.binaries import Say
from testbed.cluster import CHECKOUT

BASE = "localhost/toolorchestra-base:bookworm"
PACKAGES = ("python3", "python3-venv", "python3-dev", "ca-certificates", "gcc", "libc6-dev", "libgomp1", "libnuma1")
"""gcc: packages without a wheel, and torch's kernels. numa: vLLM's CPU build."""
ROLES = ("operator", "worker", "cluster")
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")


class CannotBuildImage(RuntimeError):
    """A tool is missing, or a build failed; the message has its last words."""


def run(argv: Sequence[str]) -> str:
    """Run a command; its output. CannotBuildImage where it fails."""
    if shutil.which(argv[0]) is None:
        raise CannotBuildImage(f"{argv[0]} is not installed: apt-get install buildah debootstrap")
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CannotBuildImage(f"{' '.join(argv[:3])} …: {done.stdout[-1500:]}{done.stderr[-3000:]}")
    return done.stdout


def base_image(*, say: Say) -> None:
    """Make the base once; about a minute."""
    if subprocess.run(["buildah", "inspect", BASE], capture_output=True, check=False).returncode == 0:
        return
    say("testbed: making the base image with debootstrap")
    with tempfile.TemporaryDirectory() as folder:
        run(["debootstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}", "bookworm", folder])
        container = run(["buildah", "from", "scratch"]).strip()
        run(["buildah", "copy", "--quiet", container, folder, "/"])
        path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        run(["buildah", "config", "--env", f"PATH={path}", container])
        run(["buildah", "commit", "--quiet", "--rm", container, BASE])


def build(role: str, *, say: Say) -> str:
    """Build the image of a role; its local name. The first time takes minutes for `cluster`: 7 GB."""
    base_image(say=say)
    name = f"localhost/toolorchestra-{role}:test"
    say(f"testbed: building the image {role}")
    argv = ["buildah", "build", "--layers", "--isolation", "chroot", "--build-arg", f"BASE_IMAGE={BASE}"]
    if CERTIFICATES.exists():  # a package index behind a proxy with a certificate of its own
        argv += ["--volume", f"{CERTIFICATES}:{CERTIFICATES}:ro", "--env", f"PIP_CERT={CERTIFICATES}"]
    run([*argv, "--file", str(CHECKOUT / f"images/{role}/Dockerfile"), "--tag", name, str(CHECKOUT)])
    return name


def with_model(name: str, folder: Path) -> str:
    """The local image `name` with the model of `folder` at /models/demo; its local name."""
    tagged = name.replace(":test", ":demo")
    with tempfile.TemporaryDirectory() as context:
        base = Path(context) / "base"
        shutil.copytree(folder, base, copy_function=shutil.copyfile)  # readable for whoever the pod runs as
        dockerfile = CHECKOUT / "tests/e2e/cluster/Dockerfile.model"
        argv = ["buildah", "build", "--isolation", "chroot", "--build-arg", f"IMAGE={name}"]
        run([*argv, "--file", str(dockerfile), "--tag", tagged, context])
    return tagged


def push(name: str, to: str) -> str:
    """Push a local image to `to` (registry/name:tag) over plain HTTP; its reference by digest."""
    with tempfile.NamedTemporaryFile() as file:
        argv = ["buildah", "push", "--quiet", "--tls-verify=false", "--digestfile", file.name, name, f"docker://{to}"]
        run(argv)
        digest = Path(file.name).read_text().strip()
    return f"{to.rpartition(':')[0]}@{digest}"


def main() -> None:
    """`python -m testbed.images [ROLE …]`: build and push to the running test cluster; prints the references."""
    from testbed.network import REGISTRY

    for role in sys.argv[1:] or ROLES:
        name = build(role, say=lambda line: print(line, file=sys.stderr, flush=True))
        print(push(name, f"{REGISTRY}/toolorchestra-{role}:test"), flush=True)


if __name__ == "__main__":
    main()
