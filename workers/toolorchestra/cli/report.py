"""`orchestra report RUN`: write the run's report.html and report.json."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from toolorchestra.cli.runs import RUNS, find_run


def report(
    run: Annotated[Path, typer.Argument(help="A run's folder, or its name under runs/.")],
    folder: Annotated[Path, typer.Option("--runs", help="The folder that holds the runs.")] = RUNS,
    bars: Annotated[bool, typer.Option("--bars", help="Print the demo's bars: held or missed.")] = False,
    check: Annotated[
        bool, typer.Option("--check", help="The same; ends with 1 if one is missed or unmeasured.")
    ] = False,
) -> None:
    """Write a run's report.html and report.json, and say in a sentence what they found."""
    # matplotlib loads here, not for `orchestra --help`.
    from toolorchestra.evaluation.acceptance import gates
    from toolorchestra.evaluation.report import headline, write_report
    from toolorchestra.ledger.journal import JournalError

    found = find_run(run, folder=folder)
    try:
        written = write_report(found.root)
    except (JournalError, ValueError) as error:
        typer.echo(f"error: {found.root}: {error}", err=True)
        raise typer.Exit(2) from error
    found_bars = gates(written)
    typer.echo(headline(written))
    for bar in found_bars if bars or check else ():
        typer.echo(bar.line())
    typer.echo(f"report: {found.root / 'report.html'}")
    if check and not (found_bars and all(bar.passed for bar in found_bars)):
        raise typer.Exit(1)
