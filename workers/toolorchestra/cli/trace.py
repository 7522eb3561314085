"""`orchestra trace`: print one episode for a person to read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from toolorchestra.cli.runs import RUNS, Folder, find_run
from toolorchestra.evaluation.archive import traces_in
from toolorchestra.evaluation.exchange import exchange
from toolorchestra.rollout.identity import Dispatch
from toolorchestra.rollout.trace import Call, Trace, Turn
from toolorchestra.runs.run_dir import RunDir
from toolorchestra.visible import visible

_SHOWN = 1500
"""How many characters of a text are shown without `--full`."""
_PIPED = 250
"""Width of the table, in columns, where the output is not a terminal."""
_COLOURS = {"scored": "green", "zero": "yellow", "unscored": "red"}


def trace(
    run: Annotated[Path, typer.Argument(help="A run's folder, or its name under runs/.")],
    episode: Annotated[
        str | None,
        typer.Argument(help="GROUP.SAMPLE, a dispatch's id, a trace id, or `last`; default: list the episodes."),
    ] = None,
    folder: Folder = RUNS,
    evaluation: Annotated[
        str | None, typer.Option(help="Read this evaluation (SUITE/SYSTEM) instead of the journal.")
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="Show every text in full.")] = False,
    prompt: Annotated[
        bool, typer.Option("--prompt", help="Print exactly what the policy read and wrote: texts and token ids.")
    ] = False,
    model: Annotated[
        Path | None, typer.Option(help="With --prompt: the model folder, where the run's own is not on this machine.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the record as JSON.")] = False,
) -> None:
    """Print one episode: its task, each expert's price and description, every turn, its ending and its score.

    Example: orchestra trace router-20260101-120000 last --prompt
    """
    found_run = find_run(run, folder=folder)
    path = _source(found_run, evaluation=evaluation)
    console = Console(highlight=False, markup=False)  # names of pools, topics and tools come from elsewhere
    if episode is None:
        if not console.is_terminal:  # columns are not truncated, so that grep finds whole topics
            console = Console(highlight=False, markup=False, width=_PIPED)
        console.print(episode_list(map(shown, traces_in(path))))
        return
    found = [each for each in traces_in(path) if matches(each, episode)]
    if not found:
        typer.echo(f"error: no episode {episode!r} in {path}; `orchestra trace {run}` lists them", err=True)
        raise typer.Exit(2)
    if prompt:
        _print_exchange(found[-1], run=found_run.root, model=model, as_json=as_json)
        return
    if as_json:
        typer.echo(found[-1].model_dump_json(indent=1))
        return
    if len(found) > 1 and episode != "last":
        dispatches = ", ".join(each.issue for each in found)
        console.print(f"{len(found)} records of this episode ({dispatches}); showing the last", style="dim")
    for part in describe(shown(found[-1]), limit=None if full else _SHOWN):
        console.print(part)


def _source(run: RunDir, *, evaluation: str | None) -> Path:
    path = run.journal if evaluation is None else run.root / "evaluations" / f"{evaluation}.traces"
    if not path.is_file():
        typer.echo(f"error: {path}: no such file, so the run has no episode to show", err=True)
        raise typer.Exit(2)
    return path


def _print_exchange(trace: Trace, *, run: Path, model: Path | None, as_json: bool) -> None:
    """Print exactly what was sent and what came back: not truncated, coloured or wrapped.

    Control characters are made visible; `--json` has the raw text.
    """
    from toolorchestra.evaluation.episodes import find_decoder  # imports matplotlib, which is slow

    decode = find_decoder(run, model=model)
    if decode is None:
        typer.echo("error: no tokenizer.json in this run's folder or its model's: name one with --model DIR", err=True)
        raise typer.Exit(2)
    pieces = list(exchange(trace))
    if as_json:
        typer.echo(json.dumps([asdict(piece) | {"text": decode(piece.token_ids)} for piece in pieces], indent=1))
        return
    if not pieces:
        typer.echo(f"{trace.issue}: the policy was never asked: {trace.ending.value} {trace.detail}".rstrip())
    for piece in pieces:
        who = f"written by version {', '.join(piece.versions)}" if piece.written else "given"
        typer.echo(f"── sample {piece.sample}: {who}, {len(piece.token_ids)} tokens " + "─" * 30)
        typer.echo(visible(decode(piece.token_ids)))
        typer.echo(f"ids: {' '.join(map(str, piece.token_ids))}")


def matches(trace: Trace, wanted: str) -> bool:
    """Return whether `wanted` names this episode.

    `wanted` is `GROUP.SAMPLE`, `UID.GROUP.SAMPLE`, a dispatch's id or a trace id; `last` matches every episode.
    """
    episode = Dispatch.parse(trace.issue).episode
    return wanted in ("last", trace.issue, trace.trace_id, str(episode), f"{episode.group}.{episode.sample}")


def shown(trace: Trace) -> Trace:
    """Return the same episode with the control characters of all its texts made visible."""
    return Trace.model_validate(_visible(trace.model_dump()))


def _visible(value: Any) -> Any:
    match value:
        case StrEnum():
            return value
        case str():
            return visible(value)
        case dict():
            return {key: _visible(each) for key, each in value.items()}
        case list() | tuple():
            return [_visible(each) for each in value]
        case _:
            return value


def episode_list(traces: Iterator[Trace]) -> Table:
    """Return a table with one line per record."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("episode", "purpose", "system", "topic", "ending", "outcome", "asked", "$ nominal", "service s"):
        justify: Literal["left", "right"] = "right" if title in ("outcome", "$ nominal", "service s") else "left"
        table.add_column(title, justify=justify, no_wrap=True)
    for each in traces:
        found = Dispatch.parse(each.issue).episode
        made = each.components
        table.add_row(
            f"{found.group}.{found.sample}",
            each.purpose,
            each.system,
            each.topic,
            Text(each.ending.value, style=_COLOURS[each.ending.treatment]),
            _outcome(made.outcome),
            ", ".join(f"{name} ×{n}" for name, n in sorted(made.calls.items())) or "–",
            f"{made.cost_usd:.6f}",
            f"{made.service_seconds:.2f}",
        )
    return table


def describe(trace: Trace, *, limit: int | None) -> Iterator[Panel | Table | Text]:
    """Yield the parts of an episode's description, in the order in which things happened."""
    yield _heading(trace)
    yield Panel(_cut(trace.instruction, limit), title="task", title_align="left", border_style="blue")
    yield _experts(trace)
    if trace.view.preference is not None:
        yield Panel(Text(trace.view.preference.instruction), title="preference", title_align="left")
    for number, turn in enumerate(trace.turns, 1):
        yield from _turn(turn, number=number, limit=limit)
    yield _ending(trace)


def _heading(trace: Trace) -> Text:
    versions = sorted({s.version for sample in trace.samples for s in sample.segments if s.version is not None})
    who = f"policy version {', '.join(versions)}" if versions else trace.system
    facts = [
        trace.purpose,
        who,
        f"{trace.source}/{trace.topic}" if trace.topic else trace.source,
        f"task {trace.task_id}",
        f"worker {trace.worker}" if trace.worker else "",
        f"trace {trace.trace_id}" if trace.trace_id else "",
    ]
    return Text(trace.issue, style="bold").append(f"  {' · '.join(filter(None, facts))}", style="not bold dim")


def _experts(trace: Trace) -> Table:
    table = Table(title=f"experts (price book {trace.view.price_book})", title_justify="left", box=None, pad_edge=False)
    for title in ("alias", "is", "$/M in", "$/M out", "seconds", "description"):
        table.add_column(title, justify="right" if title[0] in "$s" else "left")
    for expert in trace.view.experts:
        price = expert.price
        table.add_row(
            expert.alias,
            expert.pool,
            f"{price.input_usd_per_million_tokens:f}",
            f"{price.output_usd_per_million_tokens:f}",
            f"{expert.latency_ms / 1000:g}",
            expert.description,
        )
    return table


def _turn(turn: Turn, *, number: int, limit: int | None) -> Iterator[Panel]:
    if turn.text or turn.rejection:
        meter = turn.meter
        used = f"{meter.tokens_in} → {meter.tokens_out} tokens, ${meter.nominal_usd:f}, {meter.service_seconds:.2f} s"
        refused = f" · refused: {turn.rejection}" if turn.rejection else ""
        yield Panel(
            _cut(turn.text, limit),
            title=Text(f"turn {number}: the policy wrote{refused}"),
            title_align="left",
            subtitle=Text(used),  # not in the title: a narrow terminal must not truncate the rejection's reason
            subtitle_align="left",
            border_style="red" if turn.rejection else "white",
        )
    for call in turn.calls:
        yield _call(call, limit=limit)


def _call(call: Call, *, limit: int | None) -> Panel:
    meter = call.meter
    used = (
        f"{meter.tokens_in} → {meter.tokens_out} tokens, ${meter.nominal_usd:f} nominal, ${meter.actual_usd:f} actual, "
        f"{meter.service_seconds:.2f} s{' simulated' if meter.simulated else ''}"
    )
    alias = f" (as {call.alias})" if call.alias else ""
    return Panel(
        _cut(call.observation, limit),
        title=Text(f"{call.tool}: {call.name}{alias} {call.status}"),
        title_align="left",
        subtitle=Text(used),
        subtitle_align="left",
        border_style="cyan" if call.status == "ok" else "red",
    )


def _ending(trace: Trace) -> Text:
    made, colour = trace.components, _COLOURS[trace.ending.treatment]
    text = Text(trace.ending.value, style=f"bold {colour}")
    if trace.answer is not None:
        text.append(f"  answer: {_cut(trace.answer, 200).plain}", style="not bold")
    text.append(f"  outcome {_outcome(made.outcome)}", style="bold")
    text.append(
        f"\n${made.cost_usd:f} nominal · ${made.actual_usd:f} actual · {made.service_seconds:.2f} s service · "
        f"{made.wall_seconds:.2f} s wall · {len(trace.samples)} samples · {trace.forks} forks",
        style="not bold default",
    )
    if trace.detail:
        text.append(f"\n{trace.detail}", style=colour)
    return text


def _outcome(outcome: float | None) -> str:
    return "not scored" if outcome is None else f"{outcome:g}"


def _cut(text: str, limit: int | None) -> Text:
    """Return at most `limit` characters as plain text: what a model wrote is never read as markup."""
    if limit is None or len(text) <= limit:
        return Text(text)
    return Text(f"{text[:limit]}… ({len(text) - limit} characters more; --full shows them)")
