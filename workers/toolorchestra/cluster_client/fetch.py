"""A folder out of a pod: listed with digests, streamed as a tar, verified file by file, then named.

Nothing half-written is ever under its final name. `Execute` runs a command beside the folder and yields what it
writes; here it is a pod's, in a test this machine's.
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
"""Told how many bytes came."""

_IN_FOLDER: Final = 'cd "$0" && '
_LIST: Final = f"{_IN_FOLDER}find . -type f -exec sha256sum {{}} + && find . -type f -exec stat -c '%s %n' {{}} +"
_TAR: Final = f"{_IN_FOLDER}exec tar -cf - ."
_THERE: Final = 'if [ -d "$0" ]; then echo yes; else echo no; fi'
_COPY_BYTES: Final = 1 << 20
_ROOM: Final = 64 * 2**20
"""Bytes that stay free on the disk."""


class NoFolder(ClusterError):
    """There is no such folder on the volume."""

    status = 2


class Damaged(ClusterError):
    """What arrived is not what is there."""


class NoRoom(ClusterError):
    """It does not fit, or may not be written here."""

    status = 2


@dataclass(frozen=True)
class File:
    """One file of the folder: size in bytes, SHA-256 in hexadecimal."""

    size: int
    digest: str


def list_files(execute: Execute, folder: str) -> dict[str, File]:
    """By path in the folder. NoFolder: it is not there, or empty."""
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
    """Damaged: it leads out of the folder, or is spelled in a way that nobody writes."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name:
        raise Damaged(f"a file of this name is not taken: {name!r}")
    return str(path)


def fetch(
    execute: Execute, folder: str, to: Path, *, files: Mapping[str, File], progress: Progress = lambda _: None
) -> None:
    """Copy `files` of the folder to `to`, which must not be there yet; all of them, verified, or nothing."""
    partial = to.with_name(f".{to.name}.partial-{os.getpid()}")
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
        _check_room(to.parent, sum(each.size for each in files.values()))
        partial.mkdir()
        _extract(execute(["sh", "-c", _TAR, folder]), partial, files, progress)
        if to.is_dir():  # it was empty when we looked, and still is, else this fails
            to.rmdir()
        partial.rename(to)
    except tarfile.TarError as error:
        raise Damaged(f"what came is no archive ({error}): try again") from error
    except OSError as error:
        raise NoRoom(f"cannot write {to}: {error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def check_target(to: Path) -> None:
    """NoRoom: something is there already."""
    if to.is_dir() and any(to.iterdir()):
        raise NoRoom(f"{to} is there already, and not empty: name another folder, or take it away")
    if to.exists() and not to.is_dir():
        raise NoRoom(f"{to} is there already, and is a file")


def _check_room(folder: Path, size: int) -> None:
    free = shutil.disk_usage(folder).free
    if size + _ROOM > free:
        raise NoRoom(f"{folder} has {free / 2**30:.1f} GiB free, the model takes {size / 2**30:.1f} GiB")


def _extract(chunks: Iterator[bytes], into: Path, files: Mapping[str, File], progress: Progress) -> None:
    """Every wanted file, written and synced; Damaged where one is missing, too many, or another."""
    left = dict(files)
    with tarfile.open(fileobj=_Stream(chunks, progress), mode="r|") as archive:
        for member in archive:
            name = str(PurePosixPath(member.name))
            if member.isdir():
                continue
            if ".." in PurePosixPath(name).parts or name.startswith("/"):
                raise Damaged(f"{name} came, which leads out of the folder")
            if (wanted := left.pop(name, None)) is None or not member.isfile():
                raise Damaged(f"{name} came, and was not there when the folder was listed: try again")
            source = archive.extractfile(member)
            assert source is not None  # it is a file
            _write(source, into / name, wanted, name)
    if left:
        raise Damaged(f"{', '.join(sorted(left))} did not come: try again")
    for _ in chunks:  # the end of the stream is where the command says that it ended well
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
        raise Damaged(f"{name} arrived with another digest than it has on the volume: try again")


class _Stream(io.RawIOBase):
    """Pieces of bytes as the file that tarfile reads."""

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
