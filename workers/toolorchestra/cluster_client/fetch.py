"""Copies a folder out of a pod: lists it with digests, streams it as a tar, verifies every file, then renames it.

An incomplete copy never has the final name. `Execute` runs a command where the folder is and yields its stdout: in a
pod, or on this machine in tests.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Final

from toolorchestra.cluster_client.errors import ClusterError

Execute = Callable[[Sequence[str]], Iterator[bytes]]
Progress = Callable[[int], None]
"""Called with the number of bytes that have arrived."""

_IN_FOLDER: Final = 'cd "$0" && '
_LIST: Final = f"{_IN_FOLDER}find . -type f -exec sha256sum {{}} + && find . -type f -exec stat -c '%s %n' {{}} +"
_TAR: Final = f"{_IN_FOLDER}exec tar -cf - ."
_THERE: Final = 'if [ -d "$0" ]; then echo yes; else echo no; fi'
_COPY_BYTES: Final = 1 << 20
_ROOM: Final = 64 * 2**20
"""How many bytes must stay free on the disk."""


class NoFolder(ClusterError):
    """The folder is not on the volume, or is empty."""

    status = 2


class Damaged(ClusterError):
    """The received data differ from the folder on the volume."""


class NoRoom(ClusterError):
    """The target cannot be written: too little space, it exists already, or a file system error."""

    status = 2


@dataclass(frozen=True)
class File:
    """One file of the folder: size in bytes, SHA-256 in hexadecimal."""

    size: int
    digest: str


def list_files(execute: Execute, folder: str) -> dict[str, File]:
    """Return the files by their path in the folder. NoFolder: the folder does not exist or is empty."""
    if b"".join(execute(["sh", "-c", _THERE, folder])).strip() != b"yes":
        raise NoFolder(f"there is no folder {folder} on the volume")
    digests, sizes = dict[str, str](), dict[str, int]()
    for line in b"".join(execute(["sh", "-c", _LIST, folder])).decode().splitlines():
        first, _, name = line.partition(" ")
        name = name.removeprefix(" ").removeprefix("*")
        if len(first) == 64:
            digests[_path(name)] = first
        else:
            sizes[_path(name)] = int(first)
    if not digests:
        raise NoFolder(f"the folder {folder} on the volume is empty")
    if digests.keys() != sizes.keys():
        raise Damaged(f"the folder {folder} changed while it was listed: try again")
    return {name: File(sizes[name], digest) for name, digest in digests.items()}


def _path(name: str) -> str:
    """Return the normalised path; Damaged where it leads out of the folder or has a backslash."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name:
        raise Damaged(f"a file with this name is not copied: {name!r}")
    return str(path)


def fetch(
    execute: Execute, folder: str, to: Path, *, files: Mapping[str, File], progress: Progress = lambda _: None
) -> None:
    """Copy `files` of the folder to `to`, which must not exist or be empty: all of them, verified, or nothing."""
    partial = to.with_name(f".{to.name}.partial-{os.getpid()}")
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
        _check_room(to.parent, sum(each.size for each in files.values()))
        partial.mkdir()
        _extract(execute(["sh", "-c", _TAR, folder]), partial, files, progress)
        if to.is_dir():  # check_target found it empty; rmdir fails if it is not any more
            to.rmdir()
        partial.rename(to)
    except tarfile.TarError as error:
        raise Damaged(f"the received data are not a tar archive ({error}): try again") from error
    except OSError as error:
        raise NoRoom(f"cannot write {to}: {error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def check_target(to: Path) -> None:
    """Check that `to` does not exist or is an empty folder; else NoRoom."""
    if to.is_dir() and any(to.iterdir()):
        raise NoRoom(f"{to} exists already and is not empty: name another folder, or remove it")
    if to.exists() and not to.is_dir():
        raise NoRoom(f"{to} exists already and is a file: name a folder")


def _check_room(folder: Path, size: int) -> None:
    free = shutil.disk_usage(folder).free
    if size + _ROOM > free:
        raise NoRoom(f"{folder} has {free / 2**30:.1f} GiB free, but the model needs {size / 2**30:.1f} GiB")


def _extract(chunks: Iterator[bytes], into: Path, files: Mapping[str, File], progress: Progress) -> None:
    """Write and sync every wanted file; Damaged where one is missing, unexpected or different."""
    left = dict(files)
    with tarfile.open(fileobj=_Stream(chunks, progress), mode="r|") as archive:
        for member in archive:
            name = str(PurePosixPath(member.name))
            if member.isdir():
                continue
            if ".." in PurePosixPath(name).parts or name.startswith("/"):
                raise Damaged(f"the archive has {name}, which leads out of the folder")
            if (wanted := left.pop(name, None)) is None or not member.isfile():
                raise Damaged(f"the archive has {name}, which was not there when the folder was listed: try again")
            source = archive.extractfile(member)
            assert source is not None  # a regular file always has a reader
            _write(source, into / name, wanted, name)
    if left:
        raise Damaged(f"the archive lacks {', '.join(sorted(left))}: try again")
    for _ in chunks:  # read to the end: only there the command reports its exit status
        pass


def _write(source: IO[bytes], path: Path, wanted: File, name: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    digest, size = hashlib.sha256(), 0
    with path.open("xb") as file:
        while data := source.read(_COPY_BYTES):
            file.write(data)
            digest.update(data)
            size += len(data)
        file.flush()
        os.fsync(file.fileno())
    if (size, digest.hexdigest()) != (wanted.size, wanted.digest):
        raise Damaged(f"{name} has another digest here than on the volume: try again")


class _Stream(io.RawIOBase):
    """File object for tarfile that reads from an iterator of bytes."""

    def __init__(self, chunks: Iterator[bytes], progress: Progress) -> None:
        self._chunks, self._progress, self._rest = chunks, progress, b""

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        parts, wanted = [self._rest], size - len(self._rest)
        while size < 0 or wanted > 0:
            data = next(self._chunks, b"")
            if not data:
                break
            self._progress(len(data))
            parts.append(data)
            wanted -= len(data)
        whole = b"".join(parts)
        cut = len(whole) if size < 0 else min(size, len(whole))
        self._rest = whole[cut:]
        return whole[:cut]
