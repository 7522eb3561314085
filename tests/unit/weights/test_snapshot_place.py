"""Where snapshots lie, and what a full /dev/shm does: on a real file system that is too small."""

from __future__ import annotations

import errno
import os
import pickle
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from toolorchestra.weights import writer as snapshot_writer
from toolorchestra.weights.place import SnapshotPlace
from toolorchestra.weights.snapshot import NoRoom, Snapshot, open_snapshot, verify
from toolorchestra.weights.writer import write_snapshot

KEYS = {"a": (64, 1024)}


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs of 320 KiB: one snapshot fits, two do not."""
    folder = tmp_path / "memory"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=320k", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no file system may be mounted here (needs root)")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def write(folder: Path) -> Snapshot:
    value = float(folder.name.partition("-")[2])
    tensors = [("a", torch.full(KEYS["a"], value))]
    return write_snapshot(folder, tensors, version=folder.name, keys=KEYS, dtype=torch.float32)


async def written(folder: Path) -> Snapshot:
    return write(folder)


def inside(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_what_did_not_fit_leaves_nothing_and_says_what_it_wants(small: Path) -> None:
    write(small / "0-1")
    with pytest.raises(NoRoom, match=r"no room for a snapshot of 262,144 bytes: '.*memory'") as caught:
        write(small / "0-2")
    assert inside(small) == ["0-1"]
    assert verify(open_snapshot(small / "0-1"))
    again = pickle.loads(pickle.dumps(caught.value))  # it comes from another process
    assert (type(again), str(again)) == (NoRoom, str(caught.value))


@pytest.mark.parametrize("full", [errno.ENOSPC, errno.EDQUOT])
def test_a_quota_is_no_room_either(full: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(handle: int, content: memoryview, start: int) -> None:
        raise OSError(full, os.strerror(full))

    monkeypatch.setattr(snapshot_writer, "write_whole", refused)
    with pytest.raises(NoRoom):
        write(tmp_path / "0-1")
    assert inside(tmp_path) == []


async def test_a_full_memory_moves_the_snapshots_to_the_disk_for_good(small: Path, tmp_path: Path) -> None:
    said: list[str] = []
    disk = tmp_path / "weights"
    place = SnapshotPlace(disk, small, said.append)
    one = await place.write("0-1", keep=["0-0"], snapshot=written)
    assert (Path(one.path), said) == (small / "0-1", [])
    two = await place.write("0-2", keep=["0-1"], snapshot=written)  # with 0-1 in service there is no room for it
    assert Path(two.path) == disk / "0-2"
    assert len(said) == 1
    assert f"from now on, snapshots of the weights are written to {disk}" in said[0]
    assert inside(small) == ["0-1"], "an engine that starts again may read it"
    three = await place.write("0-3", keep=["0-2"], snapshot=written)
    assert (inside(small), inside(disk), len(said)) == ([], ["0-2", "0-3"], 1)
    assert verify(three) == three


async def test_a_full_disk_is_told_to_the_caller(small: Path) -> None:
    place = SnapshotPlace(small, None, pytest.fail)
    await place.write("0-1", keep=[], snapshot=written)
    with pytest.raises(NoRoom):
        await place.write("0-2", keep=["0-1"], snapshot=written)
    assert Path((await place.write("0-2", keep=[], snapshot=written)).path) == small / "0-2"
