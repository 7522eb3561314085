"""The live display of a run: a panel on a terminal, otherwise a line per step. It reads only the run's folder."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from toolorchestra.runs.run_dir import RunDir, rows_of
from toolorchestra.runs.step_row import SoundRow, sound, sound_rows, trained
from toolorchestra.visible import visible

REFRESH_SECONDS = 0.5


class Follower:
    """Reads the lines of a run's JSONL files that are new since the last call."""

    def __init__(self, run: RunDir) -> None:
        self._run = run
        self._metrics = self._size(run.metrics)
        self._events = self._size(run.events)

    @staticmethod
    def _size(path: Any) -> int:
        return int(path.stat().st_size) if path.exists() else 0

    def metrics(self) -> Iterator[dict[str, Any]]:
        self._metrics, rows = _new_lines(self._run.metrics, self._metrics)
        yield from rows

    def events(self) -> Iterator[dict[str, Any]]:
        self._events, rows = _new_lines(self._run.events, self._events)
        yield from rows


def _new_lines(path: Any, offset: int) -> tuple[int, list[dict[str, Any]]]:
    if not path.exists():
        return offset, []
    with path.open("rb") as file:
        file.seek(offset)
        data = file.read()
    whole = data[: data.rfind(b"\n") + 1]
    return offset + len(whole), rows_of(whole)[0]  # torn lines are reported elsewhere


def step_line(line: Mapping[str, Any], steps: int) -> str:
    """Return a step as one line of text; it says so where the step trained on nothing. "" for a line of no step."""
    row = sound(line)
    if row is None:
        return ""
    seconds = _figure(row["seconds"].get("total"), ".1f", unit=" s")
    head = f"step {row['step']:>4}/{steps}"
    if not row.get("episodes"):
        return f"{head}  no group taught anything: weights unchanged  {seconds}"
    if not trained(row):
        endings = ", ".join(f"{ending} {n:g}" for ending, n in sorted(row["endings"].items(), key=lambda e: -e[1])[:3])
        valid = _figure(row.get("valid_fraction"), ".0%")
        return f"{head}  nothing to train on: weights unchanged  valid outputs {valid}  ({endings})  {seconds}"
    reward = f"  reward {_figure(row['reward_mean'], '.3f')}" if "reward_mean" in row else ""
    return (
        f"{head}{reward}  accuracy {_figure(row.get('accuracy'), '.3f')}"
        f"  ${_figure(row.get('nominal_usd_per_task'), '.6f')}/task  entropy {_figure(row.get('entropy'), '.3f')}"
        f"  {_figure(row.get('tokens_per_second'), ',.0f')} tok/s"
        f"  idle {_figure(row.get('trainer_idle_fraction'), '.0%')}"
        f"  stale {_figure(row.get('staleness_mean'), '.1f')}  {seconds}"
    )


def _figure(value: float | None, form: str, *, unit: str = "") -> str:
    """Format a number for people; a dash where the row has none."""
    return "–" if value is None else f"{value:{form}}{unit}"


class Display:
    """The live display of a run; `show()` runs until it is cancelled."""

    def __init__(self, run: RunDir, *, steps: int, console: Console) -> None:
        self._run, self._steps, self._console = run, steps, console
        self._follow = Follower(run)
        self._rows: list[SoundRow] = []
        self._started = time.monotonic()
        self._message = run.read_status().get("message", "")  # the message of an earlier incarnation

    def say(self, message: str) -> None:
        """Print a line for people, above the panel."""
        self._console.print(Text(visible(message)), soft_wrap=True)  # never wrap lines that are piped

    async def show(self) -> None:
        """Show the run's progress until cancelled."""
        if self._console.is_terminal:
            with Live(self._panel(), console=self._console, refresh_per_second=4, transient=True) as live:
                while True:
                    self._look()
                    live.update(self._panel())
                    await asyncio.sleep(REFRESH_SECONDS)
        while True:
            for row in self._look():
                self.say(step_line(row, self._steps))
            await asyncio.sleep(REFRESH_SECONDS)

    def finish(self) -> None:
        """Print what is new since the last update."""
        for row in self._look():
            if not self._console.is_terminal:
                self.say(step_line(row, self._steps))

    def _look(self) -> list[SoundRow]:
        for event in self._follow.events():
            if event["event"] in ("restart", "engine", "failure", "evaluation", "incarnation", "empty_step"):
                self.say(f"· {event['message']}")
        message = self._run.read_status().get("message", "")
        if message and message != self._message and not self._console.is_terminal:
            self.say(f"· {message}")
        self._message = message
        rows = list(sound_rows(self._follow.metrics()))
        self._rows += [row for row in rows if row.get("episodes")]
        return rows

    def _panel(self) -> RenderableType:
        status = self._run.read_status()
        step = int(status.get("step", 0))
        head = Text.assemble(
            (self._run.name, "bold"),
            f"  {status.get('state', 'Starting')}  step {step}/{self._steps}  {self._eta(step)}",
        )
        table = Table.grid(padding=(0, 3))
        if self._rows:
            _fill(table, self._rows[-1], spent=float(status.get("spentUSD", 0)))
        if held_out := status.get("evaluation"):
            table.add_row("held out", f"{held_out['accuracy']:.1%}", "$/task", f"{held_out['nominalUSDPerTask']:.6f}")
        engines = status.get("engines", {})
        states = ", ".join(f"{n}: {e['state']} {e['version'] or ''}" for n, e in sorted(engines.items()))
        bar = ProgressBar(total=max(1, self._steps), completed=step, width=60)
        return Group(head, bar, table, Text(states, style="dim"), Text(visible(status.get("message", "")), style="dim"))

    def _eta(self, step: int) -> str:
        if not self._rows or step >= self._steps:
            return ""
        recent = self._rows[-10:]
        each = sum(row["seconds"].get("total", 0.0) for row in recent) / len(recent)
        left = int(each * (self._steps - step))
        return f"about {left // 60} min {left % 60:02d} s left"


def _fill(table: Table, row: SoundRow, *, spent: float) -> None:
    """Fill the panel's table with a step's numbers."""
    spread = "reward_mean" not in row
    reward = _figure(row.get("reward_std" if spread else "reward_mean"), ".3f")
    idle, total = row.get("trainer_idle_fraction"), row["seconds"].get("total")
    table.add_row("reward", f"± {reward}" if spread else reward, "accuracy", _figure(row.get("accuracy"), ".1%"))
    table.add_row("$/task", _figure(row.get("nominal_usd_per_task"), ".6f"), "spent", f"${spent:.4f}")
    table.add_row(
        "entropy", _figure(row.get("entropy"), ".3f"), "tokens/s", _figure(row.get("tokens_per_second"), ",.0f")
    )
    table.add_row(
        "valid", _figure(row.get("valid_fraction"), ".1%"), "stale", _figure(row.get("staleness_mean"), ".1f")
    )
    table.add_row("trainer idle", _figure(idle, ".0%"), "s/step", _figure(total, ".1f"))
    calls = sorted(row["calls"].items(), key=lambda item: -item[1])
    asked = max(1, sum(n for _, n in calls))
    table.add_row("experts", ", ".join(f"{name} {n / asked:.0%}" for name, n in calls[:4]))
    if not trained(row):
        table.add_row("trained on", Text("nothing: weights unchanged", style="bold yellow"))
