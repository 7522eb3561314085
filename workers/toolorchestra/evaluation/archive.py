"""Reads traces from a run's folder: the journal's accepted ones, and those of evaluations."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from toolorchestra.ledger.journal import Frame, Kind, read_frames, read_sealed
from toolorchestra.rollout.codec import decode_trace
from toolorchestra.rollout.trace import Trace

SUFFIX = ".traces"


class NotARun(Exception):
    """The folder is not a run's; the text says what is missing."""


def check_run(root: Path) -> None:
    """Raise NotARun unless the folder is a run's."""
    if not root.is_dir():
        raise NotARun(f"{root}: no such folder; `orchestra runs list` shows the existing runs")
    if not (root / "manifest.json").is_file():
        raise NotARun(f"{root}: has no manifest.json, so it is not a run's folder")


NOT_TRAINING = (Kind.NOTE, Kind.UNDECODABLE, Kind.EVALUATED)
"""Kinds of journal frames that are not training episodes; an evaluation's traces are also in its own file."""


def traces_in(path: Path) -> Iterator[Trace]:
    """Yield all traces of a journal's training episodes, or of an evaluation's file, whatever their result."""
    for frame in read_sealed(path) if path.suffix == SUFFIX else read_frames(path):
        if frame.kind not in NOT_TRAINING and frame.body:
            yield decode_trace(frame.body)


def accepted_frames(path: Path) -> list[Frame]:
    """Return the frames of the journal's accepted traces, still encoded, the oldest first."""
    return [frame for frame in read_frames(path) if frame.kind is Kind.ACCEPTED and frame.body]


def evaluation_traces(folder: Path) -> dict[str, dict[str, list[Trace]]]:
    """Return the traces of `<suite>/<system>.traces`, by suite and system."""
    suites: dict[str, dict[str, list[Trace]]] = {}
    for path in sorted(folder.glob(f"*/*{SUFFIX}")):
        traces = list(traces_in(path))
        if traces:
            suites.setdefault(path.parent.name, {})[path.name.removesuffix(SUFFIX)] = traces
    return suites


def lost_in(path: Path) -> int:
    """Return how many tasks of an evaluation's file ended without a trace."""
    return sum(frame.kind is Kind.UNSCORED and not frame.body for frame in read_sealed(path))


def lost_attempts(folder: Path) -> dict[str, dict[str, int]]:
    """Return, by suite and system, how many tasks of an evaluation ended without a trace (their worker was lost)."""
    suites: dict[str, dict[str, int]] = {}
    for path in sorted(folder.glob(f"*/*{SUFFIX}")):
        if lost := lost_in(path):
            suites.setdefault(path.parent.name, {})[path.name.removesuffix(SUFFIX)] = lost
    return suites


def training_spec(manifest: dict[str, Any]) -> dict[str, Any]:
    """Return the `spec` of the OrchestratorTraining in a manifest; empty where there is none."""
    resources = [manifest.get("training"), *manifest.get("resources", [])]
    for resource in resources:
        if isinstance(resource, dict) and "spec" in resource and resource.get("kind") in (None, "OrchestratorTraining"):
            return dict(resource["spec"])
    return {}


def expert_pools(manifest: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the `spec` of every ExpertPool in a manifest, by name."""
    resources = [*manifest.get("pools", []), *manifest.get("resources", [])]
    return {
        resource["metadata"]["name"]: dict(resource["spec"])
        for resource in resources
        if isinstance(resource, dict) and resource.get("kind", "ExpertPool") == "ExpertPool" and "metadata" in resource
    }
