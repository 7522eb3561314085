"""The HTTP request to one endpoint, and the reading of its reply."""

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
"""Limit for the body of an error: the message is at its beginning."""


def body(endpoint: Endpoint, request: ChatRequest) -> dict[str, Any]:
    """Return the JSON body. Parameters have the endpoint's own names; the output limit is always included."""
    parameters = {**endpoint.parameters, **request.parameters, "maxTokens": max_output_tokens(endpoint, request)}
    wire: dict[str, Any] = {"model": endpoint.model, "messages": list(request.messages)}
    if request.tools:
        wire["tools"] = list(request.tools)
    return wire | {endpoint.wire_name(name): value for name, value in parameters.items()}


def headers(endpoint: Endpoint, task: Task | None) -> dict[str, str]:
    """Return the headers: W3C trace context for all endpoints; the task with its right answer for simulators only."""
    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    if endpoint.simulated and task is not None:
        carrier[TASK_HEADER] = SimulatedTask.of(task).header()
    return carrier


async def read(reply: aiohttp.ClientResponse) -> bytes:
    """Return the whole body of a completion, or the beginning of an error's body.

    Raises:
        ValueError: the completion is too large. Reading stops, so a decompression bomb is not unpacked either.
        aiohttp.ClientError, OSError: network errors, unchanged.
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
    """Remove the API key from a reply: some endpoints repeat the key that they were given."""
    return text.replace(endpoint.api_key.encode(), b"***") if endpoint.api_key else text


def seconds(header: str | None) -> float | None:
    """Return the simulated service time in a header, or None if it is missing or not plausible."""
    try:
        value = float(header) if header is not None else -1.0
    except ValueError:
        return None
    return value if 0.0 <= value < 1e6 else None
