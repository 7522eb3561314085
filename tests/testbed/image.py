"""Images of a few programs, made without a container engine: an archive in OCI layout, or pushed to a registry."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import platform
import re
import shutil
import struct
import subprocess
import tarfile
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

PAUSE = "testbed.local/pause:1"
"""The sandbox image's name in the node."""
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_KIND = "application/vnd.oci.image"


@dataclass(frozen=True)
class Image:
    """`manifest` by descriptor, and everything that it refers to by digest."""

    manifest: dict[str, Any]
    blobs: dict[str, bytes] = field(default_factory=dict)

    def write(self, archive: Path, *, name: str) -> None:
        """A tar that `ctr images import` reads."""
        index = {"schemaVersion": 2, "manifests": [self.manifest | {"annotations": {"io.containerd.image.name": name}}]}
        with tarfile.open(archive, mode="w") as tar:
            _add(tar, "oci-layout", json.dumps({"imageLayoutVersion": "1.0.0"}).encode())
            _add(tar, "index.json", json.dumps(index).encode())
            for digest, data in self.blobs.items():
                _add(tar, f"blobs/{digest.replace(':', '/')}", data)

    def push(self, name: str) -> None:
        """Push it as `registry/repository:tag`, over plain HTTP."""
        registry, _, rest = name.partition("/")
        repository, _, tag = rest.partition(":")
        base = f"http://{registry}/v2/{repository}"
        for digest, data in self.blobs.items():
            if digest != self.manifest["digest"]:
                with _send("POST", f"{base}/blobs/uploads/", b"") as answer:
                    upload = answer.headers["Location"]
                separator = "&" if "?" in upload else "?"
                _send("PUT", f"{upload}{separator}digest={digest}", data).close()
        text = self.blobs[self.manifest["digest"]]
        _send("PUT", f"{base}/manifests/{tag}", text, content=self.manifest["mediaType"]).close()


def image_of(program: Path) -> Image:
    """The image that runs this program, as a user without rights.

    Raises:
        ValueError: the program loads libraries, which are not in the image: it would end at once, again and again.
    """
    if (loader := loader_of(program)) is not None:
        raise ValueError(f"{program} is linked dynamically (it wants {loader}): build it statically, CGO_ENABLED=0")
    return image_with({program.name: program}, entrypoint=[f"/{program.name}"])


def loader_of(program: Path) -> str | None:
    """The loader that a program of 64 bits, little-endian, asks for; None: it is static, or no ELF file.

    Source: elf(5), `Elf64_Ehdr` and `Elf64_Phdr`; a segment of the type PT_INTERP (3) names it.
    """
    data = program.read_bytes()
    if data[:6] != b"\x7fELF\x02\x01":
        return None
    table, size, count = struct.unpack_from("<Q", data, 32)[0], *struct.unpack_from("<HH", data, 54)
    for at in range(table, table + size * count, size):
        kind, _, start, _, _, length = struct.unpack_from("<IIQQQQ", data, at)
        if kind == 3:
            return data[start : start + length].rstrip(b"\0").decode()
    return None


def image_with(files: Mapping[str, Path], *, entrypoint: Sequence[str] = ()) -> Image:
    """The image that holds these files, by their paths in it, all of them executable."""
    blobs: dict[str, bytes] = {}
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        for name, file in files.items():
            _add(tar, name, file.read_bytes(), mode=0o755)
    config = {
        "architecture": _ARCHITECTURES.get(platform.machine(), platform.machine()),
        "os": "linux",
        "config": {"Entrypoint": list(entrypoint), "User": "65535:65535", "Env": ["PATH=/usr/bin:/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [_digest(layer.getvalue())]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{_KIND}.manifest.v1+json",
        "config": _blob(blobs, json.dumps(config).encode(), f"{_KIND}.config.v1+json"),
        "layers": [_blob(blobs, gzip.compress(layer.getvalue(), mtime=0), f"{_KIND}.layer.v1.tar+gzip")],
    }
    return Image(_blob(blobs, json.dumps(manifest).encode(), f"{_KIND}.manifest.v1+json"), blobs)


def image_of_commands(*commands: str) -> Image:
    """The image that has these programs of this machine, with the libraries that they load."""
    files: dict[str, Path] = {}
    for command in commands:
        program = shutil.which(command)
        if program is None:
            raise FileNotFoundError(f"this machine has no {command}")
        files[f"usr/bin/{command}"] = Path(program)
        linked = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
        files |= {path.lstrip("/"): Path(path) for path in re.findall(r"(/\S+) \(0x", linked)}
    return image_with(files)


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _blob(blobs: dict[str, bytes], data: bytes, media_type: str) -> dict[str, Any]:
    """Keep the data, and describe it."""
    blobs[_digest(data)] = data
    return {"mediaType": media_type, "digest": _digest(data), "size": len(data)}


def _add(tar: tarfile.TarFile, name: str, data: bytes, *, mode: int = 0o644) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(data), mode
    tar.addfile(entry, io.BytesIO(data))


def _send(method: str, url: str, data: bytes, *, content: str = "application/octet-stream") -> Any:
    """One request past any proxy.

    Raises:
        urllib.error.HTTPError: the registry refused.
    """
    request = urllib.request.Request(url, data=data, method=method, headers={"Content-Type": content})
    return urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=60)
