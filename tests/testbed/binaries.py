"""The test cluster's components, built from their published Go modules and kept in a cache.

`python -m testbed.binaries etcd kube-apiserver` builds what is not there yet and prints where each one lies.
Invariants: only what is asked for is built; the cache's key is the hash of all that a build reads (modules, sums,
mains, toolchain), so that nothing stale is ever used; two builders of one key wait for each other.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

MODULE = Path(__file__).parent / "go"
KUBERNETES = "v1.34.4"
"""What the binaries say of themselves; the module that is built is named in go/go.mod."""

MAINS = (
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubectl",
    "kubelet",
    "kube-proxy",
    "pause",
    "visitor",
)
"""Built from go/<name>/main.go, all of one module."""
OWN_MODULES = {
    "coredns": ".",
    "registry": ".",
    "jaeger": "github.com/jaegertracing/jaeger/cmd/all-in-one",
    "kuberay-operator": "github.com/ray-project/kuberay/ray-operator",
}
"""Package of each in go/<name>, a module of its own: its dependencies are not those of Kubernetes."""
INSTALLED = {"helm": "helm.sh/helm/v3/cmd/helm@v3.19.0"}
"""Built with `go install`."""
COMPONENTS = (*MAINS, *OWN_MODULES, *INSTALLED)
OPTIONAL = ("kuberay-operator",)
"""Built where a test asks for it only."""
ENVTEST = ("etcd", "kube-apiserver", "kubectl")
"""What a folder for KUBEBUILDER_ASSETS holds."""
GO_MINIMUM = (1, 24)

Say = Callable[[str], None]


class CannotBuild(RuntimeError):
    """A binary is needed and cannot be had; the message says what to install or set."""


def cache_folder() -> Path:
    """`$XDG_CACHE_HOME/toolorchestra/testbed` (`~/.cache/…`), never inside the checkout."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "toolorchestra" / "testbed"


def binaries(names: Iterable[str], *, say: Say = lambda line: print(line, file=sys.stderr)) -> dict[str, Path]:
    """Where each of these programs lies; those that are not built yet are built first (minutes, on an empty Go cache).

    Where KUBEBUILDER_ASSETS is set, etcd, kube-apiserver and kubectl are taken from there; where HELM is, helm is it.

    Raises:
        CannotBuild: no Go toolchain, one that is too old, a folder that lacks what it should hold, or a failed build.
    """
    found: dict[str, Path] = {}
    for name in names:
        if name not in COMPONENTS:
            raise CannotBuild(f"no such component: {name}; there are {', '.join(COMPONENTS)}")
        found[name] = _given(name) or _built(name, say=say)
    return found


def module_folder(name: str, module: str) -> Path:
    """The source of a module of a component, from Go's cache; fetched where it is not there.

    Raises:
        CannotBuild: no Go toolchain, or the module cannot be had.
    """
    go = _go(name)
    command = [go, "mod", "download", "-json", module]
    environment = {**os.environ, "GOWORK": "off", "GOFLAGS": "-mod=readonly"}
    done = subprocess.run(command, cwd=MODULE / name, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        raise CannotBuild(f"{module} cannot be had: `{' '.join(command)}` said\n{done.stdout}{done.stderr}".strip())
    return Path(json.loads(done.stdout)["Dir"])


def _given(name: str) -> Path | None:
    """The user's own build of it, if there is one."""
    if name == "kuberay-operator" and (given := os.environ.get("KUBERAY_OPERATOR")):
        if (found := shutil.which(given)) is None:
            raise CannotBuild(
                f"KUBERAY_OPERATOR={given} is no program: give the path of KubeRay's operator, built without cgo, or "
                "unset KUBERAY_OPERATOR to have it built"
            )
        return Path(found)
    if name == "helm" and (given := os.environ.get("HELM")):
        if (found := shutil.which(given)) is None:
            raise CannotBuild(f"HELM={given} is no program: install helm 3 (helm.sh), or unset HELM to have it built")
        return Path(found)
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    if not assets or name not in ENVTEST:
        return None
    path = Path(assets) / name
    if not os.access(path, os.X_OK):
        raise CannotBuild(
            f"KUBEBUILDER_ASSETS={assets} has no program {name}: put it there (`setup-envtest use -p path` prints "
            "a folder that has it), or unset KUBEBUILDER_ASSETS to have it built"
        )
    return path


def _built(name: str, *, say: Say) -> Path:
    go = _go(name)
    folder = cache_folder() / _key(go, name) / "bin"
    path = folder / name
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder.parent / f"{name}.lock"):
        if not path.exists():
            say(f"testbed: building {name} with {_go_version(go)} (cached after; minutes where Go's cache is empty)")
            start = time.monotonic()
            _build(go, name, folder)
            size = path.stat().st_size / 1e6
            say(f"testbed: {name} built in {time.monotonic() - start:.0f} s, {size:.0f} MB: {path}")
    return path


def _build(go: str, name: str, folder: Path) -> None:
    """Build into a folder beside the cache's, then move: what is in the cache is always whole."""
    scratch = folder.parent / f"{name}.building"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    environment = {**os.environ, "CGO_ENABLED": "0", "GOBIN": str(scratch), "GOWORK": "off"}
    flags = ["-trimpath", "-ldflags", _ldflags()]
    if name in INSTALLED:
        at, command = scratch, [go, "install", *flags, INSTALLED[name]]
    else:
        at = MODULE / name if name in OWN_MODULES else MODULE
        package = OWN_MODULES.get(name, f"./{name}")
        command = [go, "build", "-mod=readonly", *flags, "-o", str(scratch / name), package]
    done = subprocess.run(command, cwd=at, env=environment, capture_output=True)
    if done.returncode != 0:
        output = done.stderr.decode(errors="replace").strip()
        raise CannotBuild(f"{name} did not build: `{' '.join(command)}` in {at} said\n{output[-4000:]}")
    (scratch / name).replace(folder / name)
    shutil.rmtree(scratch)


def _ldflags() -> str:
    major, minor, _ = KUBERNETES.removeprefix("v").split(".")
    version = "k8s.io/component-base/version"
    return f"-s -w -X {version}.gitVersion={KUBERNETES} -X {version}.gitMajor={major} -X {version}.gitMinor={minor}"


def _go(name: str) -> str:
    go = shutil.which("go")
    wanted = ".".join(map(str, GO_MINIMUM))
    instead = (
        "set HELM to a helm 3"
        if name == "helm"
        else "set KUBEBUILDER_ASSETS to a folder with etcd and kube-apiserver, "
        "or TOOLORCHESTRA_TEST_KUBECONFIG to the kubeconfig of a cluster that the tests may use"
    )
    if go is None:
        raise CannotBuild(
            f"{name} has to be built, and there is no Go: install Go {wanted} or newer (go.dev/dl), or {instead}"
        )
    version = _go_version(go)
    number = re.match(r"go(\d+)\.(\d+)", version)
    if number is None or tuple(map(int, number.groups())) < GO_MINIMUM:
        raise CannotBuild(
            f"{name} has to be built with Go {wanted} or newer; {go} is {version}: update it, or {instead}"
        )
    return go


@functools.cache
def _go_version(go: str) -> str:
    done = subprocess.run([go, "env", "GOVERSION"], check=True, capture_output=True, text=True, cwd=MODULE)
    return done.stdout.strip()


@functools.cache
def _key(go: str, name: str) -> str:
    """The hash of all that the build of `name` reads."""
    digest = hashlib.sha256(f"{_go_version(go)} {os.uname().machine} {_ldflags()} {INSTALLED.get(name)}".encode())
    modules = [MODULE / "go.mod", MODULE / "go.sum"] if name in MAINS else []
    for path in [*modules, *sorted((MODULE / name).rglob("*"))]:
        if path.is_file():
            digest.update(f"{path.relative_to(MODULE)}\0".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def main() -> int:
    """Build the named components; without names, what the control-plane tests need."""
    try:
        for name, path in binaries(sys.argv[1:] or ("etcd", "kube-apiserver")).items():
            print(f"{name}: {path}")
    except CannotBuild as error:
        print(f"testbed: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
