"""`orchestra reward`: compute rewards offline, for a file of components or for a run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from toolorchestra.plugins import is_plugin
from toolorchestra.rewards.components_file import ComponentsFileError, load_components
from toolorchestra.rewards.registry import COMBINERS, RewardConfig, build_combiner, reward_config


def reward(
    run: Annotated[Path | None, typer.Argument(help="A run's folder, or its name under runs/.")] = None,
    components: Annotated[
        Path | None, typer.Option(help="JSON file with one group: weights, tools, episodes.", metavar="FILE")
    ] = None,
    combiner: Annotated[
        str | None,
        typer.Option(
            help=f"{', '.join(COMBINERS)}, or a plug-in's package/Name; default: MinMaxDot, or the run's own."
        ),
    ] = None,
    weights: Annotated[
        str | None, typer.Option(help="Such as outcome=1,cost=0.5; default: those of the file or of the run.")
    ] = None,
    episodes: Annotated[
        Path | None, typer.Option(help="With RUN: file for one JSON line per episode.", metavar="FILE")
    ] = None,
    folder: Annotated[Path, typer.Option("--runs", help="The folder that holds the runs.")] = Path("runs"),
) -> None:
    """Compute rewards offline, for a file of components or for a run.

    With --components: print {"rewards": […], "advantages": […]} of that group. With RUN: compute the rewards of all
    accepted episodes with this combiner and these weights, and print a summary.
    """
    if (run is None) == (components is None):
        _fail("give either RUN or --components FILE, not both")
    try:
        if components is not None:
            _score_file(components, combiner=combiner, weights=weights)
        else:
            assert run is not None
            _score_run(run, runs=folder, combiner=combiner, weights=weights, episodes=episodes)
    except ValueError as error:
        _fail(str(error))


def _fail(message: str) -> NoReturn:
    for line in message.splitlines():
        typer.echo(f"error: {line}", err=True)
    raise typer.Exit(2)


def parse_combiner(text: str) -> str:
    """Return the combiner's name; ValueError lists the known ones."""
    if text not in COMBINERS and not is_plugin(text):
        raise ValueError(f"--combiner: {text!r} is not one of {', '.join(COMBINERS)}, nor package/Name of a plug-in")
    return text


def parse_weights(text: str) -> dict[str, float]:
    """Parse weights such as `outcome=1,cost=0.5`; ValueError names the part that is not NAME=NUMBER."""
    found: dict[str, float] = {}
    for part in text.split(","):
        name, separator, value = part.strip().partition("=")
        try:
            weight = float(value)
        except ValueError:
            separator = ""
        if not separator or not name:
            raise ValueError(f"--weights: {part.strip()!r} is not NAME=NUMBER (such as outcome=1,cost=0.5)")
        if name in found:
            raise ValueError(f"--weights: {name!r} is given twice")
        found[name] = weight
    return found


def _score_file(path: Path, *, combiner: str | None, weights: str | None) -> None:
    group = load_components(path).group()
    if weights is not None:
        group = replace(group, weights=parse_weights(weights))
    name = parse_combiner(combiner or "MinMaxDot")
    try:
        config = RewardConfig(combiner=name, weights=group.weights)
    except ValueError as error:
        raise ComponentsFileError(f"{path}: {error}") from error
    (result,) = build_combiner(config)([group])
    typer.echo(json.dumps({"rewards": list(result.rewards), "advantages": list(result.advantages)}))


def _score_run(run: Path, *, runs: Path, combiner: str | None, weights: str | None, episodes: Path | None) -> None:
    # Only a run needs the codec and the journal; a file of components does not.
    from toolorchestra.cli.runs import find_run
    from toolorchestra.evaluation.archive import accepted_frames, training_spec
    from toolorchestra.evaluation.rescore import episode_rows, rescore, summary
    from toolorchestra.ledger.journal import JournalError
    from toolorchestra.rollout.codec import decode_trace

    found = find_run(run, folder=runs)
    spec = training_spec(found.read_manifest())
    config = reward_config(spec)
    if weights is not None:
        config = replace(config, weights=parse_weights(weights), combiner=parse_combiner(combiner or config.combiner))
    elif combiner is not None:
        config = replace(config, combiner=parse_combiner(combiner))
    batch = (spec.get("algorithm") or {}).get("groupsPerStep")
    try:
        frames = accepted_frames(found.journal)
    except JournalError as error:
        raise ValueError(error) from error
    groups = rescore((decode_trace(f.body) for f in frames), config=config, groups_per_batch=batch)
    if episodes is not None:
        episodes.write_text("".join(json.dumps(row) + "\n" for row in episode_rows(groups)))
    typer.echo(json.dumps(summary(groups, config=config), indent=1))
