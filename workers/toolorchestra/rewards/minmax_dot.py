"""MinMaxDot: the published reward (arXiv 2511.21689, section 3; method.md §3).

Every component is scaled to [0, 1] over the group. The reward is its dot product with the weights; a wrong episode
gets 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from toolorchestra.rewards.columns import columns, is_constant, is_right, weighted_sums
from toolorchestra.rewards.component import GroupComponents
from toolorchestra.rewards.per_group import PerGroup


@dataclass(frozen=True, kw_only=True)
class MinMaxDot(PerGroup):
    """R = M_norm · P if right, else 0. M_norm = (M − min) / (max − min) over the group; 0 if max = min up to rounding.

    `min_range` (raw unit per component; empty for parity with the paper): a component with a smaller spread counts as
    constant, so that jitter is not scaled to the full range. Weights are in [0, 1].
    """

    gated = True

    def _rewards(self, group: GroupComponents) -> tuple[float, ...]:
        shares = [
            [group.weights[name] * share for share in self._stretched(name, values)]
            for name, values in columns(group).items()
        ]
        sums = weighted_sums(shares, siblings=len(group.episodes))
        return tuple(s if is_right(episode) else 0.0 for s, episode in zip(sums, group.episodes, strict=True))

    def _stretched(self, name: str, values: Sequence[float]) -> list[float]:
        if is_constant(name, values, min_range=self.min_range):
            return [0.0] * len(values)
        low, high = min(values), max(values)
        return [(v - low) / (high - low) for v in values]
