"""A bundle cut into parts comes together again, as the parts arrive; what is missing, damaged or in the way is said."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import gpu.bundle.parts as parts
from gpu.bundle.parts import Manifest, Member, compressed, manifest_of, sizes, tar_blocks, whole, write_parts

SCRIPT = Path(parts.__file__).with_name("unpack.py")
HERE = f"{sys.version_info.major}.{sys.version_info.minor}"
NOISE = random.Random(0).randbytes(50_000)
CONTENT = (
    Member("site/noise.bin", NOISE),
    Member("site/package/module.py", b"value = 7\n"),
    Member("bin/tool", b"#!/bin/sh\necho runs\n", program=True),
)


def build(
    folder: Path,
    content: tuple[Member, ...] = CONTENT,
    *,
    limit: int = 20_000,
    inputs: str = "one",
    python: str | None = HERE,
    provided: tuple[str, ...] = (),
) -> Manifest:
    """A bundle "small" of three parts and several streams."""
    folder.mkdir(exist_ok=True)
    blocks = list(compressed(tar_blocks(content, 16_384)))
    manifest = Manifest(
        name="small",
        inputs=inputs,
        python=python,
        unpacked=sum(size for size, _ in blocks),
        streams=tuple(len(stream) for _, stream in blocks),
        parts=write_parts("small", (stream for _, stream in blocks), folder, limit),
        provided=provided,
    )
    (folder / "small.json").write_text(manifest.text())
    return manifest


def unpack(folder: Path, target: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, SCRIPT, folder, target, *options], capture_output=True, text=True)


@pytest.mark.parametrize(
    ("total", "limit", "want"), [(0, 5, ()), (5, 5, (5,)), (6, 5, (3, 3)), (10, 4, (4, 3, 3)), (3, 1, (1, 1, 1))]
)
def test_the_fewest_parts_and_equal_ones(total: int, limit: int, want: tuple[int, ...]) -> None:
    assert sizes(total, limit) == want


def test_equal_content_gives_equal_parts(tmp_path: Path) -> None:
    assert build(tmp_path / "a") == build(tmp_path / "b")
    assert len(build(tmp_path / "a").parts) == 3
    assert len(build(tmp_path / "a").streams) == 4


def test_a_manifest_can_be_read_again(tmp_path: Path) -> None:
    manifest = build(tmp_path)
    assert manifest_of(manifest.text()) == manifest
    assert whole(tmp_path, "small") == manifest
    (tmp_path / manifest.parts[1].file).unlink()
    assert whole(tmp_path, "small") is None


def test_standard_tools_unpack_it_too(tmp_path: Path) -> None:
    build(tmp_path / "parts")
    subprocess.run(f"cat {tmp_path}/parts/small-*.part | tar -xJ -C {tmp_path}", shell=True, check=True)
    assert (tmp_path / "site/noise.bin").read_bytes() == NOISE


def test_unpacked_compiled_and_with_settings(tmp_path: Path) -> None:
    build(tmp_path / "parts")
    target = tmp_path / "target"
    done = unpack(tmp_path / "parts", target, "--whole")
    assert done.returncode == 0, done.stderr
    assert (target / "site/noise.bin").read_bytes() == NOISE
    assert list(target.glob("site/package/__pycache__/*.pyc"))
    settings = f". {target}/env.sh; tool; python3 -c 'from package.module import value; print(value)'; echo $PYTHONPATH"
    shell = subprocess.run(
        ["sh", "-euc", settings],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "CHECKOUT": "/checkout"},
    )
    assert shell.stdout.splitlines() == ["runs", "7", f"/checkout/workers:/checkout/operator:{target}/site"], (
        shell.stderr
    )
    again = unpack(tmp_path / "parts", target, "--whole")
    assert again.returncode == 0
    assert "small: is there" in again.stdout


def test_part_by_part_in_any_order(tmp_path: Path) -> None:
    manifest = build(tmp_path / "all")
    arriving, target = tmp_path / "arriving", tmp_path / "target"
    arriving.mkdir()
    files = [part.file for part in manifest.parts]
    for index, file in enumerate(reversed(files)):
        for old in arriving.iterdir():
            old.unlink()
        (arriving / file).write_bytes((tmp_path / "all" / file).read_bytes())
        if index == 0:
            (arriving / "small.json").write_text(manifest.text())
        assert not (target / "env.sh").exists()
        done = unpack(arriving, target)
        assert done.returncode == 0, done.stderr
        missing = files[: len(files) - index - 1]
        if missing:
            assert f"{index + 1} of 3 parts are there; missing: {', '.join(missing)}" in done.stdout
            assert unpack(arriving, target, "--whole").returncode == 1
    assert (target / "site/noise.bin").read_bytes() == NOISE
    assert (target / "env.sh").exists()


@pytest.mark.parametrize("damage", [b"", NOISE[:100]], ids=["cut off", "other bytes"])
def test_a_damaged_part_is_named_and_can_be_sent_again(tmp_path: Path, damage: bytes) -> None:
    manifest = build(tmp_path / "parts")
    damaged = tmp_path / "parts" / manifest.parts[1].file
    good = damaged.read_bytes()
    damaged.write_bytes(damage + good[100:])
    target = tmp_path / "target"
    done = unpack(tmp_path / "parts", target)
    assert done.returncode == 1
    assert f"error: small: damaged: {damaged.name}" in done.stderr
    assert manifest.parts[1].sha256 in done.stderr
    assert not (target / "site").exists()
    damaged.write_bytes(good)
    assert unpack(tmp_path / "parts", target, "--whole").returncode == 0


def test_another_build_takes_the_place_of_the_first(tmp_path: Path) -> None:
    build(tmp_path / "parts")
    target = tmp_path / "target"
    assert unpack(tmp_path / "parts", target, "--whole").returncode == 0
    build(tmp_path / "parts", (Member("site/other.py", b"x = 1\n"),), inputs="two")
    assert unpack(tmp_path / "parts", target, "--whole").returncode == 0
    assert (target / "site/other.py").exists()
    assert not (target / "site/package").exists()


def test_refused_for_another_python_and_for_a_full_disk(tmp_path: Path) -> None:
    manifest = build(tmp_path / "parts", python="3.7")
    done = unpack(tmp_path / "parts", tmp_path / "target")
    assert (done.returncode, done.stderr) == (
        1,
        f"error: small: made for Python 3.7, and this is Python {HERE}: call it with the other one\n",
    )
    huge = replace(manifest, python=HERE, unpacked=1 << 60)
    (tmp_path / "parts/small.json").write_text(huge.text())
    done = unpack(tmp_path / "parts", tmp_path / "target")
    assert done.returncode == 1
    assert "MB free in" in done.stderr


def test_says_which_provided_package_is_not_there(tmp_path: Path) -> None:
    build(tmp_path / "parts", provided=("no-such-package", "pytest"))
    done = unpack(tmp_path / "parts", tmp_path / "target")
    assert "counts on packages that this Python lacks: no-such-package\n" in done.stdout


def test_a_folder_without_a_manifest_is_refused(tmp_path: Path) -> None:
    done = unpack(tmp_path, tmp_path / "target")
    assert (done.returncode, done.stderr) == (1, f"error: no manifest (*.json) in {tmp_path}\n")


def test_a_bundle_of_data_has_no_settings(tmp_path: Path) -> None:
    build(tmp_path / "parts", (Member("model/weights", NOISE),), python=None)
    assert unpack(tmp_path / "parts", tmp_path / "target", "--whole").returncode == 0
    assert (tmp_path / "target/model/weights").read_bytes() == NOISE
    assert not (tmp_path / "target/env.sh").exists()
    assert json.loads((tmp_path / "parts/small.json").read_text())["python"] is None
