"""Installed distributions, made of text: modules and `.dist-info` metadata in a folder on sys.path."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "extending.md"


def install(site: Path, *, name: str, modules: Mapping[str, str], entry_points: str) -> Path:
    """Lay out the distribution `name` in `site` as an installer does. `modules` by path, `entry_points` in the form of
    entry_points.txt."""
    for path, text in modules.items():
        (site / path).parent.mkdir(parents=True, exist_ok=True)
        (site / path).write_text(text, encoding="utf-8")
    info = site / f"{re.sub('[-.]', '_', name)}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(entry_points)
    return site


def blocks(language: str) -> list[str]:
    """Code blocks of docs/extending.md."""
    text = PAGE.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def modules_of_the_page() -> dict[str, str]:
    """Every Python block by the path in its first line."""
    return {block.splitlines()[0].removeprefix("# "): block for block in blocks("python")}


def install_the_page(site: Path) -> Path:
    """The package of docs/extending.md, as it stands there."""
    project = tomllib.loads(blocks("toml")[0])["project"]
    groups = [
        "\n".join([f"[{group}]", *(f"{name} = {value}" for name, value in entries.items())])
        for group, entries in project["entry-points"].items()
    ]
    modules = modules_of_the_page() | {"acme_orchestra/__init__.py": ""}
    return install(site, name=project["name"], modules=modules, entry_points="\n".join(groups))
