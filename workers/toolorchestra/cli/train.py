"""`orchestra train`: run an OrchestratorTraining on this machine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.text import Text

from toolorchestra.cli.say import fail
from toolorchestra.visible import visible


def train(
    files: Annotated[
        list[Path] | None,
        typer.Option("-f", "--file", help="YAML with the training and its pools; can be repeated.", metavar="FILE"),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the training, where the files have several.", metavar="NAME")
    ] = None,
    simulator: Annotated[
        Path | None, typer.Option(help="Skill table for experts whose URL has the host `simulator`.", metavar="FILE")
    ] = None,
    time_scale: Annotated[
        float, typer.Option(help="Share of each simulated latency to sleep: 1 is real time, 0 does not wait.", min=0.0)
    ] = 0.0,
    volume: Annotated[
        list[str] | None,
        typer.Option(
            help="Folder that stands for the volume pvc://CLAIM/… of the YAML; can be repeated.", metavar="CLAIM=DIR"
        ),
    ] = None,
    runs: Annotated[Path, typer.Option(help="Folder of all runs.")] = Path("runs"),
    seed: Annotated[int | None, typer.Option(help="Seed to use instead of spec.algorithm.seed.", min=0)] = None,
    device: Annotated[
        Literal["auto", "cpu", "cuda"],
        typer.Option(
            help="auto: this machine's GPUs, if the engine for them is installed (make setup GPU=1), otherwise the"
            " CPU; cuda: GPUs, or an error that says what is missing."
        ),
    ] = "auto",
    resume: Annotated[
        Path | None, typer.Option(help="Continue this run instead of starting one.", metavar="RUN")
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Only check whether it could run here.")] = False,
    check_acceptance: Annotated[
        bool,
        typer.Option(
            "--acceptance",
            "--bars",
            help="At the end, check the report against the demo's acceptance criteria; status 1 if one is missed.",
        ),
    ] = False,
) -> None:
    """Train an orchestrator on this machine: the same YAML as on a cluster.

    Starts a nats-server, Ray, vLLM, rollout workers and (with --simulator) simulated experts, shows the progress, and
    writes a report at the end. GPUs are used where there are any: trainer and engine share a single GPU; several are
    divided as `spec.ray` says. Ctrl-C stops after the current step, with a checkpoint; a second Ctrl-C stops at once.

    Example: orchestra train -f training.yaml -f pools.yaml --simulator skills.yaml --volume models=/data/models
    """
    if resume is not None:
        if device != "auto":
            fail(f"--device {device}: a run continues on the device that it was started on; remove it with --resume")
        from toolorchestra.cli.resume import resume_run

        resume_run(resume, runs=runs, check_acceptance=check_acceptance)
        return
    if not files:
        fail("no training given: orchestra train -f training.yaml [-f pools.yaml] [--simulator skills.yaml]")
    console = Console()
    from toolorchestra.cli.running import new_plan, run_to_the_end

    plan = new_plan(
        files,
        name=name,
        simulator=simulator,
        time_scale=time_scale,
        volumes=volume or [],
        seed=seed,
        device=device,
        env=os.environ,
    )
    if check:
        for note in plan.model_notes:
            console.print(Text(visible(f"model: {note}")), soft_wrap=True)
        for line in plan.summary:
            console.print(Text(visible(line)), soft_wrap=True)
        console.print(f"{plan.training.metadata.name}: could run here")
        return
    from toolorchestra.local.launch import new_run

    run_to_the_end(new_run(runs, plan, inputs=files), plan, console=console, check_acceptance=check_acceptance)
