"""What a result is a result of: the code, and the card that it ran on."""

from __future__ import annotations

import hashlib
import subprocess
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("workers/**/*.py", "tests/gpu/*.py", "tests/gpu/checks/*.py")


@dataclass(frozen=True, kw_only=True)
class Identity:
    """`digest` is of the sources, so that a machine without git, and a changed working tree, are told apart too."""

    digest: str
    commit: str | None
    """None where git knows none; where the sources were changed since, `digest` says it and this does not."""
    card: str
    """Name of the GPU, or `CPU`."""

    def same(self, other: Identity) -> bool:
        return (self.digest, self.card) == (other.digest, other.card)

    def words(self) -> str:
        return f"{self.card}; commit {self.commit or 'unknown'}, sources {self.digest}"


def identity(device: str, *, root: Path = ROOT) -> Identity:
    """Of this checkout and this machine's first GPU, or of its CPU."""
    commit = _said("git", "-C", str(root), "rev-parse", "HEAD")
    card = "CPU"
    if device == "cuda":
        names = _said("nvidia-smi", "--query-gpu=name", "--format=csv,noheader")
        card = names.splitlines()[0].strip() if names else "unknown GPU"
    return Identity(digest=digest_of(root), commit=commit, card=card)


def digest_of(root: Path) -> str:
    """The first 16 digits of one sha256 over names and contents of the sources."""
    total = hashlib.sha256()
    for pattern in SOURCES:
        for file in sorted(root.glob(pattern)):
            total.update(f"{file.relative_to(root)}\0{hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return total.hexdigest()[:16]


def _said(*command: str) -> str | None:
    """What a command prints; None where it is not there, or fails."""
    try:
        done = subprocess.run(command, capture_output=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode(errors="replace").strip() or None
