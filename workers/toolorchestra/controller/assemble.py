"""Makes training samples from scored traces: every token gets its episode's advantage.

Pure. Samples that fail a format or answer filter are left out of the loss only: the episode's reward still counts in
the group's mean and standard deviation (method.md §3).
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
    """The filters of `spec.algorithm.filters` that decide on single samples."""

    require_format: bool = True
    require_answer: bool = True


class TraceRefused(ControllerError, ValueError):
    """The trace cannot be trained on; the text says why."""


def check_sampling(sampling: Sampling) -> None:
    """TraceRefused unless temperature and top-p are 1.

    Importance ratios are valid only for tokens drawn from the model's own distribution (training.md, "Clipped").
    """
    if (sampling.temperature, sampling.top_p) != (1.0, 1.0):
        raise TraceRefused(
            f"sampled at temperature {sampling.temperature}, top-p {sampling.top_p}; training needs 1 and 1"
        )


def check_logprobs(trace: Trace) -> None:
    """TraceRefused where a sampled token has no valid log probability.

    A second check: a worker refuses such a generation itself (policy/engine.py).
    """
    for sample in trace.samples:
        for segment in sample.segments:
            if segment.trained and not all(map(is_logprob, segment.logprobs)):
                raise TraceRefused("the log probability of a sampled token is not valid")


def version_span(trace: Trace) -> tuple[PolicyVersion, PolicyVersion] | None:
    """Return the oldest and the newest version of the trace's sampled tokens; None where the policy sampled none."""
    texts = {s.version for sample in trace.samples for s in sample.segments if s.version is not None and s.logprobs}
    versions = [PolicyVersion.parse(text) for text in texts]
    if not versions:
        return None
    return min(versions, key=lambda v: (v.step, v.incarnation)), max(versions, key=lambda v: (v.step, v.incarnation))


def train_samples(
    trace: Trace, *, advantage: float, filters: SampleFilters, version: PolicyVersion | None = None
) -> Iterator[TrainSample]:
    """Yield the trace's samples that take part in the loss, each with the episode's advantage.

    `version`: the weights that the step begins from; tokens that they sampled are `fresh`.
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
    """Join a sample's segments into one TrainSample.

    After a weight update, an engine recomputes the whole context (engine_control.py). Tokens after the update therefore
    come from the new weights only, and a segment's version decides whether its tokens are fresh.
    """
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
