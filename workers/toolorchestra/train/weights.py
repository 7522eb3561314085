"""Weight snapshots: one safetensors file of a policy version under Hugging Face names, with a manifest written last.

A snapshot is complete or does not exist: it is written under a temporary name and renamed, and its manifest carries the
digest of the file. Readers check the digest and the key set *before* they touch a model, because vLLM applies a partial
update as a mix without an error.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

WEIGHTS = "weights.safetensors"
MANIFEST = "snapshot.json"

KeySet = dict[str, tuple[int, ...]]
"""Name → shape of every tensor."""


class SnapshotError(RuntimeError):
    """The snapshot is not what it should be; nothing was loaded from it."""


@dataclass(frozen=True)
class Snapshot:
    """A snapshot on disk: the folder, whose weights it holds, and the sha256 of the file."""

    path: str
    version: str
    digest: str

    @property
    def file(self) -> Path:
        return Path(self.path) / WEIGHTS


def file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_header(path: Path) -> KeySet:
    """Names and shapes of a safetensors file, from its header alone; SnapshotError if it has none."""
    size = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(8)
        length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else size
        if length > size - 8:
            raise SnapshotError(f"{path} is not a whole safetensors file ({size} bytes)")
        try:
            header: dict[str, Any] = json.loads(file.read(length))
            return {name: tuple(entry["shape"]) for name, entry in header.items() if name != "__metadata__"}
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise SnapshotError(f"{path} is not a safetensors file: its header does not read") from error


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


def write_snapshot(folder: Path, tensors: Mapping[str, Any], *, version: str, want: KeySet) -> Snapshot:
    """Write contiguous CPU tensors as the snapshot `folder` of `version`; replaces an unfinished one of that name."""
    from safetensors.torch import save_file

    check_keys({name: tuple(t.shape) for name, t in tensors.items()}, want, what=f"snapshot {version}")
    partial = folder.with_name(f".{folder.name}.partial")
    for leftover in (partial, folder):
        shutil.rmtree(leftover, ignore_errors=True)
    partial.mkdir(parents=True)
    save_file(dict(tensors), partial / WEIGHTS, metadata={"format": "pt", "version": version})
    snapshot = Snapshot(path=str(folder), version=version, digest=file_digest(partial / WEIGHTS))
    manifest = {"version": version, "digest": snapshot.digest, "bytes": (partial / WEIGHTS).stat().st_size}
    (partial / MANIFEST).write_text(json.dumps(manifest))
    os.replace(partial, folder)
    return snapshot


def open_snapshot(folder: Path) -> Snapshot:
    """The snapshot in a folder, by its manifest; SnapshotError if there is none. Its content is checked by `verify`."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        return Snapshot(path=str(folder), version=manifest["version"], digest=manifest["digest"])
    except (OSError, ValueError, KeyError) as error:
        raise SnapshotError(f"{folder} is not a finished snapshot: {error!r}") from error


def verify(snapshot: Snapshot, *, want: KeySet | None = None) -> None:
    """Check file, digest and, where `want` is given, names and shapes. SnapshotError says what differs."""
    if not snapshot.file.is_file():
        raise SnapshotError(f"{snapshot.file} does not exist")
    keys = read_header(snapshot.file)
    if want is not None:
        check_keys(keys, want, what=str(snapshot.file))
    digest = file_digest(snapshot.file)
    if digest != snapshot.digest:
        raise SnapshotError(f"{snapshot.file} has digest {digest[:12]}…, not {snapshot.digest[:12]}…")


def prune_snapshots(folder: Path, *, keep: Iterable[str]) -> None:
    """Remove the snapshots under `folder` other than the named ones, leftovers of unfinished writes included."""
    kept = set(keep)
    for entry in folder.iterdir():
        if entry.is_dir() and entry.name not in kept and ((entry / MANIFEST).exists() or entry.suffix == ".partial"):
            shutil.rmtree(entry, ignore_errors=True)
