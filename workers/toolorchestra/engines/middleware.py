"""Access control for the engine's port. Generation and health are open; all other routes need the engine's secret.

Runs inside vLLM. vLLM serves its control routes (pause, weight updates, remote calls) on the same port as generation.
This middleware is the outermost one (vLLM adds `--middleware` last) and compares exact paths. It fails closed: without
a secret in the environment, every control route is refused.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

SECRET_ENV = "TOOLORCHESTRA_ENGINE_SECRET"
SECRET_HEADER = "x-toolorchestra-engine-secret"

OPEN_ROUTES = frozenset(
    {
        ("GET", "/health"),
        ("GET", "/metrics"),
        ("GET", "/v1/models"),
        ("POST", "/inference/v1/generate"),
        ("POST", "/v1/completions"),
        ("POST", "/v1/chat/completions"),
    }
)

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

REFUSAL = b'{"error": "this route needs the engine\'s secret"}'


class ControlGuard:
    """ASGI middleware that refuses control routes without the secret (see the module)."""

    def __init__(self, app: App) -> None:
        self.app = app
        self._secret = os.environ.get(SECRET_ENV, "").encode()

    def _trusted(self, scope: Scope) -> bool:
        name = SECRET_HEADER.encode()
        given = [value for key, value in scope["headers"] if key.lower() == name]
        return bool(self._secret) and len(given) == 1 and secrets.compare_digest(given[0], self._secret)

    def _open(self, scope: Scope) -> bool:
        return scope["type"] == "http" and (scope["method"], scope["path"]) in OPEN_ROUTES

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket") or self._open(scope) or self._trusted(scope):
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            headers = [(b"content-type", b"application/json"), (b"content-length", str(len(REFUSAL)).encode())]
            await send({"type": "http.response.start", "status": 403, "headers": headers})
            await send({"type": "http.response.body", "body": REFUSAL})
