"""The root span of every training episode: open from its first dispatch to its final end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from opentelemetry.trace import Span

from toolorchestra.controller.assemble import version_span
from toolorchestra.rollout.identity import Dispatch, EpisodeId
from toolorchestra.rollout.trace import Trace
from toolorchestra.telemetry.spans import end_episode, headers_of, start_episode


@dataclass
class EpisodeSpans:
    """Open spans by episode. The `headers` go with an order, so that the worker's spans become children."""

    training: str
    _open: dict[EpisodeId, Span] = field(default_factory=dict[EpisodeId, Span])

    def headers(self, dispatch: Dispatch, *, task: str) -> Mapping[str, str]:
        """Return the trace headers of the episode's root span; the first dispatch opens it."""
        episode = dispatch.episode
        root = self._open.get(episode)
        if root is None:
            root = start_episode(training=self.training, task=task, group=episode.group, sample=episode.sample)
            self._open[episode] = root
        return headers_of(root)

    def accepted(self, dispatch: Dispatch, trace: Trace, *, step: int) -> None:
        """End the span of an episode whose result was accepted at `step`."""
        root = self._open.pop(dispatch.episode, None)
        if root is None:
            return
        span, parts = version_span(trace), trace.components
        end_episode(
            root,
            ending=trace.ending.value,
            dispatch=str(dispatch),
            policy_version=str(span[0]) if span else None,
            staleness=step - span[0].step if span else None,
            components={"outcome": parts.outcome, "cost": parts.cost_usd, "latency": parts.service_seconds},
            input_tokens=sum(turn.meter.tokens_in for turn in trace.turns),
            output_tokens=sum(turn.meter.tokens_out for turn in trace.turns),
            nominal_usd=parts.cost_usd,
            actual_usd=parts.actual_usd,
        )

    def excluded(self, episode: EpisodeId, reason: str) -> None:
        """End the span of an episode that infrastructure ended for good."""
        root = self._open.pop(episode, None)
        if root is not None:
            end_episode(root, ending=reason, failed=True)

    def close(self) -> None:
        """End all open spans as cancelled, because the incarnation ends."""
        for episode in list(self._open):
            self.excluded(episode, "cancelled")
