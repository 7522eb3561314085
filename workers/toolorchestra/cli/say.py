"""What a command prints: text from elsewhere (a status may repeat a task file's, an engine's or an expert's words) is
shown, and never obeyed by the terminal."""

from __future__ import annotations

import typer

from toolorchestra.visible import visible


def say(text: str, *, err: bool = False) -> None:
    """Print a line or several; control characters and direction marks as `visible` shows them."""
    typer.echo(visible(text), err=err)
