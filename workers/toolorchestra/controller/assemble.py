"""From scored traces to training samples: the group's components for the combiner, the advantage for every token.

Pure. A filter that the *episode* fails (format, answer) masks its samples from the loss only: its reward still counts
in
the group's mean and std (method.md §3).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from toolorchestra.controller.errors import ControllerError
from toolorchestra.policy.engine import is_logprob
from toolorchestra.policy.version import PolicyVersion
from toolorchestra.rollout.trace import Ending, Sample, Sampling, Trace
from toolorchestra.trainer.batch import TrainSample


@dataclass(frozen=True)
class SampleFilters:
    """`spec.algorithm.filters`, the part that looks at single samples."""

    require_format: bool = True
    require_answer: bool = True


class TraceRefused(ControllerError, ValueError):
    """The trace cannot be trained on; the text says why."""


def check_sampling(sampling: Sampling) -> None:
    """Importance ratios hold only for tokens drawn from the model's own distribution (training.md, "Clipped")."""
    if (sampling.temperature, sampling.top_p) != (1.0, 1.0):
        raise TraceRefused(
            f"sampled at temperature {sampling.temperature}, top-p {sampling.top_p}; training needs 1 and 1"
        )


def check_logprobs(trace: Trace) -> None:
    """TraceRefused where one is none. A worker refuses such a generation itself (policy/engine.py): the second line."""
    for sample in trace.samples:
        for segment in sample.segments:
            if segment.trained and not all(map(is_logprob, segment.logprobs)):
                raise TraceRefused("a sampled token has a log probability that is none")


def version_span(trace: Trace) -> tuple[PolicyVersion, PolicyVersion] | None:
    """Oldest and newest version among the trace's sampled tokens; None where the policy sampled nothing."""
    texts = {s.version for sample in trace.samples for s in sample.segments if s.version is not None and s.logprobs}
    versions = [PolicyVersion.parse(text) for text in texts]
    if not versions:
        return None
    return min(versions, key=lambda v: (v.step, v.incarnation)), max(versions, key=lambda v: (v.step, v.incarnation))


def train_samples(
    trace: Trace, *, advantage: float, filters: SampleFilters, version: PolicyVersion | None = None
) -> Iterator[TrainSample]:
    """The trace's samples that take part in the loss, each with the episode's advantage.

    `version` is that of the weights which the step begins from: tokens that they sampled are `fresh`.
    """
    check_sampling(trace.sampling)
    if filters.require_answer and trace.ending is not Ending.ANSWERED:
        return
    for sample in trace.samples:
        if filters.require_format and not sample.well_formed:
            continue
        if any(segment.trained for segment in sample.segments):
            yield _flatten(sample, advantage=advantage, version=None if version is None else str(version))


def _flatten(sample: Sample, *, advantage: float, version: str | None) -> TrainSample:
    """An engine that is updated computes the whole context of what it goes on with anew (engine_control.py), so tokens
    after a switch are the new weights' alone: a segment's version decides."""
    ids: list[int] = []
    mask: list[bool] = []
    fresh: list[bool] = []
    logprobs: list[float] = []
    for segment in sample.segments:
        n = len(segment.token_ids)
        ids += segment.token_ids
        mask += [segment.trained] * n
        fresh += [version is not None and segment.version == version] * n
        logprobs += segment.logprobs if segment.logprobs else [0.0] * n
    return TrainSample(token_ids=ids, loss_mask=mask, logprobs=logprobs, advantage=advantage, fresh=fresh)
