"""How fast an engine writes: many requests, 256 at a time."""

from __future__ import annotations

from collections.abc import Iterator

from gpu.finding import Figure
from gpu.rollouts import random_prompts, rollout
from toolorchestra.engines.server import EngineServer

REQUESTS, PROMPT_TOKENS, OUTPUT_TOKENS, AT_A_TIME = 512, 1000, 256, 256
KV_BYTES = 38 * 10**9
"""Room for 256 sequences of 1,256 tokens of a Qwen3 with 28 layers: 114,688 bytes a token, 36.9 GB."""


def throughput(server: EngineServer, vocabulary: int, *, tiny: bool, name: str) -> Iterator[Figure]:
    """Output tokens a second, after a short run to warm up."""
    requests, before, after = (8, 60, 16) if tiny else (REQUESTS, PROMPT_TOKENS, OUTPUT_TOKENS)
    warm = random_prompts(min(requests, 32), tokens=before, vocabulary=vocabulary, seed=3)
    rollout(server, warm, tokens=8, at_a_time=AT_A_TIME)
    prompts = random_prompts(requests, tokens=before, vocabulary=vocabulary, seed=4)
    found = rollout(server, prompts, tokens=after, at_a_time=AT_A_TIME)
    yield Figure(name=f"{name}: {requests} requests of {before} + {after} tokens", value=found.seconds, unit="s")
    yield Figure(name=f"{name}: output", value=found.tokens / found.seconds, unit="tokens/s")
