"""What a command prints: text from elsewhere (a status may repeat a task file's, an engine's or an expert's words) is
shown, and never obeyed by the terminal."""

from __future__ import annotations

from typing import NoReturn

import typer

from toolorchestra.visible import visible


def say(text: str, *, err: bool = False) -> None:
    """Print a line or several; control characters and direction marks as `visible` shows them."""
    typer.echo(visible(text), err=err)


def fail(message: str) -> NoReturn:
    """Say what is wrong, line by line, and end with status 2."""
    for line in message.splitlines():
        say(f"error: {line}", err=True)
    raise typer.Exit(2)
