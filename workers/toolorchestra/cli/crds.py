"""`orchestra crds`: generate the CustomResourceDefinitions and the reference pages of the docs from the models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from toolorchestra.api.crd import crd_files
from toolorchestra.api.reference.resources import reference_files
from toolorchestra_operator.planning.reference import overlay_page


def crds(
    out: Annotated[Path, typer.Option(help="Folder for the CRDs.")] = Path("crds"),
    docs: Annotated[Path | None, typer.Option(help="Folder for the generated pages of the docs.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Write nothing; fail if a file is not up to date.")] = False,
) -> None:
    """Write the CRDs from the models; with --docs also the generated pages of the docs."""
    files = {out / name: text for name, text in crd_files().items()}
    if docs is not None:
        files |= {docs / name: text for name, text in pages().items()}
    stale = [path for path, text in files.items() if not path.is_file() or path.read_text(encoding="utf-8") != text]
    if check:
        for path in stale:
            typer.echo(f"{path} is not up to date", err=True)
        if stale:
            typer.echo(f"run: orchestra crds --out {out}" + (f" --docs {docs}" if docs else ""), err=True)
            raise typer.Exit(1)
        return
    for path in stale:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(files[path], encoding="utf-8")
    for path in files:
        typer.echo(f"{path}: {'written' if path in stale else 'up to date'}")


def pages() -> dict[str, str]:
    """Return every generated page of the docs: file name → Markdown."""
    return {**reference_files(), "podtemplate.md": overlay_page()}
