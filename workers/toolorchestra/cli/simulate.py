"""`orchestra simulate`: serve simulated experts on this machine."""

from __future__ import annotations

import asyncio
import math
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from toolorchestra.api.load import load
from toolorchestra.api.mistakes import ResourceError
from toolorchestra.api.skill_table import SkillTable


def simulate(
    file: Annotated[Path, typer.Option("-f", "--file", help="YAML file with a SkillTable.", metavar="FILE")],
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.", min=0, max=65535)] = 8010,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    time_scale: Annotated[
        float, typer.Option(help="Share of each simulated latency to sleep: 1 is real time, 0 does not wait.", min=0.0)
    ] = 1.0,
) -> None:
    """Serve simulated experts: an OpenAI-compatible server that answers by a skill table.

    To use it, set its URL in an ExpertPool of type Endpoint with `simulated: true`. Every answer says that it is
    simulated, and reports its unscaled service time.
    """
    # Imported here, because `orchestra simulate --help` does not need the server.
    from toolorchestra.experts.serve import SimulatorError, serve_until_signalled

    if not math.isfinite(time_scale):
        _fail(f"--time-scale: {time_scale} is not a number of at least 0")
    table = _read(file)

    def started(url: str) -> None:
        models = ", ".join(expert.name for expert in table.spec.experts)
        typer.echo(f"simulator: {url} (time scale {time_scale:g}; simulated experts: {models})")

    try:
        asyncio.run(serve_until_signalled(table, host=host, port=port, time_scale=time_scale, started=started))
    except SimulatorError as error:
        _fail(str(error))


def _read(file: Path) -> SkillTable:
    """Return the only skill table of a file; resources of other kinds are ignored."""
    try:
        tables = load(file, resolve=False).skill_tables
    except ResourceError as error:
        _fail(str(error))
    if len(tables) != 1:
        _fail(f"{file} has {len(tables)} resources of kind SkillTable: give a file with exactly one")
    return tables[0]


def _fail(message: str) -> NoReturn:
    for line in message.splitlines():
        typer.echo(f"error: {line}", err=True)
    raise typer.Exit(2)
