"""`make gpu-bundle GPU_BUNDLE=--check`: unpacked without network beside what is provided, and imported."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from gpu.bundle.packages import Packages

HERE = Path(__file__).parent
ROOM = 8 << 30
# What vLLM's libraries ask of the driver when they are loaded; each answers "no device".
DRIVER = (
    *("cuInit", "cuDriverGetVersion", "cuGetProcAddress", "cuGetProcAddress_v2", "cuGetErrorString"),
    *("cuCtxGetCurrent", "cuCtxSetCurrent", "cuDeviceGetAttribute", "cuDevicePrimaryCtxRetain"),
    *("cuMemAddressFree", "cuMemAddressReserve", "cuMemCreate", "cuMemGetAllocationGranularity"),
    *("cuMemMap", "cuMemRelease", "cuMemSetAccess", "cuMemUnmap"),
    *("cuPointerGetAttribute", "cuTensorMapEncodeTiled"),
)
NO_DEVICE = 100
SCRIPT = """
ip link set lo up 2>/dev/null || true
"$1" "$2/unpack.py" "$2" "$3" --whole
cd "$4"
. "$3/env.sh"
PYTHONPATH="tests:$PYTHONPATH" exec python3 -W ignore tests/gpu/bundle/probe.py $5
"""


class Failed(Exception):
    """The message says what failed."""


def environment(packages: Packages) -> Path:
    """A fresh environment with the provided packages and nothing else, kept in the cache; returns its Python."""
    pinned = packages.provided_pins()
    name = hashlib.sha256("\n".join((packages.python, *pinned)).encode()).hexdigest()[:12]
    folder = packages.cache / f"check-{name}"
    python = folder / "bin" / "python"
    if (folder / "whole").exists():
        return python
    free = shutil.disk_usage(packages.cache).free
    if free < ROOM:
        raise Failed(f"the check needs about {ROOM >> 30} GB free in {packages.cache}, found {free / (1 << 30):.1f} GB")
    shutil.rmtree(folder, ignore_errors=True)
    packages.run_uv("venv", "--python", packages.interpreter, folder)
    packages.run_uv("pip", "install", "--python", python, "--no-deps", *pinned, "setuptools")
    (folder / "whole").touch()
    return python


def no_network() -> tuple[str, ...]:
    """The command that runs another one without network, as root or as a user; none where neither is allowed."""
    for command in (("unshare", "--net"), ("unshare", "--map-root-user", "--net")):
        try:
            if subprocess.run([*command, "true"], capture_output=True).returncode == 0:
                return command
        except FileNotFoundError:
            break
    return ()


def driver(folder: Path) -> bool:
    """Make a libcuda.so.1 that has no device; False where this machine has no C compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        return False
    source = "".join(f"int {name}(void) {{ return {NO_DEVICE}; }}\n" for name in DRIVER)
    command = [compiler, "-shared", "-fPIC", "-x", "c", "-", "-o", str(folder / "libcuda.so.1")]
    subprocess.run(command, input=source, text=True, check=True)
    return True


def run(packages: Packages, out: Path, say: Callable[[str], None]) -> None:
    """Unpack and import; Failed where something does not work. Takes minutes and a few GB."""
    say("check: an environment with what the GPU machine has (about 3 GB to fetch the first time)")
    python = environment(packages)
    alone = no_network()
    if not alone:
        say("check: this machine can take no network away from a process: with network")
    with tempfile.TemporaryDirectory(dir=packages.cache, prefix="target-") as folder:
        place = Path(folder)
        has_driver = driver(place)
        if not has_driver:
            say("check: no C compiler, so no stand-in for libcuda.so.1: vLLM's GPU libraries are not loaded")
        arguments = (python, out, place / "target", packages.root, "--driver" if has_driver else "")
        changed = {"LD_LIBRARY_PATH": str(place)} if has_driver else {}
        settings = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
        command = [*alone, "sh", "-eu", "-c", SCRIPT, "sh", *map(str, arguments)]
        if subprocess.run(command, env=settings | changed).returncode:
            raise Failed("the check failed: see FAILED above")
    say("check: everything is imported")
