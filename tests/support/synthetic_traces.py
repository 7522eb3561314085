"""Traces of an invented evaluation: enough of one for baselines, rows and reports to be checked against."""

from __future__ import annotations

import random
from decimal import Decimal

from toolorchestra.rollout.trace import (
    Call,
    Components,
    Ending,
    Meter,
    Sample,
    Sampling,
    Segment,
    Trace,
    Turn,
)
from toolorchestra.tools.view import ExpertView, InstanceView, Price

TOPICS = ("chain_sum", "letter_counting", "number_sorting", "spell_backward")
PRICES = {"generalist": 9, "counter": 2, "sorter": 1, "speller": 1}
SKILLS = {
    "generalist": (0.95, 0.7, 0.8, 0.6),
    "counter": (0.5, 0.95, 0.2, 0.1),
    "sorter": (0.2, 0.1, 0.95, 0.2),
    "speller": (0.1, 0.2, 0.1, 0.95),
}
SPECIALIST = ("generalist", "counter", "sorter", "speller")
VIEW = InstanceView(
    price_book="own",
    policy_price=Price(output_usd_per_million_tokens=Decimal("0.2")),
    experts=tuple(
        ExpertView(
            alias=alias,
            pool=pool,
            description=f"good at {TOPICS[i]}",
            price=Price(
                input_usd_per_million_tokens=Decimal(PRICES[pool]), output_usd_per_million_tokens=Decimal(PRICES[pool])
            ),
            latency_ms=1000 * PRICES[pool],
        )
        for i, (alias, pool) in enumerate(zip(("apple", "river", "stone", "cloud"), PRICES, strict=True))
    ),
)


def knows(pool: str, task: int) -> bool:
    """Whether this expert answers this task right: the same whoever asks."""
    return random.Random(f"{pool}:{task}").random() < SKILLS[pool][task % len(TOPICS)]


def trace(
    *,
    task: int,
    pool: str,
    purpose: str = "heldOut",
    outcome: float | None = None,
    by_policy: bool = True,
    ending: Ending = Ending.ANSWERED,
    group: int | None = None,
    sample: int = 0,
    cost: str | None = None,
    version: str = "0-3",
) -> Trace:
    """An episode that asked one expert. `outcome` overrides what the expert knows."""
    right = knows(pool, task)
    usd = Decimal(PRICES[pool]) * 300 / 1_000_000 if cost is None else Decimal(cost)
    own = Decimal("0.0000012") if by_policy else Decimal(0)
    seconds = float(PRICES[pool])
    scored = ending.treatment != "unscored"
    value = (float(right) if outcome is None else outcome) if scored else None
    answer = f"answer {task}" if right else f"{pool} guesses {task}"
    alias = next(e.alias for e in VIEW.experts if e.pool == pool)
    call = Call(
        tool="answer",
        name=pool,
        alias=alias,
        arguments={"model": alias},
        status="ok",
        observation=f"\\boxed{{{answer}}}",
        meter=Meter(
            tokens_in=200, tokens_out=100, nominal_usd=usd, actual_usd=usd, service_seconds=seconds, simulated=True
        ),
    )
    text = f"<think>{TOPICS[task % 4]}</think><tool_call>answer {alias}</tool_call>" if by_policy else ""
    sampled = Segment(token_ids=(1, 2, 3), trained=True, logprobs=(-0.1, -0.2, -0.3), version=version)
    return Trace(
        issue=f"demo.{task if group is None else group}.{sample}.0.0",
        task_id=f"{TOPICS[task % 4]}-{task}",
        instruction=f"Please do {TOPICS[task % 4]} number {task} <now>.",
        source="puzzles",
        topic=TOPICS[task % 4],
        purpose=purpose,
        view=VIEW,
        sampling=Sampling(seed=task),
        samples=(Sample(segments=(Segment(token_ids=(5, 6, 7)), sampled)),) if by_policy else (),
        turns=(Turn(text=text, calls=(call,), meter=Meter(tokens_in=60, tokens_out=12, nominal_usd=own)),),
        ending=ending,
        answer=answer,
        components=Components(
            outcome=value,
            cost_usd=usd + own,
            actual_usd=usd,
            service_seconds=seconds + 0.2,
            wall_seconds=seconds + 0.4,
            calls={pool: 1},
        ),
        worker="worker-0",
    )


def evaluation(*, tasks: int = 320) -> dict[str, list[Trace]]:
    """Systems of one suite: every expert alone, a policy that routes well, and one that routes at random."""
    rng = random.Random(7)
    systems = {f"always:{p}": [trace(task=t, pool=p, by_policy=False) for t in range(tasks)] for p in PRICES}
    systems["policy"] = [trace(task=t, pool=SPECIALIST[t % 4]) for t in range(tasks)]
    systems["initialPolicy"] = [trace(task=t, pool=rng.choice(list(PRICES)), version="0-0") for t in range(tasks)]
    return systems
