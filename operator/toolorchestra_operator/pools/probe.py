"""Probes whether an expert answers, over HTTP: by the list of models, or by one paid token.

Invariants
- A reconcile never waits for a slow server: probes run outside it, one at a time per pool, and the last answer counts
  until the next probe is due. After a bad answer that is sooner; after a change of URL, model or key, at once.
- The key is sent only to the URL that it was given for: redirects are not followed, and `Connections` go nowhere else.
- Nothing of a reply is reported except its status, and whether the model was in it: otherwise, whoever may create a
  pool could read what only the operator can reach.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal

import aiohttp

from toolorchestra.api.conditions import Reason
from toolorchestra_operator.kubernetes.manifest import Key
from toolorchestra_operator.pools.connections import Connections, NotAllowed
from toolorchestra_operator.pools.reach import Reach

Kind = Literal["Models", "Completion"]

PERIODS: Final[Mapping[tuple[Kind, bool], float]] = {
    ("Models", True): 60.0,
    ("Models", False): 15.0,
    ("Completion", True): 600.0,
    ("Completion", False): 60.0,
}
"""Seconds from an answer to the next probe, by the kind of probe and whether the answer was good."""
TIMEOUTS: Final[Mapping[Kind, float]] = {"Models": 10.0, "Completion": 60.0}
PATIENCE_SECONDS: Final = 2.0
"""How long a reconcile waits for a running probe."""
_RETRY_SECONDS: Final = 1.0
_MOST_BYTES: Final = 4 << 20
_ENOUGH: Final = "output limit was reached"
"""Text of OpenAI's reasoning models, with 400, for a request for one token: the model did answer."""


@dataclass(frozen=True)
class Target:
    """What to probe. `max_tokens`: the server's name for the limit on output tokens."""

    kind: Kind
    url: str
    model: str
    key: str | None = field(default=None, repr=False)
    max_tokens: str = "max_tokens"
    inside: bool = False
    """In the cluster: no proxy."""


@dataclass(frozen=True)
class Answer:
    """The result of a probe."""

    kind: Kind
    reason: Reason
    message: str
    at: datetime
    served_model: str | None = None

    @property
    def ok(self) -> bool:
        """Whether the expert answered with the right model."""
        return self.reason is Reason.PROBE_ANSWERED

    @property
    def due(self) -> datetime:
        """When to probe again."""
        return self.at + timedelta(seconds=PERIODS[self.kind, self.ok])


@dataclass
class _Asked:
    target: Target
    answer: Answer | None = None
    task: asyncio.Task[None] | None = None


class _Failed(Exception):
    """A probe without a valid answer. `again`: another attempt may help."""

    def __init__(self, message: str, *, reason: Reason = Reason.PROBE_FAILED, again: bool = False) -> None:
        super().__init__(message)
        self.reason, self.again = reason, again


class Prober:
    """Sends probes, and stores answers by pool. Used in one event loop; `close` it."""

    def __init__(
        self,
        reach: Reach,
        *,
        patience: float = PATIENCE_SECONDS,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._patience, self._now = patience, now
        self._asked: dict[Key, _Asked] = {}
        self._connections = Connections(reach)

    async def answer(self, pool: Key, target: Target) -> Answer | None:
        """Return the last answer; None: there is none yet, or none from this target."""
        asked = self._asked.get(pool)
        if asked is None or asked.target != target:
            self.forget(pool)
            asked = self._asked[pool] = _Asked(target)
        if asked.task is None and (asked.answer is None or asked.answer.due <= self._now()):
            asked.task = asyncio.create_task(self._ask(asked), name=f"probe {pool}")
        if (task := asked.task) is not None:
            done, _ = await asyncio.wait({task}, timeout=self._patience)
            if done and not task.cancelled():
                task.result()  # raises an unexpected error
        return asked.answer

    def forget(self, pool: Key) -> None:
        """Forget a pool that is gone, or is not to be probed."""
        asked = self._asked.pop(pool, None)
        if asked is not None and asked.task is not None:
            asked.task.cancel()

    async def close(self) -> None:
        """End the probes and the connections."""
        tasks = [asked.task for asked in self._asked.values() if asked.task is not None]
        for pool in tuple(self._asked):
            self.forget(pool)
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._connections.close()

    async def _ask(self, asked: _Asked) -> None:
        target = asked.target
        try:
            served = await self._twice(target)
        except _Failed as failed:
            asked.answer = Answer(target.kind, failed.reason, str(failed), self._now())
        else:
            told = "lists the model" if target.kind == "Models" else "wrote a token"
            asked.answer = Answer(target.kind, Reason.PROBE_ANSWERED, f"it {told}", self._now(), served)
        finally:
            asked.task = None

    async def _twice(self, target: Target) -> str:
        """Probe, and repeat once after a dropped connection. A probe that may have cost money is not repeated."""
        try:
            return await self._once(target)
        except _Failed as failed:
            if not failed.again or target.kind == "Completion":
                raise
        await asyncio.sleep(_RETRY_SECONDS)
        return await self._once(target)

    async def _once(self, target: Target) -> str:
        """Return the name under which the model is served. _Failed: the reason why there is none."""
        base = target.url.rstrip("/")
        if target.kind == "Models":
            return _listed(target, await self._request(target, "GET", f"{base}/models"))
        body = {"model": target.model, "messages": [{"role": "user", "content": "ping"}], target.max_tokens: 1}
        await self._request(target, "POST", f"{base}/chat/completions", json=body)
        return target.model

    async def _request(self, target: Target, method: str, url: str, **body: Any) -> Mapping[str, Any]:
        headers = {"Authorization": f"Bearer {target.key}"} if target.key else {}
        timeout = aiohttp.ClientTimeout(total=TIMEOUTS[target.kind])
        try:
            async with asyncio.timeout(timeout.total):
                session, proxy = await self._connections.to(url, inside=target.inside)
            async with session.request(
                method, url, headers=headers, allow_redirects=False, timeout=timeout, proxy=proxy, **body
            ) as reply:
                text = await _read(reply)
        except TimeoutError as error:
            raise _Failed(f"no answer in {timeout.total:g} s", again=False) from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise _failed(error) from error
        parsed = _json(text)
        if reply.status == 200 and parsed is not None:
            return parsed
        if reply.status == 400 and _ENOUGH in _error(parsed):
            return {}
        raise _Failed(_refusal(reply.status), again=reply.status >= 500)


async def _read(reply: aiohttp.ClientResponse) -> bytes:
    found = bytearray()
    async for part in reply.content.iter_chunked(1 << 16):
        found += part
        if len(found) > _MOST_BYTES:
            raise _Failed(f"its reply is longer than {_MOST_BYTES >> 20} MiB")
    return bytes(found)


def _listed(target: Target, reply: Mapping[str, Any]) -> str:
    data = reply.get("data")
    listed = data if isinstance(data, list) else []
    served = [str(one["id"]) for one in listed if isinstance(one, Mapping) and "id" in one]
    if target.model in served:
        return target.model
    message = f"it does not list {target.model}: ask it for its models, with its key"
    raise _Failed(message, reason=Reason.WRONG_MODEL_SERVED)


def _json(text: bytes) -> Mapping[str, Any] | None:
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return parsed if isinstance(parsed, dict) else None


def _error(parsed: Mapping[str, Any] | None) -> str:
    """Return the text of `{"error": {"message": …}}` or `{"message": …}`, the forms of OpenAI-compatible servers."""
    error = (parsed or {}).get("error")
    return str(error.get("message") if isinstance(error, Mapping) else error or (parsed or {}).get("message"))


def _refusal(status: int) -> str:
    what = {
        200: "its reply is not JSON: is the URL that of an OpenAI-compatible API?",
        401: "the API key is refused, or missing",
        403: "the API key may not do this",
        404: "there is nothing at this URL: should it end in /v1?",
    }.get(status, "it answers with an error" if status >= 400 else "it redirects: give the URL that it redirects to")
    return f"HTTP {status}: {what}"


def _failed(error: Exception) -> _Failed:
    """Return the connection error in our words: the text of aiohttp's errors may contain what was read."""
    cause = getattr(error, "os_error", error)
    if isinstance(cause, NotAllowed):
        return _Failed(str(cause), reason=Reason.HOST_NOT_ALLOWED)
    match error:
        case aiohttp.ClientConnectorCertificateError():
            why = "its certificate is not trusted (caBundle of the chart is for certificates of your own)"
        case aiohttp.ClientConnectorError():
            why = f"cannot connect to {error.host}:{error.port}: {error.os_error.strerror or error.os_error}"
        case aiohttp.ClientHttpProxyError():
            why = f"the proxy answers with HTTP {error.status}"
        case aiohttp.ClientPayloadError():
            why = "its reply breaks off"
        case aiohttp.ClientConnectionError() | OSError():
            why = "it closed the connection"
        case aiohttp.InvalidURL() | ValueError():
            why = "its URL cannot be read"
        case _:
            why = "its reply is not HTTP"
    return _Failed(why, again=True)
