"""Snapshot files: what is written is what is read, in one pass, and a file that is not what was written is refused."""

from __future__ import annotations

import json
import os
import resource
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from toolorchestra.trainer.trainer import Trainer, TrainerConfig
from toolorchestra.weights import snapshot as weights
from toolorchestra.weights.block_digest import BLOCK, block_digest, read_whole
from toolorchestra.weights.reader import read_tensors, staged_tensors
from toolorchestra.weights.snapshot import Snapshot, SnapshotError, mark_of, open_snapshot, read_entries, verify
from toolorchestra.weights.writer import write_snapshot

CPU = torch.device("cpu")
Tensors = dict[str, torch.Tensor]


def several_blocks() -> Tensors:
    """Tensors that begin and end anywhere in three blocks, one of which fills more than one."""
    torch.manual_seed(0)
    sizes = {"embed": (BLOCK // 4 + 1000, 1), "norm": (3,), "layer.1": (77, 513), "scalar": (), "head": (BLOCK // 3,)}
    return {name: torch.randn(shape) for name, shape in sizes.items()}


def written(folder: Path, tensors: Tensors, *, dtype: torch.dtype = torch.float32) -> Snapshot:
    keys = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    return write_snapshot(folder, tensors.items(), version="0-1", keys=keys, dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_what_is_written_is_read_again_by_us_and_by_safetensors(dtype: torch.dtype, tmp_path: Path) -> None:
    tensors = several_blocks()
    snapshot = written(tmp_path / "0-1", tensors, dtype=dtype)
    assert open_snapshot(tmp_path / "0-1") == snapshot
    assert snapshot.digest == block_digest(snapshot.file)
    mapped, staged = dict(read_tensors(snapshot.file, device=CPU)), dict(staged_tensors(snapshot.file, device=CPU))
    assert list(mapped) == list(staged) == list(tensors)
    for found in (mapped, staged, load_file(snapshot.file)):
        assert found.keys() == tensors.keys()
        for name, tensor in tensors.items():
            assert torch.equal(found[name], tensor.to(dtype))
    with safe_open(snapshot.file, framework="pt") as file:
        assert file.metadata() == {"format": "pt", "version": "0-1"}
    assert os.stat(snapshot.file).st_size > 2 * BLOCK or dtype != torch.float32


def test_a_second_snapshot_of_a_name_replaces_the_first(tmp_path: Path) -> None:
    first = written(tmp_path / "0-1", {"a": torch.zeros(4)})
    second = written(tmp_path / "0-1", {"a": torch.ones(4)})
    assert verify(second) == second
    with pytest.raises(SnapshotError, match="digest"):
        verify(first)
    assert [entry.name for entry in tmp_path.iterdir()] == ["0-1"]


def test_the_content_is_read_once_per_machine(tmp_path: Path) -> None:
    snapshot = written(tmp_path / "0-1", several_blocks())
    wrong = "0" * 64
    assert verify(replace(snapshot, digest=wrong)).digest == wrong, "whoever wrote it here knows what it is"
    elsewhere = replace(snapshot, mark=f"other-{snapshot.mark}")
    assert verify(elsewhere) == snapshot, "read and checked: what comes next on this machine need not"
    for mark in ("", elsewhere.mark):
        with pytest.raises(SnapshotError, match="has digest"):
            verify(replace(snapshot, digest=wrong, mark=mark))


def test_where_the_kernel_names_no_boot_the_content_is_always_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = written(tmp_path / "0-1", several_blocks())
    monkeypatch.setattr(weights, "mark_of", lambda path: "")
    assert verify(replace(snapshot, mark="")).mark == ""
    with pytest.raises(SnapshotError, match="has digest"):
        verify(replace(snapshot, digest="0" * 64, mark=""))


def test_a_mark_is_one_of_a_host_and_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Machines that were cloned while they ran have their boot in common; a file may replace one of its size."""
    known = {"st_dev": 1, "st_ino": 2, "st_size": 3, "st_ctime_ns": 4}
    stats = [known, *({**known, name: 9} for name in known)]
    marks = []
    for stat in stats:
        monkeypatch.setattr(Path, "stat", lambda _, stat=stat, **__: SimpleNamespace(**stat))
        marks.append(mark_of(tmp_path))
    monkeypatch.setattr(socket, "gethostname", lambda: "another")
    marks.append(mark_of(tmp_path))
    assert len(set(marks)) == len(marks) == 6


def test_a_file_that_was_written_to_is_read_and_refused(tmp_path: Path) -> None:
    snapshot = written(tmp_path / "0-1", several_blocks())
    with snapshot.file.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read()
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last[0] ^ 1]))
    while mark_of(snapshot.file) == snapshot.mark:
        os.utime(snapshot.file)  # the kernel's clock ticks every few milliseconds
    with pytest.raises(SnapshotError, match="has digest"):
        verify(snapshot)


@pytest.mark.parametrize("cut", [1, 100, BLOCK])
def test_a_file_that_is_cut_short_or_grew_is_refused(cut: int, tmp_path: Path) -> None:
    snapshot = written(tmp_path / "0-1", several_blocks())
    size = snapshot.file.stat().st_size
    for other in (size - cut, size + cut):
        os.truncate(snapshot.file, other)
        with pytest.raises(SnapshotError, match="not a whole safetensors file"):
            verify(snapshot)
        for reader in (read_tensors, staged_tensors):
            with pytest.raises(SnapshotError, match="not a whole safetensors file"):
                dict(reader(snapshot.file, device=CPU))


def test_a_file_that_ends_while_it_is_read_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"0123456789")
    with (tmp_path / "file").open("rb") as file:
        into = bytearray(4)
        read_whole(file.fileno(), memoryview(into), 6)
        assert into == b"6789"
        with pytest.raises(EOFError, match="ends at byte 10, 1 bytes early"):
            read_whole(file.fileno(), memoryview(into), 7)


@pytest.mark.parametrize(
    ("offsets", "why"),
    [
        ([[0, 8], [12, 20]], "not a whole"),
        ([[0, 8], [4, 12]], "not a whole"),
        ([[0], [0, 8]], "header cannot be read"),
    ],
)
def test_tensors_with_holes_between_them_are_refused(offsets: list[list[int]], why: str, tmp_path: Path) -> None:
    entries = {f"t{i}": {"dtype": "F32", "shape": [2], "data_offsets": at} for i, at in enumerate(offsets)}
    header = json.dumps(entries).encode()
    path = tmp_path / "weights.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(offsets[-1][-1]))
    with pytest.raises(SnapshotError, match=why):
        read_entries(path)


@pytest.mark.parametrize(
    ("tensors", "why"),
    [
        ({"a": torch.zeros(2)}, "b is missing"),
        ({"b": torch.zeros(3), "a": torch.zeros(2)}, r"b \[3\] is not the next tensor"),
        ({"a": torch.zeros(2), "b": torch.zeros(4)}, r"b \[4\] is not the next tensor"),
        ({"a": torch.zeros(2), "b": torch.zeros(3), "c": torch.zeros(1)}, r"c \[1\] is not the next tensor"),
    ],
)
def test_tensors_that_are_not_the_header_s_make_no_snapshot(tensors: Tensors, why: str, tmp_path: Path) -> None:
    keys = {"a": (2,), "b": (3,)}
    with pytest.raises(SnapshotError, match=why):
        write_snapshot(tmp_path / "0-1", tensors.items(), version="0-1", keys=keys, dtype=torch.float32)
    assert not (tmp_path / "0-1").exists()


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """No file of this process grows beyond `size`: a full file system, for one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_no_room_is_an_error_and_every_gather_is_taken_part_in(tiny: Path, tmp_path: Path) -> None:
    trainer = Trainer(TrainerConfig(model_dir=str(tiny), device="cpu", threads=1))
    gathers, names = trainer.full_tensors, []

    def counted(dtype: torch.dtype | None = None) -> Iterator[tuple[str, torch.Tensor]]:
        for name, tensor in gathers(dtype):
            names.append(name)
            yield name, tensor

    trainer.full_tensors = counted  # type: ignore[method-assign]
    with room_for(1000), pytest.raises(OSError, match="too large"):
        trainer.snapshot(tmp_path / "0-1", version="0-1")
    assert set(names) == trainer.keys.keys()
    assert not (tmp_path / "0-1").exists()
    names.clear()
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):  # before the first tensor
        trainer.snapshot(tmp_path / "file" / "0-1", version="0-1")
    assert set(names) == trainer.keys.keys()
    assert trainer.snapshot(tmp_path / "0-1", version="0-1") is not None


def test_a_file_system_that_reads_less_than_it_was_asked_for_gives_the_same_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = written(tmp_path / "0-1", several_blocks())
    preadv, pread = os.preadv, os.pread

    def a_little(handle: int, buffers: list[memoryview], offset: int) -> int:
        return preadv(handle, [buffers[0][: BLOCK // 3]], offset)

    monkeypatch.setattr(os, "preadv", a_little)
    monkeypatch.setattr(os, "pread", lambda handle, size, offset: pread(handle, min(size, BLOCK // 3), offset))
    assert block_digest(snapshot.file) == snapshot.digest
