"""Formats trainings on a cluster for people: one as labelled lines, many as a table. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from toolorchestra.cluster_client.state import state_row

Json = Mapping[str, Any]


def lines(row: Json, events: Sequence[Json] = (), *, now: datetime) -> Iterator[tuple[str, str]]:
    """Yield one training's status for people, as pairs of label and text."""
    yield row["name"], row["state"]
    yield from _if_said("message", row["message"])
    if row["step"] is not None:
        progress = f" ({row['progressPercentage']} %)" if row["progressPercentage"] is not None else ""
        yield "step", f"{row['step']} of {row['steps'] or '?'}{progress}"
    for label, key in (("reward", "reward"), ("accuracy", "accuracy"), ("$/task", "usdPerTask")):
        yield from _if_said(label, row[key])
    if row["spentUSD"] is not None:
        yield "spent", f"${row['spentUSD']}"
    yield from _if_said("attempt", row["attempt"])
    yield from _if_said("restarts", row["restarts"] or None)
    yield from _if_said("policy", row["policyVersion"])
    yield from _if_said("provider", row["provider"])
    if row["checkpoint"]:
        yield "checkpoint", f"step {row['checkpoint']['step']}, {row['checkpoint']['uri']}"
    yield from _if_said("model", row["exportURI"])
    yield from _labelled("experts", (f"{one['name']} ({one['model']})" for one in row["experts"]))
    yield from _labelled("conditions", (_condition_line(one) for one in row["conditions"]))
    yield from _labelled("events", (_event_line(one, now) for one in events))
    yield from _if_said("next", row["next"])


def _if_said(label: str, value: Any) -> Iterator[tuple[str, str]]:
    if value not in (None, ""):
        yield label, str(value)


def _labelled(label: str, texts: Iterator[str]) -> Iterator[tuple[str, str]]:
    for index, text in enumerate(texts):
        yield label if index == 0 else "", text


def _condition_line(one: Json) -> str:
    return f"{one['type']:<14} {one['status']:<7} {one['reason']:<22} {one.get('message', '')}".rstrip()


def _event_line(event: Json, now: datetime) -> str:
    return f"{age(event_time(event), now):>5}  {event.get('reason', '')}: {event.get('message', '')}"


def event_time(event: Json) -> str:
    """Return when the event last occurred, as the API's timestamp; "" where it has none."""
    series = (event.get("series") or {}).get("lastObservedTime")
    metadata = event.get("metadata") or {}
    return str(
        series or event.get("lastTimestamp") or event.get("eventTime") or metadata.get("creationTimestamp") or ""
    )


TABLE = ("name", "status", "step", "reward", "accuracy", "$/task", "spent $", "age")


def table(trainings: Sequence[Json], *, now: datetime, namespaces: bool = False) -> Iterator[str]:
    """Yield a table's lines, in aligned columns that are never truncated, so that tools such as `cut` can read them."""
    rows: list[tuple[str, ...]] = [TABLE if not namespaces else ("namespace", *TABLE)]
    for training in trainings:
        row = state_row(training)
        texts = (
            row["name"],
            row["state"],
            f"{row['step'] or 0}/{row['steps'] or '?'}",
            *(
                str(row[key]) if row[key] is not None else "–"
                for key in ("reward", "accuracy", "usdPerTask", "spentUSD")
            ),
            age(row["created"] or "", now),
        )
        rows.append(texts if not namespaces else (row["namespace"], *texts))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    left = 3 if namespaces else 2
    for cells in rows:
        padded = (c.ljust(w) if i < left else c.rjust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True)))
        yield "  ".join(padded).rstrip()


def age(time: str, now: datetime) -> str:
    """Format the time since `time` as kubectl does: 12s, 5m, 3h, 8d."""
    if not time:
        return "–"
    seconds = int((now - datetime.fromisoformat(time).astimezone(UTC)).total_seconds())
    for size, unit, most in ((1, "s", 120), (60, "m", 7200), (3600, "h", 172_800)):
        if seconds < most:
            return f"{max(0, seconds) // size}{unit}"
    return f"{seconds // 86400}d"
