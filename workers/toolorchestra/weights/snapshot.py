"""Weight snapshots: one safetensors file of a policy version with Hugging Face names, and a manifest written last.

A snapshot is complete or does not exist: it is written under a temporary name and renamed, and its manifest has the
digest of the file. Readers check it *before* they change a model, because vLLM applies a partial update without an
error, as a mix of old and new weights.

The digest detects a file that another machine or file system shows differently from what was written. On the machine
that last computed the digest (the writer, while it wrote, or a reader), the file's *mark* proves more cheaply that the
bytes are the same: same kernel boot, same file, no change since. So if trainer and engine share a machine, the digest
is computed once; otherwise once more, before the engine is paused. A snapshot is not synced to disk: after a crash of
the machine, the next incarnation writes a new one from the checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import socket
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from toolorchestra.weights.block_digest import block_digest
from toolorchestra.weights.errors import WeightsError

WEIGHTS = "weights.safetensors"
MANIFEST = "snapshot.json"

KeySet = dict[str, tuple[int, ...]]
"""Name of every tensor → its shape."""


class SnapshotError(WeightsError, RuntimeError):
    """The snapshot is invalid. Nothing was loaded from it."""


class NoRoom(WeightsError, OSError):
    """The file system has no room for a snapshot. What was written of it has been removed."""


@dataclass(frozen=True)
class Snapshot:
    """A snapshot on disk: its folder, its policy version, and the digest of its file (block_digest.py)."""

    path: str
    version: str
    digest: str
    mark: str = ""
    """The file's mark (`mark_of`) when its digest was last confirmed; empty if it never was."""

    @property
    def file(self) -> Path:
        return Path(self.path) / WEIGHTS


@dataclass(frozen=True)
class Entry:
    """A tensor in a safetensors file: its dtype (safetensors' name), shape, and byte range in the file."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def mark_of(path: Path) -> str:
    """Return a text that identifies the file's bytes on this machine: kernel boot, file, size, time of last change.

    It is empty if the kernel gives no boot id. The host's name is included, because virtual machines that were cloned
    while running have the same boot id.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
    stat = path.stat()
    return f"{socket.gethostname()} {boot} {stat.st_dev} {stat.st_ino} {stat.st_size} {stat.st_ctime_ns}"


def read_header(path: Path) -> KeySet:
    """Return names and shapes in a safetensors file, from its header only. SnapshotError if it has none."""
    entries, _ = _header(path)
    return {name: tuple(entry["shape"]) for name, entry in entries.items()}


def read_entries(path: Path) -> dict[str, Entry]:
    """Return every tensor with its byte range, in file order. SnapshotError if the ranges do not cover the file."""
    header, start = _header(path)
    try:
        found = {
            name: Entry(entry["dtype"], tuple(entry["shape"]), *(start + at for at in entry["data_offsets"]))
            for name, entry in header.items()
        }
    except (ValueError, TypeError, KeyError) as error:
        raise SnapshotError(f"{path} is not a safetensors file: its header cannot be read") from error
    entries = dict(sorted(found.items(), key=lambda item: item[1].begin))
    ends = [start, *(entry.end for entry in entries.values())]
    if ends[:-1] != [entry.begin for entry in entries.values()] or ends[-1] != path.stat().st_size:
        raise SnapshotError(f"{path} is not a whole safetensors file ({path.stat().st_size} bytes, not {ends[-1]})")
    return entries


def _header(path: Path) -> tuple[dict[str, Any], int]:
    """Return a safetensors file's header, and the byte at which its tensors begin."""
    size = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else size
        if length > size - 8:
            raise SnapshotError(f"{path} is not a whole safetensors file ({size} bytes)")
        try:
            header: dict[str, Any] = json.loads(file.read(length))
            header.pop("__metadata__", None)
            for entry in header.values():
                if not all(isinstance(size, int) and size >= 0 for size in entry["shape"]):
                    raise ValueError(entry["shape"])
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise SnapshotError(f"{path} is not a safetensors file: its header cannot be read") from error
    return header, 8 + length


def why_unusable(folder: Path) -> str | None:
    """Return why weights cannot be read from a Hugging Face folder; None if the headers show no problem."""
    index = folder / "model.safetensors.index.json"
    try:
        names = {path.name for path in folder.glob("*.safetensors")}
        if index.is_file():
            named = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
            if absent := sorted(named - names):
                return f"{folder}: no {', '.join(absent)}, which {index.name} names; is the download incomplete?"
        if not names:
            return f"{folder}: no weights (*.safetensors); save_pretrained writes them"
        for name in sorted(names):
            read_header(folder / name)
    except SnapshotError as error:
        return f"{error}; an incomplete download, or a pointer of git-lfs?"
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return f"{index}: want weight_map, with the file of every tensor"
    return None


def folder_keys(folder: Path) -> KeySet:
    """Return names and shapes in a Hugging Face folder's safetensors files, without a head tied to the embedding."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise SnapshotError(f"{folder} holds no safetensors file")
    keys: KeySet = {}
    for file in files:
        keys |= read_header(file)
    if json.loads((folder / "config.json").read_text()).get("tie_word_embeddings"):
        keys.pop("lm_head.weight", None)
    return keys


def check_keys(got: Mapping[str, tuple[int, ...]], want: Mapping[str, tuple[int, ...]], *, what: str) -> None:
    """Raise SnapshotError if names are missing or unexpected, or shapes differ; the message names them."""
    problems = [f"missing {name}" for name in sorted(want.keys() - got.keys())]
    problems += [f"unexpected {name}" for name in sorted(got.keys() - want.keys())]
    problems += [
        f"{name} has shape {list(got[name])}, not {list(want[name])}"
        for name in sorted(want.keys() & got.keys())
        if tuple(got[name]) != tuple(want[name])
    ]
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise SnapshotError(f"{what} does not fit the model: {'; '.join(problems[:5])}{more}")


def open_snapshot(folder: Path) -> Snapshot:
    """Return the snapshot in a folder, from its manifest. SnapshotError if there is none. `verify` checks the file."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        return Snapshot(str(folder), manifest["version"], manifest["digest"], manifest["mark"])
    except (OSError, ValueError, KeyError) as error:
        raise SnapshotError(f"{folder} is not a finished snapshot: {error!r}") from error


def verify(snapshot: Snapshot, *, want: KeySet | None = None) -> Snapshot:
    """Check that the file is whole, has its digest and, if `want` is given, these names and shapes.

    The content is read only if the file's mark differs from the snapshot's. The returned snapshot has the mark of the
    checked file, so that the next check on this machine need not read it. SnapshotError says what differs.
    """
    if not snapshot.file.is_file():
        raise SnapshotError(f"{snapshot.file} does not exist")
    mark = mark_of(snapshot.file)  # taken before the content is read, so that a later change is detected
    keys = {name: entry.shape for name, entry in read_entries(snapshot.file).items()}
    if want is not None:
        check_keys(keys, want, what=str(snapshot.file))
    if mark and mark == snapshot.mark:
        return snapshot
    try:
        digest = block_digest(snapshot.file)
    except EOFError as error:
        raise SnapshotError(f"{snapshot.file} became shorter while it was read: {error}") from error
    if digest != snapshot.digest:
        raise SnapshotError(f"{snapshot.file} has digest {digest[:12]}…, not {snapshot.digest[:12]}…")
    return replace(snapshot, mark=mark)


def prune_snapshots(folder: Path, *, keep: Iterable[str]) -> None:
    """Remove the snapshots under `folder` except the named ones, and what unfinished writes left."""
    kept = set(keep)
    if not folder.is_dir():
        return
    for entry in folder.iterdir():
        if entry.is_dir() and entry.name not in kept and ((entry / MANIFEST).exists() or entry.suffix == ".partial"):
            shutil.rmtree(entry, ignore_errors=True)
