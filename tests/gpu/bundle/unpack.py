#!/usr/bin/env python3
"""Unpack the parts of a bundle: python3 unpack.py PARTS TARGET [--whole]

PARTS is a folder with the manifests (*.json) and some or all of their parts, TARGET a folder for the result. Call it
once when all parts are there, or as often as parts arrive, with the Python that is to use them: each part is held
against its digest and kept in TARGET; with the last one the bundle is unpacked and compiled. Then

    cd CHECKOUT && . TARGET/env.sh

sets what the product needs. What is done is not done again. --whole: a part that is not there yet is an error.
Needs Python's standard library only.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import io
import json
import lzma
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterable, Iterator
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

KEPT = ".parts"  # in TARGET: manifests and parts that have arrived, and which bundles are done
ENVIRONMENT = """\
# To be sourced in a checkout of the product (or with CHECKOUT set to one).
export PYTHONPATH="${{CHECKOUT:-$PWD}}/workers:${{CHECKOUT:-$PWD}}/operator:{target}/site${{PYTHONPATH:+:$PYTHONPATH}}"
export PATH="{target}/bin:{python}:$PATH"
# FlashInfer compiles its sampler at the first start, and is not in the bundle.
export VLLM_USE_FLASHINFER_SAMPLER=0
# Nothing is to be fetched or sent.
export HF_HUB_OFFLINE=1 VLLM_NO_USAGE_STATS=1 RAY_USAGE_STATS_ENABLED=0
"""


class Refused(Exception):
    """The message says what is wrong and what helps."""


class Chain(io.RawIOBase):
    """The blocks one behind the other, as a file to read from."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks, self._rest = blocks, memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._rest:
            self._rest = memoryview(next(self._blocks, b""))
        size = min(len(buffer), len(self._rest))
        buffer[:size], self._rest = self._rest[:size], self._rest[size:]
        return size


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def arrive(parts: Path, kept: Path, manifest: dict[str, Any]) -> list[str]:
    """Copy into `kept`, by digest, what is in `parts`; returns the parts still missing. Refused where one is damaged."""
    missing, damaged = [], []
    for part in manifest["parts"]:
        name, here = part["file"], kept / part["sha256"]
        if here.exists():
            continue
        if not (parts / name).exists():
            missing.append(name)
            continue
        draft = kept / f".{name}"
        shutil.copyfile(parts / name, draft)
        if draft.stat().st_size == part["size"] and digest(draft) == part["sha256"]:
            draft.rename(here)
        else:
            damaged.append(f"{name} ({draft.stat().st_size} bytes, want {part['size']} with sha256 {part['sha256']})")
            draft.unlink()
    if damaged:
        raise Refused(f"damaged: {', '.join(damaged)}: send again")
    return missing


def streams(kept: Path, manifest: dict[str, Any]) -> Iterable[bytes]:
    """The xz streams, which may lie across the parts' edges."""
    data = b"".join((kept / part["sha256"]).read_bytes() for part in manifest["parts"])
    start = 0
    for size in manifest["streams"]:
        yield data[start : start + size]
        start += size


def unpack(kept: Path, target: Path, manifest: dict[str, Any]) -> None:
    """Unpack beside the place and move there, so that TARGET never holds half of a bundle."""
    draft = target / f".{manifest['name']}.unpacking"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    with ThreadPool() as pool:  # lzma works outside Python's lock
        blocks = pool.imap(lzma.decompress, streams(kept, manifest))
        with tarfile.open(fileobj=io.BufferedReader(Chain(blocks), 1 << 20), mode="r|") as archive:
            archive.extractall(draft, filter="data")
    for folder in draft.iterdir():
        shutil.rmtree(target / folder.name, ignore_errors=True)
        folder.rename(target / folder.name)
    draft.rmdir()


def check_place(target: Path, manifest: dict[str, Any]) -> None:
    """Refused where Python is another than the bundle's, or the disk too full."""
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    if manifest["python"] not in (None, here):
        raise Refused(f"made for Python {manifest['python']}, and this is Python {here}: call it with the other one")
    need = int(manifest["unpacked"] * 1.5) + sum(part["size"] for part in manifest["parts"])
    free = shutil.disk_usage(target).free
    if free < need:
        raise Refused(f"needs {need >> 20} MB free in {target}, found {free >> 20} MB")


def not_there(names: Iterable[str]) -> list[str]:
    """Those of the packages `names` that this Python does not have."""
    missing = []
    for name in names:
        try:
            importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
    return missing


def take(parts: Path, target: Path, manifest: dict[str, Any]) -> bool:
    """One bundle as far as its parts are there; whether it is now unpacked."""
    name, kept = manifest["name"], target / KEPT
    done, mark = kept / f"{name}.done", manifest["inputs"]
    if done.exists() and done.read_text() == mark:
        print(f"{name}: is there")
        return True
    check_place(target, manifest)
    missing = arrive(parts, kept, manifest)
    if missing:
        have = len(manifest["parts"]) - len(missing)
        print(f"{name}: {have} of {len(manifest['parts'])} parts are there; missing: {', '.join(missing)}")
        return False
    if manifest["python"]:
        (target / "env.sh").unlink(missing_ok=True)  # it says that everything is in its place
    unpack(kept, target, manifest)
    done.write_text(mark)
    for part in manifest["parts"]:
        (kept / part["sha256"]).unlink()
    print(f"{name}: unpacked, {manifest['unpacked'] / 1e6:.0f} MB")
    return True


def finish(target: Path, manifest: dict[str, Any]) -> None:
    """Compile the packages and write env.sh; says which provided packages are not there."""
    environment = target / "env.sh"
    if not environment.exists():
        subprocess.run(  # a process per core; a file that is no Python 3 (a template) is no matter
            [sys.executable, "-m", "compileall", "-qq", "-j", "0", str(target / "site")], check=False
        )
        missing = not_there(manifest["provided"])
        if missing:
            print(f"warning: the bundle counts on packages that this Python lacks: {', '.join(missing)}")
        draft = target / ".env.sh"
        draft.write_text(ENVIRONMENT.format(target=target, python=Path(sys.executable).parent))
        draft.rename(environment)
    print(f"ready: cd CHECKOUT && . {environment}")


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("parts", type=Path, metavar="PARTS")
    asked.add_argument("target", type=Path, metavar="TARGET")
    asked.add_argument("--whole", action="store_true", help="a part that is not there yet is an error")
    options = asked.parse_args()
    target: Path = options.target.resolve()
    kept = target / KEPT
    kept.mkdir(parents=True, exist_ok=True)
    for path in options.parts.glob("*.json"):
        shutil.copyfile(path, kept / path.name)
    manifests = [json.loads(path.read_text()) for path in sorted(kept.glob("*.json"))]
    if not manifests:
        sys.exit(f"error: no manifest (*.json) in {options.parts}")
    whole = True
    try:
        for manifest in manifests:
            there = take(options.parts, target, manifest)
            if there and manifest["python"]:
                finish(target, manifest)
            whole &= there
    except (Refused, OSError) as error:
        sys.exit(f"error: {manifest['name']}: {error}")
    if options.whole and not whole:
        sys.exit(1)


if __name__ == "__main__":
    main()
