"""Weight snapshots: one safetensors file of a policy version under Hugging Face names, with a manifest written last.

A snapshot is complete or does not exist: it is written under a temporary name and renamed, and its manifest carries the
digest of the file. Readers check it *before* they touch a model, because vLLM applies a partial update as a mix without
an error.

What the digest is for: a file that another machine, or another file system, shows otherwise than it was written. On the
machine of whoever computed the digest last (the writer while it wrote, or a reader), the file's *mark* tells more
cheaply that these are the same bytes: the kernel's, its file, never written since. So the digest is computed once where
trainer and engine share a machine, and once more, before the engine is paused, where they do not. A snapshot is not
synced to disk: after a machine's crash the next incarnation writes a new one from the checkpoint.
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
"""Name → shape of every tensor."""


class SnapshotError(WeightsError, RuntimeError):
    """The snapshot is not what it should be; nothing was loaded from it."""


class NoRoom(WeightsError, OSError):
    """The file system has no room for a snapshot; what was written of it is gone again."""


@dataclass(frozen=True)
class Snapshot:
    """A snapshot on disk: the folder, whose weights it holds, and the digest of the file (block_digest.py)."""

    path: str
    version: str
    digest: str
    mark: str = ""
    """The file's mark (`mark_of`) when its content was known to have the digest; empty: never, by anybody."""

    @property
    def file(self) -> Path:
        return Path(self.path) / WEIGHTS


@dataclass(frozen=True)
class Entry:
    """A tensor of a safetensors file: its dtype by safetensors' name, and its bytes in the file."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def mark_of(path: Path) -> str:
    """Which bytes these are, as far as this machine's kernel tells: its boot, the file, its size, its last change.

    Empty where the kernel does not name its boot. The host's name is part of it because machines that were cloned while
    they ran have their boot in common.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
    stat = path.stat()
    return f"{socket.gethostname()} {boot} {stat.st_dev} {stat.st_ino} {stat.st_size} {stat.st_ctime_ns}"


def read_header(path: Path) -> KeySet:
    """Names and shapes of a safetensors file, from its header alone; SnapshotError if it has none."""
    entries, _ = _header(path)
    return {name: tuple(entry["shape"]) for name, entry in entries.items()}


def read_entries(path: Path) -> dict[str, Entry]:
    """Every tensor and where it lies, in the file's order; SnapshotError if that is not all of it."""
    header, start = _header(path)
    try:
        found = {
            name: Entry(entry["dtype"], tuple(entry["shape"]), *(start + at for at in entry["data_offsets"]))
            for name, entry in header.items()
        }
    except (ValueError, TypeError, KeyError) as error:
        raise SnapshotError(f"{path} is not a safetensors file: its header does not read") from error
    entries = dict(sorted(found.items(), key=lambda item: item[1].begin))
    ends = [start, *(entry.end for entry in entries.values())]
    if ends[:-1] != [entry.begin for entry in entries.values()] or ends[-1] != path.stat().st_size:
        raise SnapshotError(f"{path} is not a whole safetensors file ({path.stat().st_size} bytes, not {ends[-1]})")
    return entries


def _header(path: Path) -> tuple[dict[str, Any], int]:
    """A safetensors file's header, and the byte at which its tensors begin."""
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
            raise SnapshotError(f"{path} is not a safetensors file: its header does not read") from error
    return header, 8 + length


def why_unusable(folder: Path) -> str | None:
    """Why no weights can be read from a Hugging Face folder; None where all can, as far as headers tell."""
    index = folder / "model.safetensors.index.json"
    try:
        names = {path.name for path in folder.glob("*.safetensors")}
        if index.is_file():
            named = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
            if absent := sorted(named - names):
                return f"{folder}: no {', '.join(absent)}, which {index.name} names; a download that broke off?"
        if not names:
            return f"{folder}: no *.safetensors, the weights; save_pretrained writes them"
        for name in sorted(names):
            read_header(folder / name)
    except SnapshotError as error:
        return f"{error}; a download that broke off, or a pointer of git-lfs?"
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return f"{index}: want weight_map, which names the file of every tensor"
    return None


def folder_keys(folder: Path) -> KeySet:
    """Names and shapes of a Hugging Face folder's safetensors files, without a head that is tied to the embedding."""
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
    """SnapshotError naming what is missing, unexpected or of another shape."""
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
    """The snapshot in a folder, by its manifest; SnapshotError if there is none. Its content is checked by `verify`."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        return Snapshot(str(folder), manifest["version"], manifest["digest"], manifest["mark"])
    except (OSError, ValueError, KeyError) as error:
        raise SnapshotError(f"{folder} is not a finished snapshot: {error!r}") from error


def verify(snapshot: Snapshot, *, want: KeySet | None = None) -> Snapshot:
    """Check that the file is whole, has its digest and, where `want` is given, these names and shapes.

    The file is read only where its mark is not the snapshot's; the snapshot that is returned has the mark of what was
    checked, so that the next one on this machine need not read it again. SnapshotError says what differs.
    """
    if not snapshot.file.is_file():
        raise SnapshotError(f"{snapshot.file} does not exist")
    mark = mark_of(snapshot.file)  # before the content is read: a change since then shows
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
    """Remove the snapshots under `folder` other than the named ones, leftovers of unfinished writes included."""
    kept = set(keep)
    if not folder.is_dir():
        return
    for entry in folder.iterdir():
        if entry.is_dir() and entry.name not in kept and ((entry / MANIFEST).exists() or entry.suffix == ".partial"):
            shutil.rmtree(entry, ignore_errors=True)
