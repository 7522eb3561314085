"""`orchestra`: the command line, for one machine and for a cluster. Each command has its own module.

A module is imported only when its command runs, so that `orchestra --help` does not import torch.
"""

from __future__ import annotations

import importlib
import inspect
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

from toolorchestra import __version__

COMMANDS = {
    "train": ("toolorchestra.cli.train", "Run an OrchestratorTraining on this machine."),
    "plan": ("toolorchestra.cli.plan", "Check before the start: resources, worst cost, what a cluster lacks."),
    "render": ("toolorchestra.cli.render", "Print every object that the operator would make."),
    "submit": ("toolorchestra.cli.submit", "Apply trainings and pools to a cluster."),
    "status": ("toolorchestra.cli.status", "Show the progress of a local run or a cluster training."),
    "logs": ("toolorchestra.cli.logs", "Print the logs of a local run or a cluster training."),
    "suspend": ("toolorchestra.cli.suspend", "Release a cluster training's compute, after a checkpoint."),
    "resume": ("toolorchestra.cli.resume", "Continue from the last checkpoint."),
    "cancel": ("toolorchestra.cli.cancel", "End a local run or a cluster training, after a checkpoint."),
    "get-model": ("toolorchestra.cli.get_model", "Copy a training's model from a cluster."),
    "runs": ("toolorchestra.cli.runs", "List the local runs, or show one."),
    "report": ("toolorchestra.cli.report", "Write a run's report.html and report.json."),
    "trace": ("toolorchestra.cli.trace", "Print one episode for a person to read."),
    "reward": ("toolorchestra.cli.reward", "Compute rewards offline, from a file or for a run."),
    "simulate": ("toolorchestra.cli.simulate", "Serve simulated experts."),
    "worker": ("toolorchestra.cli.worker", "Run a rollout worker."),
    "crds": ("toolorchestra.cli.crds", "Write the custom resource definitions."),
}


def paragraphs(text: str) -> str:
    """Return a docstring with each paragraph on one line, so that the terminal wraps the lines."""
    return "\n\n".join(" ".join(each.split()) for each in inspect.cleandoc(text).split("\n\n"))


class LazyGroup(TyperGroup):
    """Command group that imports a command's module when the command is used."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        command: Any = getattr(importlib.import_module(entry[0]), cmd_name.replace("-", "_"))
        if isinstance(command, typer.Typer):
            return get_command(command)
        app = typer.Typer(add_completion=False, context_settings=HELP)
        app.command(name=cmd_name, help=paragraphs(command.__doc__ or ""))(command)
        return get_command(app)

    def invoke(self, ctx: Any) -> Any:
        """Run the command. A damaged file of a run gives a message that names it and status 2, not a traceback."""
        from toolorchestra.ledger.journal import JournalError
        from toolorchestra.runs.run_dir import Unreadable

        try:
            return super().invoke(ctx)
        except (JournalError, Unreadable) as error:
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(2) from error

    def format_help(self, ctx: Any, formatter: Any) -> None:
        self.format_usage(ctx, formatter)
        self.format_help_text(ctx, formatter)
        with formatter.section("Commands"):
            formatter.write_dl([(name, what) for name, (_, what) in COMMANDS.items()])
        with formatter.section("Options"):
            formatter.write_dl([("--version", "Show the version."), ("-h, --help", "Show this message.")])


HELP = {"help_option_names": ["-h", "--help"]}
app = typer.Typer(cls=LazyGroup, add_completion=False, context_settings=HELP, no_args_is_help=True)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"orchestra {__version__}")
        raise typer.Exit


@app.callback()
def orchestra(
    version: Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True)] = False,
) -> None:
    """Train a small language model to orchestrate larger models and tools."""


def main() -> None:
    """Run the command line (entry point of the console script)."""
    app()


if __name__ == "__main__":
    main()
