"""Preferences from templates: an instruction in words, and a weight vector with the same meaning (method.md §3).

Offline: no model writes or checks them. A template reads the attributes of the instance's experts (private, price,
latency). It returns an instruction with *aliases*, the only names that the policy sees, and weights keyed by *pool*, as
rewards are. Wordings are split: those of `evaluation` are never trained on. Everything is a pure function of (experts,
private pools, split, seed, key).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from toolorchestra.rewards.columns import COST, LATENCY, OUTCOME
from toolorchestra.tools.view import ExpertView, InstanceView, Preference

PreferenceSplit = Literal["train", "evaluation"]
PreferenceKind = Literal["private", "cheap", "fast", "avoid", "prefer"]

_FULL, _SOME, _NONE = Decimal(1), Decimal("0.3"), Decimal(0)


@dataclass(frozen=True)
class Wish:
    """The result of a template: `subject` fills the wording (aliases), `weights` is keyed by pool."""

    subject: str
    weights: dict[str, Decimal]


Template = Callable[[Sequence[ExpertView], Collection[str], random.Random], Wish | None]
"""Returns None if the template does not apply to these experts (none is private, or all are equal)."""


def _vector(*, cost: Decimal, latency: Decimal, tools: dict[str, Decimal] | None = None) -> dict[str, Decimal]:
    return {OUTCOME: _FULL, COST: cost, LATENCY: latency, **(tools or {})}


def _aliases(experts: Sequence[ExpertView]) -> str:
    names = [e.alias for e in experts]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _private(experts: Sequence[ExpertView], private: Collection[str], rng: random.Random) -> Wish | None:
    inside = [e for e in experts if e.pool in private]
    if not inside or len(inside) == len(experts):
        return None
    return Wish(_aliases(inside), _vector(cost=_SOME, latency=_NONE, tools={e.pool: _FULL for e in inside}))


def _cheap(experts: Sequence[ExpertView], private: Collection[str], rng: random.Random) -> Wish | None:
    if len({e.price for e in experts}) < 2:
        return None
    return Wish("", _vector(cost=_FULL, latency=_NONE))


def _fast(experts: Sequence[ExpertView], private: Collection[str], rng: random.Random) -> Wish | None:
    if len({e.latency_ms for e in experts}) < 2:
        return None
    return Wish("", _vector(cost=_NONE, latency=_FULL))


def _avoid(experts: Sequence[ExpertView], private: Collection[str], rng: random.Random) -> Wish | None:
    # Weights are never negative, so avoiding one expert is expressed as a reward for all others.
    if len(experts) < 2:
        return None
    avoided = rng.choice(experts)
    others = {e.pool: _FULL for e in experts if e.pool != avoided.pool}
    return Wish(avoided.alias, _vector(cost=_SOME, latency=_NONE, tools=others))


def _prefer(experts: Sequence[ExpertView], private: Collection[str], rng: random.Random) -> Wish | None:
    if len(experts) < 2:
        return None
    preferred = rng.choice(experts)
    return Wish(preferred.alias, _vector(cost=_SOME, latency=_NONE, tools={preferred.pool: _FULL}))


TEMPLATES: dict[PreferenceKind, Template] = {
    "private": _private,
    "cheap": _cheap,
    "fast": _fast,
    "avoid": _avoid,
    "prefer": _prefer,
}

WORDINGS: dict[PreferenceKind, dict[PreferenceSplit, tuple[str, ...]]] = {
    "private": {
        "train": (
            "Keep my data in house: ask only {0}.",
            "This is confidential, so please use {0} and nothing outside.",
            "For privacy, rely on {0}.",
        ),
        "evaluation": ("My question must not leave our servers; {0} may see it.",),
    },
    "cheap": {
        "train": ("Please keep the cost low.", "Spend as little as you can.", "I have a small budget: be cheap."),
        "evaluation": ("Money is tight, so go for the least expensive way.",),
    },
    "fast": {
        "train": ("I need the answer fast.", "Please be quick, whatever it costs.", "Speed matters most."),
        "evaluation": ("There is no time to lose; take the quickest way.",),
    },
    "avoid": {
        "train": ("Please avoid {0}.", "Do not use {0}.", "I would rather not involve {0}."),
        "evaluation": ("Anyone but {0}, please.",),
    },
    "prefer": {
        "train": ("Please use {0} where you can.", "I prefer {0}.", "Ask {0} if possible."),
        "evaluation": ("I trust {0} more than the others.",),
    },
}


def sample_preference(
    *,
    experts: Sequence[ExpertView],
    seed: int,
    key: str,
    private: Collection[str] = (),
    split: PreferenceSplit = "train",
    kinds: Sequence[PreferenceKind] = tuple(TEMPLATES),
) -> Preference | None:
    """Draw one preference that fits these experts. None if no template of `kinds` fits.

    `key` names the instance (such as a group's number): equal arguments give an equal preference. `private` has the
    pools that run in house.
    """
    rng = random.Random(f"preference:{seed}:{split}:{key}")
    ordered = sorted(experts, key=lambda e: e.pool)
    for kind in rng.sample(list(kinds), k=len(kinds)):
        wish = TEMPLATES[kind](ordered, private, rng)
        if wish is not None:
            wording = rng.choice(WORDINGS[kind][split])
            return Preference(instruction=wording.format(wish.subject), weights=wish.weights)
    return None


@dataclass(frozen=True, kw_only=True)
class TemplatePreferences:
    """`spec.preferences` without a file: this `fraction` of the instances has a preference, the same ones every run."""

    fraction: float
    seed: int
    private: frozenset[str] = frozenset()
    split: PreferenceSplit = "train"
    kinds: tuple[PreferenceKind, ...] = tuple(TEMPLATES)

    def attach(self, view: InstanceView, *, key: str) -> InstanceView:
        """Return the view with a preference, or unchanged if the draw says none or no template fits."""
        if random.Random(f"carries:{self.seed}:{self.split}:{key}").random() >= self.fraction:
            return view
        preference = sample_preference(
            experts=view.experts,
            seed=self.seed,
            key=key,
            private=self.private,
            split=self.split,
            kinds=self.kinds,
        )
        return view if preference is None else view.model_copy(update={"preference": preference})
