"""The simulator: an OpenAI-compatible server whose experts answer by a skill table. Every answer is marked simulated.

It is stateless except for the random draw of faults. A request header carries the task, so any task source works.
"""

from __future__ import annotations

import asyncio
import json
import math
import random
import time
from typing import Any

from aiohttp import web

from toolorchestra.api.skill_table import Faults, SimulatedExpert, SkillTable
from toolorchestra.experts.chat import ChatRequest
from toolorchestra.experts.simulated import SECONDS_HEADER, TASK_HEADER, SimulatedTask
from toolorchestra.experts.skills import SimulatedAnswer, simulated_answer
from toolorchestra.experts.worst_case import TEMPLATE_TOKENS, estimated_tokens

_TABLE = web.AppKey("table", SkillTable)
_TIME_SCALE = web.AppKey("time_scale", float)
_FAULTS = web.AppKey("faults", random.Random)

MAX_HEADER_BYTES = 256 * 1024
"""Headers carry the task's right answer; some data sets have long answers."""
_HANG_SECONDS = 3600.0


def build_app(table: SkillTable, *, time_scale: float) -> web.Application:
    """Return the server's application: `/v1/chat/completions`, `/v1/models`, `/health`.

    `time_scale` multiplies every latency before the server sleeps (0: no sleep). Replies report the unscaled seconds.
    """
    if not (math.isfinite(time_scale) and time_scale >= 0):
        raise ValueError(f"time scale {time_scale}: a number of at least 0 is wanted")
    app = web.Application(client_max_size=64 * 1024 * 1024)
    app[_TABLE], app[_TIME_SCALE], app[_FAULTS] = table, time_scale, random.Random(table.spec.seed)
    app.add_routes(
        [
            web.post("/v1/chat/completions", chat_completions),
            web.get("/v1/models", models),
            web.get("/health", health),
        ]
    )
    return app


async def health(request: web.Request) -> web.Response:
    table = request.app[_TABLE]
    return web.json_response({"status": "ok", "simulated": True, "experts": _models(table), "seed": table.spec.seed})


async def models(request: web.Request) -> web.Response:
    data = [{"id": name, "object": "model", "owned_by": "simulator"} for name in _models(request.app[_TABLE])]
    return web.json_response({"object": "list", "data": data})


async def chat_completions(request: web.Request) -> web.StreamResponse:
    table, scale = request.app[_TABLE], request.app[_TIME_SCALE]
    try:
        body = await request.json(loads=json.loads)
        model, messages = body["model"], list(body["messages"])
    except (ValueError, KeyError, TypeError):
        return _error(400, "invalid_request", "a JSON object with `model` and `messages` is wanted")
    expert = table.expert(model)
    if expert is None:
        known = ", ".join(_models(table))
        return _error(404, "model_not_found", f"the skill table has no expert {model!r}; it has {known}")
    if body.get("stream"):
        return _error(400, "unsupported_value", "the simulator does not stream")
    try:
        task = _task(request, messages)
    except ValueError as error:
        return _error(400, "invalid_request", f"{TASK_HEADER}: {error}")
    fault = await _fault(request.app[_FAULTS], expert.faults)
    if fault is not None:
        return fault
    answer = simulated_answer(table, model, task)
    if scale > 0:
        await asyncio.sleep(answer.seconds * scale)
    return _completion(expert, answer, body=body)


def _task(request: web.Request, messages: Any) -> SimulatedTask:
    """Return the task in the request's header. Without the header, the task is one whose answer nobody knows."""
    header = request.headers.get(TASK_HEADER)
    if header is not None:
        return SimulatedTask.parse(header)
    return SimulatedTask(id=json.dumps(messages, sort_keys=True), topic="", answer=None)


async def _fault(rng: random.Random, faults: Faults) -> web.Response | None:
    """Draw the fault of this request. None: it has no fault."""
    draw = rng.random()
    for kind in ("http500", "http429", "garbage", "hang"):
        draw -= float(getattr(faults, kind))
        if draw < 0:
            break
    else:
        return None
    match kind:
        case "http500":
            return _error(500, "server_error", "simulated fault")
        case "http429":
            return _error(429, "rate_limit_exceeded", "simulated fault", headers={"Retry-After": "1"})
        case "garbage":
            return web.Response(text="<html>simulated fault</html>", content_type="text/html")
        case _:
            await asyncio.sleep(_HANG_SECONDS)
            return _error(504, "timeout", "simulated fault")


def _completion(expert: SimulatedExpert, answer: SimulatedAnswer, *, body: dict[str, Any]) -> web.Response:
    limit = body.get("max_completion_tokens") or body.get("max_tokens") or answer.tokens_out
    prompt_bytes = ChatRequest(messages=tuple(body["messages"])).size_bytes
    # A real server counts at most one token per byte plus its template. The client's reservation relies on that bound.
    most = prompt_bytes + TEMPLATE_TOKENS
    tokens_in = estimated_tokens(prompt_bytes) if expert.tokens_in is None else min(expert.tokens_in, most)
    tokens_out = min(answer.tokens_out, int(limit))
    completion = {
        "id": f"simulated-{time.monotonic_ns()}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": expert.name,
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": answer.text}, "finish_reason": "stop"},
        ],
        "usage": {"prompt_tokens": tokens_in, "completion_tokens": tokens_out, "total_tokens": tokens_in + tokens_out},
        "simulated": True,
    }
    return web.json_response(completion, headers={SECONDS_HEADER: f"{answer.seconds:.6f}"})


def _error(status: int, code: str, message: str, *, headers: dict[str, str] | None = None) -> web.Response:
    error = {"error": {"message": message, "type": code, "code": code}, "simulated": True}
    return web.json_response(error, status=status, headers=headers)


def _models(table: SkillTable) -> list[str]:
    return [expert.name for expert in table.spec.experts]
