"""Token-in, token-out generation by the policy: the vLLM client, and the types that it shares with its fakes.

Wire: `POST /inference/v1/generate` of vLLM 0.32 (`--enable-scale-out`), `{"token_ids", "sampling_params"}` in,
`choices[0].{token_ids, finish_reason, weight_versions, logprobs.content[].{token_id, logprob}}` out.

Invariants: every sampling parameter except the seed is sent, so no server default applies. Each output token has the
logprob under which it was sampled and the version of the weights that sampled it; otherwise `EngineLost` is raised.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import aiohttp

from toolorchestra.policy.errors import PolicyError
from toolorchestra.policy.version import PolicyVersion
from toolorchestra.telemetry.propagation import inject

UNLABELLED = "default"
"""vLLM's weight label before the first weight update. It means the weights that the engine was started with."""
_LEAST, _MOST = -9998.0, 0.01
"""Bounds of a valid log probability of a sampled token, rounding included. vLLM writes -9999 if the value is not a
number or the token was impossible: then the weights or the kernels of the engine are broken."""


def is_logprob(value: float) -> bool:
    """Return whether a number can be the log probability of a sampled token. False for NaN."""
    return _LEAST < value < _MOST


class EngineLost(PolicyError):
    """No generation came back, and the policy did not cause it. The episode is dispatched again and never scored."""


class NoEngine(EngineLost):
    """The training itself reports that no engine may be asked now. It will recover the engines.

    Nothing was generated, and the waiting time is not counted against any worker."""


class EngineRefusedConnection(EngineLost):
    """The engine did not take the request, so the request can go to another engine."""


@dataclass(frozen=True)
class GenerationParameters:
    """All sampling parameters of a generation (top-k, min-p and penalties are always off).

    There is no seed. vLLM 0.32 resets the random generator of a seeded request after a chunked prefill; CPU generators
    cannot do that, and the engine crashes. So the samples of a run cannot be reproduced, on any device.
    """

    max_tokens: int
    stop_token_ids: tuple[int, ...]
    temperature: float = 1.0
    top_p: float = 1.0

    def wire(self) -> dict[str, Any]:
        """Return vLLM's complete `SamplingParams`. `logprobs: 0` requests the logprob of the sampled token only."""
        return {
            "n": 1,
            "max_tokens": self.max_tokens,
            "min_tokens": 0,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": 0,
            "min_p": 0.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "repetition_penalty": 1.0,
            "stop_token_ids": list(self.stop_token_ids),
            "ignore_eos": False,
            "logprobs": 0,
            "detokenize": False,
            "skip_special_tokens": False,
        }


@dataclass(frozen=True)
class VersionSpan:
    """Output tokens `[start, end)` were sampled by the weights of `version`."""

    version: str
    start: int
    end: int


@dataclass(frozen=True)
class Generation:
    """One output of the policy. `spans` cover `token_ids` without a gap. `truncated`: cut at `max_tokens`."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    spans: tuple[VersionSpan, ...]
    truncated: bool = False
    tokens_cached: int = 0
    service_seconds: float = 0.0
    """Wall-clock time without waiting for an engine and without pauses of the engines."""
    wall_seconds: float = 0.0


class Engine(Protocol):
    """The interface to the policy that an episode needs."""

    async def generate(
        self, prompt: Sequence[int], *, parameters: GenerationParameters, version: str | None = None
    ) -> Generation:
        """Continue `prompt`. `version` pins the weights (evaluation). Raises EngineLost."""
        ...

    async def routable(self, *, version: str | None = None) -> None:
        """Return as soon as an engine may be asked.

        Raises EngineLost if no engine becomes available in time, NoEngine if the training reports so."""
        ...


class VLLMEngine:
    """Client of one vLLM server. The caller owns the aiohttp session: one per process, shared by all engines."""

    def __init__(self, url: str, *, session: aiohttp.ClientSession, timeout_seconds: float = 600.0) -> None:
        self.url = url.rstrip("/")
        self._session = session
        self._timeout = aiohttp.ClientTimeout(total=timeout_seconds, sock_connect=5.0)
        self._timeout_seconds = timeout_seconds

    async def generate(
        self,
        prompt: Sequence[int],
        *,
        parameters: GenerationParameters,
        version: str | None = None,
        started_with: str | None = None,
    ) -> Generation:
        """Send one request. `started_with` is the version of a server that has had no weight update yet.

        Raises EngineRefusedConnection if nothing was generated; EngineLost if something may have been generated but
        cannot be used.
        """
        begin = time.monotonic()
        body = {"token_ids": list(prompt), "sampling_params": parameters.wire(), "stream": False}
        try:
            async with self._session.post(
                f"{self.url}/inference/v1/generate", json=body, headers=inject(), timeout=self._timeout
            ) as response:
                if response.status == 503:
                    raise EngineRefusedConnection(f"engine {self.url} is not serving (503)")
                if response.status != 200:
                    text = (await response.text())[:500]
                    raise EngineLost(f"engine {self.url} answered {response.status}: {text}")
                payload = await response.json()
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise EngineRefusedConnection(f"engine {self.url} cannot be reached: {error}") from error
        except (aiohttp.ClientError, ValueError) as error:
            raise EngineLost(f"engine {self.url} broke the connection: {type(error).__name__}: {error}") from error
        except TimeoutError as error:
            raise EngineLost(f"engine {self.url} gave no answer in {self._timeout_seconds:g} s") from error
        elapsed = time.monotonic() - begin
        generation = read_generation(payload, started_with=started_with, elapsed=elapsed, source=self.url)
        if version is not None and any(span.version != version for span in generation.spans):
            raise EngineLost(f"pinned to policy version {version}, but engine {self.url} used {generation.spans}")
        return generation


def read_generation(payload: Mapping[str, Any], *, started_with: str | None, elapsed: float, source: str) -> Generation:
    """Return the first choice of a vLLM answer. EngineLost if ids, logprobs and spans do not match each other."""
    try:
        choice = payload["choices"][0]
        token_ids = tuple(choice["token_ids"])
        content = choice["logprobs"]["content"] or []
        sampled = tuple(entry["token_id"] for entry in content)
        logprobs = tuple(float(entry["logprob"]) for entry in content)
        reason = choice["finish_reason"]
        labels = choice.get("weight_versions") or [{"version": UNLABELLED, "start": 0, "end": len(token_ids)}]
        spans = tuple(_span(label, started_with=started_with) for label in labels)
        cached = ((payload.get("usage") or {}).get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise EngineLost(f"engine {source} gave an unreadable answer: {type(error).__name__}: {error}") from error
    if reason not in ("stop", "length"):
        raise EngineLost(f"engine {source} ended the generation with {reason!r}")
    if broken := [value for value in logprobs if not is_logprob(value)]:
        raise EngineLost(f"engine {source} gave {len(broken)} invalid log probabilities, such as {broken[0]}")
    if not token_ids or sampled != token_ids:
        raise EngineLost(f"engine {source}: {len(token_ids)} token ids do not match {len(sampled)} logprobs")
    starts = [0, *(span.end for span in spans)]
    if [span.start for span in spans] != starts[:-1] or starts[-1] != len(token_ids):
        raise EngineLost(f"engine {source}: weight version spans {spans} do not cover {len(token_ids)} tokens")
    return Generation(
        token_ids=token_ids,
        logprobs=logprobs,
        spans=spans,
        truncated=reason == "length",
        tokens_cached=cached,
        service_seconds=elapsed,
        wall_seconds=elapsed,
    )


def _span(label: Mapping[str, Any], *, started_with: str | None) -> VersionSpan:
    version = label["version"]
    if version == UNLABELLED and started_with is not None:
        version = started_with
    return VersionSpan(str(PolicyVersion.parse(version)), label["start"], label["end"])
