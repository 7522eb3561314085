"""A request as it goes over the wire to one endpoint, and the bytes that come back."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import aiohttp
from opentelemetry import propagate

from toolorchestra.experts.chat import ChatRequest
from toolorchestra.experts.endpoint import Endpoint
from toolorchestra.experts.metering import max_output_tokens
from toolorchestra.experts.simulated import TASK_HEADER, SimulatedTask
from toolorchestra.tasks.task import Task

_MAX_REPLY_BYTES = 16 * 1024 * 1024
_MAX_ERROR_BYTES = 64 * 1024
"""Of an error's body: what it says stands at its beginning."""


def body(endpoint: Endpoint, request: ChatRequest) -> dict[str, Any]:
    """The JSON body. Every parameter is named as this endpoint wants it; the output limit is always there."""
    parameters = {**endpoint.parameters, **request.parameters, "maxTokens": max_output_tokens(endpoint, request)}
    wire: dict[str, Any] = {"model": endpoint.model, "messages": list(request.messages)}
    if request.tools:
        wire["tools"] = list(request.tools)
    return wire | {endpoint.wire_name(name): value for name, value in parameters.items()}


def headers(endpoint: Endpoint, task: Task | None) -> dict[str, str]:
    """W3C trace context for everyone; the task, right answer included, for simulators only."""
    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    if endpoint.simulated and task is not None:
        carrier[TASK_HEADER] = SimulatedTask.of(task).header()
    return carrier


async def read(reply: aiohttp.ClientResponse) -> bytes:
    """The whole body of a completion, or the beginning of an error's.

    Raises:
        ValueError: a completion of absurd size; it is read no further, and neither is what a bomb unpacks to.
        aiohttp.ClientError, OSError: the network's faults as they are.
    """
    most = _MAX_REPLY_BYTES if reply.status == HTTPStatus.OK else _MAX_ERROR_BYTES
    chunks, size = [], 0
    async for chunk in reply.content.iter_any():
        chunks.append(chunk)
        size += len(chunk)
        if size > most and reply.status != HTTPStatus.OK:
            break
        if size > most:
            raise ValueError(f"a reply of more than {most} bytes")
    return b"".join(chunks)[:most]


def redacted(text: bytes, endpoint: Endpoint) -> bytes:
    """Some endpoints repeat the key they were given."""
    return text.replace(endpoint.api_key.encode(), b"***") if endpoint.api_key else text


def seconds(header: str | None) -> float | None:
    """The simulated service time in a header; None where there is none or it makes no sense."""
    try:
        value = float(header) if header is not None else -1.0
    except ValueError:
        return None
    return value if 0.0 <= value < 1e6 else None
