"""Read files that users give: only regular files, of limited size, in UTF-8."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import BinaryIO

from toolorchestra.api.errors import InputError


class FileRefused(InputError):
    """The file cannot be read. The text says why, without the file's name."""


def open_regular(path: Path) -> BinaryIO:
    """Return the file, open for reading bytes. A pipe or a device is refused before it is opened: it may never end.

    Raises:
        FileRefused: no such file, no permission, or not a regular file.
    """
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            raise FileRefused(f"is {_kind(mode)}, not a file: give a file on disk")
        return path.open("rb")
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise FileRefused(getattr(error, "strerror", None) or str(error)) from error


def _kind(mode: int) -> str:
    if stat.S_ISDIR(mode):
        return "a folder"
    return "a pipe" if stat.S_ISFIFO(mode) else "a device or socket"


def read_text(path: Path, *, most: int) -> str:
    """Return the file's text without a byte order mark.

    Raises:
        FileRefused: as `open_regular`, more than `most` bytes, or not UTF-8.
    """
    with open_regular(path) as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise FileRefused(f"is larger than {most >> 20} MiB")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise FileRefused(f"is not UTF-8 text: byte {content[error.start]:#04x} on line {line}") from error
