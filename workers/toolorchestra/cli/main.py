"""`orchestra`: one command line for a laptop and a cluster. Each command lives in a module of its own.

Modules load when their command runs: `orchestra --help` must not pay for torch.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

import click
import typer.main

COMMANDS = {
    "train": ("toolorchestra.cli.train", "Run an OrchestratorTraining on this machine."),
    "resume": ("toolorchestra.cli.resume", "Go on with a run from its last checkpoint."),
    "status": ("toolorchestra.cli.status", "Say how far a run is."),
    "logs": ("toolorchestra.cli.logs", "Print a run's logs."),
    "cancel": ("toolorchestra.cli.cancel", "End a run: checkpoint, then stop."),
    "runs": ("toolorchestra.cli.runs", "List runs, show one."),
    "report": ("toolorchestra.cli.report", "Write a run's report.html and report.json."),
    "trace": ("toolorchestra.cli.trace", "Print one episode so that a person understands it."),
    "reward": ("toolorchestra.cli.reward", "Score components, or re-score a run, offline."),
    "simulate": ("toolorchestra.cli.simulate", "Serve simulated experts."),
    "worker": ("toolorchestra.cli.worker", "Run a rollout worker."),
    "crds": ("toolorchestra.cli.crds", "Write the custom resource definitions."),
}


class Lazy(click.Group):
    """Loads a command's module when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        module = importlib.import_module(entry[0])
        command: Any = getattr(module, cmd_name)
        if isinstance(command, typer.Typer):
            return typer.main.get_command(command)
        app = typer.Typer(add_completion=False)
        app.command(name=cmd_name)(command)
        return typer.main.get_command(app)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, what) for name, (_, what) in COMMANDS.items()])


@click.group(cls=Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="toolorchestra", prog_name="orchestra")
def orchestra() -> None:
    """Train a small language model to orchestrate larger models and tools."""


def main() -> None:
    """The console script."""
    sys.exit(orchestra.main(standalone_mode=True))
