"""Prints text safely: text from elsewhere, such as an expert's words in a status, cannot control the terminal."""

from __future__ import annotations

from typing import NoReturn

import typer

from toolorchestra.visible import visible


def say(text: str, *, err: bool = False) -> None:
    """Print one or more lines; control characters and direction marks are replaced as `visible` does it."""
    typer.echo(visible(text), err=err)


def fail(message: str) -> NoReturn:
    """Print each line of `message` as an error, and end the command with status 2."""
    for line in message.splitlines():
        say(f"error: {line}", err=True)
    raise typer.Exit(2)
