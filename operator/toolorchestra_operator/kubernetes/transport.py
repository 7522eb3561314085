"""One HTTP request to the API server over the official client's connection, and its result."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import parse_qsl

import aiohttp
from kubernetes.aio.client import ApiClient, Configuration

from toolorchestra.kube.errors import Unavailable, failure
from toolorchestra_operator.kubernetes.json_text import decoded
from toolorchestra_operator.kubernetes.manifest import Ref

Json = dict[str, Any]
Count = Callable[[str, str, str], None]
"""Called for every request: verb, kind, HTTP code ("timeout" or "unreachable" if there was no answer)."""


def uncounted(verb: str, kind: str, code: str) -> None:
    """Count nothing."""


class Transport:
    """Authenticates, sends, and reads. Every request ends within `timeout` seconds."""

    def __init__(self, configuration: Configuration, *, timeout: float, user_agent: str, count: Count) -> None:
        self._client = ApiClient(configuration)
        self._client.user_agent = user_agent
        self._timeout = aiohttp.ClientTimeout(total=timeout)
        self._count = count

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()  # type: ignore[no-untyped-call]

    async def request(
        self,
        verb: str,
        method: str,
        path: str,
        *,
        about: Ref,
        body: Mapping[str, Any] | Sequence[Any] | str | None = None,
        content: str = "application/json",
        **query: str,
    ) -> Json:
        """Send a request; return the answer's JSON. `path` may have its own query; parameters that are "" are left out.

        Raises: the errors of `toolorchestra.kube.errors`.
        """
        path, _, own = path.partition("?")
        code, resource = "unreachable", named(about)
        try:
            prepared = await self._client.param_serialize(
                method=method,
                resource_path=path,
                query_params=[*parse_qsl(own), *((key, value) for key, value in query.items() if value)],
                header_params={"Accept": "application/json", "Content-Type": content},
                body=body,
                auth_settings=["BearerToken"],
            )
            response = await self._client.call_api(*prepared, _request_timeout=self._timeout)
            text: bytes = await response.read()  # type: ignore[no-untyped-call]
            code = str(response.status)
        except TimeoutError as error:
            code = "timeout"
            raise Unavailable(f"no answer in {self._timeout.total:g} s", verb=verb, resource=resource) from error
        except (aiohttp.ClientError, OSError) as error:
            raise Unavailable(str(error) or type(error).__name__, verb=verb, resource=resource) from error
        finally:
            self._count(verb, about.kind, code)
        answer = _answer(text)
        if 200 <= response.status <= 299 and isinstance(answer, dict):
            return answer
        after = response.headers.get("Retry-After", "")
        seconds = float(after) if after.isdigit() else None
        raise failure(response.status, answer, verb=verb, resource=resource, retry_after=seconds)


def named(ref: Ref) -> str:
    """Return the text for an object in an error message."""
    return f"{ref} ({ref.api_version})"


def _answer(text: bytes) -> Json | str:
    """Return the JSON if it is an object, else the text: proxies, and paths that are not served, answer with text."""
    try:
        parsed = decoded(text)
    except ValueError:
        return text.decode(errors="replace")
    return parsed if isinstance(parsed, dict) else text.decode(errors="replace")
