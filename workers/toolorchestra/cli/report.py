"""`orchestra report RUN`: write the run's report.html and report.json."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from toolorchestra.cli.runs import RUNS, find_run


def report(
    run: Annotated[Path, typer.Argument(help="A run's folder, or its name under runs/.")],
    folder: Annotated[Path, typer.Option("--runs", help="The folder that holds the runs.")] = RUNS,
    show: Annotated[
        bool,
        typer.Option(
            "--acceptance", "--bars", help="Print the demo's acceptance criteria, each marked `pass` or `MISS`."
        ),
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Like --acceptance; exit status 1 if one is missed or was not measured.")
    ] = False,
) -> None:
    """Write a run's report.html and report.json, and print the result in one sentence."""
    # Imports matplotlib: not at module level, so that `orchestra --help` stays fast.
    from toolorchestra.cli.acceptance import accepted
    from toolorchestra.evaluation.acceptance import acceptance
    from toolorchestra.evaluation.report import headline, write_report
    from toolorchestra.ledger.journal import JournalError

    found = find_run(run, folder=folder)
    try:
        written = write_report(found.root)
    except (JournalError, ValueError) as error:
        typer.echo(f"error: {found.root}: {error}", err=True)
        raise typer.Exit(2) from error
    criteria = acceptance(written)
    typer.echo(headline(written))
    met = accepted(criteria) if show or check else True
    typer.echo(f"report: {found.root / 'report.html'}")
    if check and not met:
        raise typer.Exit(1)
