"""Trials of the demo's recipe in one process: warm start, reinforcement learning, evaluation, all in plain torch.

The real parts: prompts, chat template, parser, combiners, objective, tasks and skill table. The stand-ins: the engine
is `Tiny`, the simulator a function, and staleness a queue of batches. What holds here is what the recipe can do;
whether the whole system does it is for `make demo` to show.
"""

from __future__ import annotations

import copy
import random
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from toolorchestra.controller.format_traces import naive_route
from toolorchestra.policy.parser import Rules, parse
from toolorchestra.policy.prompts import qa_messages, qa_tools
from toolorchestra.policy.renderer import Renderer
from toolorchestra.rewards.component import Combiner, EpisodeComponents, GroupComponents
from toolorchestra.tasks.task import Task
from toolorchestra.tools.view import InstanceView
from toolorchestra.trainer.objectives.clipped import Clipped
from toolorchestra.trainer.objectives.objective import LossInputs

from .tiny import Tiny
from .world import Outcome

Instance = tuple[Task, InstanceView]
Judge = Callable[[Task, InstanceView, str], Outcome]
"""(task, view, pool chosen) → what that gives."""
Router = Callable[[Task, InstanceView, random.Random], Sequence[str]]
"""What the warm start imitates on one instance: traces, as many for every instance."""
RULES = Rules(call_required=True, max_calls=6, one_per_tool=True)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """As in training.yaml."""

    combiner: Combiner
    weights: dict[str, float]
    steps: int
    groups: int = 16
    siblings: int = 16
    rate: float = 5e-4
    entropy: float = 0.01
    kl: float = 0.0
    """Weight of the distance (k3) from the policy after the warm start."""
    staleness: int = 0
    draws: int = 1
    """How often groups are drawn until a step has all it asks for: 1 is `Shrink` of training.yaml, more is `Refill`."""
    max_tokens: int = 32
    warm_steps: int = 60
    warm_rate: float = 5e-4
    warm_batch: int = 32


@dataclass(frozen=True)
class Choice:
    """One episode: the pool that was called, None where there was no valid call."""

    pool: str | None
    right: bool
    usd: float
    seconds: float


@dataclass
class Batch:
    prompts: list[list[int]]
    completions: list[list[int]]
    logprobs: Tensor
    advantages: list[float]
    choices: list[Choice] = field(default_factory=list)


def naive_router(task: Task, view: InstanceView, rng: random.Random) -> list[str]:
    """The demo's own: one trace of `format_traces`."""
    return [naive_route(task, view, rng)]


class Trial:
    """One run: a model, its optimizer, a stream of instances and a judge."""

    def __init__(
        self,
        tiny: Tiny,
        renderer: Renderer,
        *,
        recipe: Recipe,
        instances: Callable[[int], Instance],
        judge: Judge,
        seed: int,
    ) -> None:
        self.tiny, self.renderer, self.recipe, self.seed = tiny, renderer, recipe, seed
        self.instances, self.judge = instances, judge
        self.stop = renderer.stop_token_ids[0]
        self.optimizer = torch.optim.AdamW(
            tiny.model.parameters(), lr=recipe.rate, betas=(0.9, 0.999), weight_decay=0.0
        )
        self.generator = torch.Generator().manual_seed(seed)
        self.clipped = Clipped(
            clip_low=0.2, clip_high=0.28, entropy_coefficient=recipe.entropy, kl_coefficient=recipe.kl
        )
        self.reference = self._copy()
        self.queue: deque[Batch] = deque()
        self.next_group = 0

    def _copy(self) -> Tiny | None:
        """The model as it is, frozen, if the recipe asks for a reference."""
        return Tiny(copy.deepcopy(self.tiny.model).requires_grad_(False)) if self.recipe.kl else None

    def prompt(self, instance: Instance) -> list[int]:
        task, view = instance
        return list(self.renderer.render(qa_messages(task, view), tools=qa_tools(view)))

    # -- warm start ----------------------------------------------------------------------------------------------

    def warm_start(self, instances: Callable[[int], Instance], *, router: Router | None = None) -> float:
        """Imitate `router`, by default the naive one; returns the last loss."""
        rng = random.Random(f"{self.seed}/warm-start")
        loss = torch.zeros(())
        for step in range(self.recipe.warm_steps):
            batch = [instances(step * self.recipe.warm_batch + i) for i in range(self.recipe.warm_batch)]
            prompts = [self.prompt(instance) for instance in batch]
            texts = [text for task, view in batch for text in (router or naive_router)(task, view, rng)]
            completions = [[*self.renderer.encode(text), self.stop] for text in texts]
            logprobs, _, mask = self.tiny.logprobs(prompts, completions)
            loss = -logprobs[mask].mean()
            self._apply(loss, self.recipe.warm_rate)
        self.reference = self._copy()
        return loss.item()

    def _apply(self, loss: Tensor, rate: float) -> None:
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.tiny.model.parameters(), 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()

    # -- reinforcement learning ----------------------------------------------------------------------------------

    def step(self) -> dict[str, float]:
        """Generate a batch, train on the one that is `staleness` steps old."""
        self.queue.append(self._generate())
        while len(self.queue) <= self.recipe.staleness:
            self.queue.append(self._generate())
        batch = self.queue.popleft()
        if not batch.prompts:
            return self._summary(batch, entropy=0.0)
        logprobs, entropy, mask = self.tiny.logprobs(batch.prompts, batch.completions)
        advantages = torch.tensor(batch.advantages)[:, None].expand_as(mask)
        n = int(mask.sum())
        reference = None
        if self.reference is not None:
            with torch.no_grad():
                reference = self.reference.logprobs(batch.prompts, batch.completions)[0][mask]
        outputs = self.clipped(
            LossInputs(
                logprobs=logprobs[mask],
                entropy=entropy[mask],
                sampler_logprobs=batch.logprobs[mask],
                advantages=advantages[mask],
                weights=torch.full((n,), 1.0 / n),
                reference_logprobs=reference,
            )
        )
        self._apply(outputs.loss, self.recipe.rate)
        return self._summary(batch, entropy=float(outputs.sums["entropy"]))

    def _summary(self, batch: Batch, *, entropy: float) -> dict[str, float]:
        c = batch.choices
        used = Counter(choice.pool for choice in c)
        return {
            "right": sum(x.right for x in c) / len(c),
            "usd": sum(x.usd for x in c) / len(c),
            "valid": sum(x.pool is not None for x in c) / len(c),
            "entropy": entropy,
            "top": max(used.values()) / len(c),
            "groups": len(batch.prompts),
        }

    def _generate(self) -> Batch:
        """The groups that a step trains on: those that the filter drops are drawn again, `draws` times in all."""
        kept = Batch([], [], torch.zeros(0, 0), [])
        rows: list[Tensor] = []
        for _ in range(self.recipe.draws):
            batch, drawn = self._attempts(self.recipe.groups - len(kept.prompts))
            kept.choices += drawn
            kept.prompts += batch.prompts
            kept.completions += batch.completions
            kept.advantages += batch.advantages
            rows += list(batch.logprobs)
            if len(kept.prompts) == self.recipe.groups:
                break
        if rows:
            kept.logprobs = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        return kept

    def _attempts(self, count: int) -> tuple[Batch, list[Choice]]:
        """Episodes of the next `count` groups: those that are kept, and all choices made."""
        r = self.recipe
        drawn = [self.instances(self.next_group + i) for i in range(count)]
        self.next_group += count
        prompts = [self.prompt(instance) for instance in drawn]
        completions = self.tiny.generate(
            prompts, siblings=r.siblings, limit=r.max_tokens, stop=self.stop, generator=self.generator
        )
        choices = [self.choice(drawn[i // r.siblings], prompts[i // r.siblings], c) for i, c in enumerate(completions)]
        rewards = r.combiner([self._components(drawn[g], choices, g) for g in range(count)])
        keep = [g for g, reward in enumerate(rewards) if reward.keep]
        spans = [i for g in keep for i in range(g * r.siblings, (g + 1) * r.siblings)]
        batch = Batch(
            [prompts[g] for g in keep],
            [completions[i] for i in spans],
            torch.zeros(0, 0),
            [a for g in keep for a in rewards[g].advantages],
        )
        if keep:
            with torch.no_grad():
                batch.logprobs, _, _ = self.tiny.logprobs(batch.prompts, batch.completions)
        return batch, choices

    def _components(self, instance: Instance, choices: Sequence[Choice], group: int) -> GroupComponents:
        n = self.recipe.siblings
        episodes = [
            EpisodeComponents(
                outcome=float(c.right), cost=c.usd, latency=c.seconds, calls={c.pool: 1} if c.pool else {}
            )
            for c in choices[group * n : (group + 1) * n]
        ]
        return GroupComponents(
            episodes=episodes, weights=self.recipe.weights, tools=[e.pool for e in instance[1].experts]
        )

    def choice(self, instance: Instance, prompt: Sequence[int], completion: Sequence[int]) -> Choice:
        """What one completion led to; the policy's own tokens are paid, too."""
        task, view = instance
        own = float(view.policy_price.of(tokens_in=len(prompt), tokens_out=len(completion), calls=0))
        if not completion or completion[-1] != self.stop:
            return Choice(None, False, own, 0.0)
        parsed = parse(self.renderer.decode(completion), tools=qa_tools(view), rules=RULES)
        expert = view.expert(parsed.calls[0].arguments["model"]) if parsed.calls else None
        if expert is None:
            return Choice(None, False, own, 0.0)
        outcome = self.judge(task, view, expert.pool)
        return Choice(expert.pool, outcome.right, own + outcome.usd, outcome.seconds)

    # -- evaluation ----------------------------------------------------------------------------------------------

    def evaluate(self, instances: Sequence[Instance]) -> list[Choice]:
        """Greedy, one episode per instance."""
        found: list[Choice] = []
        for start in range(0, len(instances), 60):
            part = instances[start : start + 60]
            prompts = [self.prompt(instance) for instance in part]
            completions = self.tiny.generate(
                prompts, siblings=1, limit=self.recipe.max_tokens, stop=self.stop, greedy=True
            )
            found += [self.choice(*row) for row in zip(part, prompts, completions, strict=True)]
        return found


@dataclass(frozen=True)
class Score:
    accuracy: float
    usd: float

    @classmethod
    def of(cls, choices: Sequence[Choice]) -> Score:
        return cls(sum(c.right for c in choices) / len(choices), sum(c.usd for c in choices) / len(choices))


def alone(instances: Sequence[Instance], judge: Judge, pool: str) -> list[Choice]:
    """`always:<pool>`: one direct call per task."""
    outcomes = [judge(task, view, pool) for task, view in instances]
    return [Choice(pool, o.right, o.usd, o.seconds) for o in outcomes]


def best_alone(instances: Sequence[Instance], judge: Judge) -> tuple[str, Score]:
    """The best single expert and its score."""
    pools = sorted(e.pool for e in instances[0][1].experts)
    scores = {pool: Score.of(alone(instances, judge, pool)) for pool in pools}
    best = min(pools, key=lambda p: (-scores[p].accuracy, scores[p].usd))
    return best, scores[best]


def now() -> float:
    return time.process_time()
