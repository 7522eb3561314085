"""A real engine of the product and what is asked of it: samples with their log probabilities, as workers get them."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from gpu.place import Place
from toolorchestra.engines.arguments import EngineConfig
from toolorchestra.engines.server import EngineServer
from toolorchestra.engines.startup import Patience
from toolorchestra.policy.engine import Generation, GenerationParameters, VLLMEngine
from toolorchestra.trainer.batch import TrainSample

START_SECONDS = 240.0
STARTED_WITH = "0-0"
MODEL_LENGTH = 2048

Prompts = Sequence[Sequence[int]]


def engine_config(
    place: Place, model: Path, *, eager: bool, kv_bytes: int, at_a_time: int, head_float32: bool = False
) -> EngineConfig:
    """An engine beside a trainer: keys and values have a fixed room, so that neither disturbs the other's start."""
    return EngineConfig(
        model_dir=str(model),
        device=place.device,
        dtype="bfloat16" if place.cuda else "float32",
        max_model_len=MODEL_LENGTH,
        max_num_seqs=at_a_time,
        kv_cache_bytes=kv_bytes if place.cuda else None,
        gpu_memory_utilization=0.1,  # vLLM starts where so much is free; the room above is what counts
        eager=eager,
        head_float32=head_float32,
    )


@contextmanager
def launched(config: EngineConfig, *, log: Path) -> Iterator[EngineServer]:
    """Started and not waited for; ended at the end."""
    server = EngineServer(config, log=log)
    try:
        server.launch()
        yield server
    finally:
        server.stop(grace=0)


def wait_ready(server: EngineServer) -> None:
    server.wait_ready(Patience(total=START_SECONDS * (1 if server.config.device == "cuda" else 4)))


def random_prompts(count: int, *, tokens: int, vocabulary: int, seed: int) -> list[list[int]]:
    """Of one length, random token ids above the special ones."""
    rng = random.Random(seed)
    return [[rng.randrange(16, vocabulary) for _ in range(tokens)] for _ in range(count)]


@dataclass(frozen=True)
class Rollout:
    """What came back, in the order of the prompts, and in how many seconds altogether."""

    prompts: Prompts
    generations: Sequence[Generation]
    seconds: float

    @property
    def tokens(self) -> int:
        return sum(len(generation.token_ids) for generation in self.generations)

    @property
    def samples(self) -> list[TrainSample]:
        """As the trainer takes them; advantages alternate, so that a step on them changes something."""
        pairs = enumerate(zip(self.prompts, self.generations, strict=True))
        return [_sample(prompt, found, advantage=1.0 - 2.0 * (i % 2)) for i, (prompt, found) in pairs]


def _sample(prompt: Sequence[int], found: Generation, *, advantage: float) -> TrainSample:
    mask = [False] * len(prompt) + [True] * len(found.token_ids)
    return TrainSample([*prompt, *found.token_ids], mask, [0.0] * len(prompt) + list(found.logprobs), advantage)


def rollout(
    server: EngineServer, prompts: Prompts, *, tokens: int, at_a_time: int, temperature: float = 1.0
) -> Rollout:
    """Continue every prompt by `tokens` tokens (fewer where a model ends it), `at_a_time` requests in flight."""
    parameters = GenerationParameters(max_tokens=tokens, stop_token_ids=(), temperature=temperature)
    return asyncio.run(_ask(server.url, prompts, parameters, at_a_time))


async def _ask(url: str, prompts: Prompts, parameters: GenerationParameters, at_a_time: int) -> Rollout:
    gate = asyncio.Semaphore(at_a_time)
    connector = aiohttp.TCPConnector(limit=at_a_time)
    async with aiohttp.ClientSession(connector=connector) as session:
        engine = VLLMEngine(url, session=session)

        async def one(prompt: Sequence[int]) -> Generation:
            async with gate:
                return await engine.generate(prompt, parameters=parameters, started_with=STARTED_WITH)

        began = time.perf_counter()
        found = await asyncio.gather(*(one(prompt) for prompt in prompts))
        return Rollout(prompts, found, time.perf_counter() - began)
