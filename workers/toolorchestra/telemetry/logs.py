"""Sets up the standard library's logging: JSON in pods, readable text on a terminal, with trace ids, without secrets.

Secrets are removed from the finished text, wherever they come from (a URL, a header, an exception's message). Secrets
are the values of environment variables with a secret's name, and texts that look like a key.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Literal, TextIO

from opentelemetry import trace

from toolorchestra.telemetry.errors import TelemetryError
from toolorchestra.visible import visible

FORMAT_VARIABLE = "TOOLORCHESTRA_LOG_FORMAT"
LEVEL_VARIABLE = "TOOLORCHESTRA_LOG_LEVEL"

Format = Literal["auto", "json", "text"]

_SECRET_NAME = re.compile(r"^SECRET_|(API_?KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?)$", re.IGNORECASE)
_MIN_SECRET = 6
"""Shortest value that is removed. Shorter ones could be ordinary words."""
_PATTERNS = (
    (re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{6,}"), r"\1 ***"),
    (re.compile(r"://[^/\s:@]+(:[^/\s@]*)?@"), "://***@"),
    (re.compile(r"\b(sk|hf|ghp|glpat)[-_][A-Za-z0-9_-]{8,}"), "***"),
    (re.compile(r"(?i)((?:api[-_]?key|token|secret|password)[\"']?\s*[=:]\s*[\"']?)[^\s\"',&}]{4,}"), r"\1***"),
)


class Redactor:
    """Replaces secrets in text by `***`. `secrets` are literal values."""

    def __init__(self, secrets: list[str]) -> None:
        self._secrets = sorted((s for s in set(secrets) if len(s) >= _MIN_SECRET), key=len, reverse=True)

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Redactor:
        """Return a redactor for the values of variables such as `OPENAI_API_KEY`, and of all variables `SECRET_…`."""
        return cls([value.strip() for name, value in environ.items() if _SECRET_NAME.search(name)])

    def __call__(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "***")
        for pattern, replacement in _PATTERNS:
            text = pattern.sub(replacement, text)
        return text


class TraceFilter(logging.Filter):
    """Adds `trace_id` and `span_id` of the current span to every record; "" without a span."""

    def filter(self, record: logging.LogRecord) -> bool:
        context = trace.get_current_span().get_span_context()
        record.trace_id = trace.format_trace_id(context.trace_id) if context.is_valid else ""
        record.span_id = trace.format_span_id(context.span_id) if context.is_valid else ""
        return True


class JsonFormatter(logging.Formatter):
    """Formats a record as one JSON object per line."""

    def __init__(self, *, service: str, redact: Redactor) -> None:
        super().__init__()
        self._service, self._redact = service, redact

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "service": self._service,
            "logger": record.name,
            "message": visible(self._redact(record.getMessage())),
            "trace_id": getattr(record, "trace_id", ""),
            "span_id": getattr(record, "span_id", ""),
            "exception": visible(self._redact(self.formatException(record.exc_info))) if record.exc_info else "",
        }
        return json.dumps({key: value for key, value in entry.items() if value}, ensure_ascii=False)


class TextFormatter(logging.Formatter):
    """Formats a record as text for people."""

    def __init__(self, *, service: str, redact: Redactor) -> None:
        super().__init__(f"%(asctime)s %(levelname)-7s {service.replace('%', '%%')} %(name)s: %(message)s", "%H:%M:%S")
        self._redact = redact

    def format(self, record: logging.LogRecord) -> str:
        return visible(self._redact(super().format(record)))

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Put the message on one line, so that no text in it looks like another record. A traceback keeps its lines."""
        return super().formatMessage(record).replace("\n", "\\n")


def configure_logs(
    *,
    service: str,
    format: Format | None = None,
    level: int | str | None = None,
    stream: TextIO | None = None,
    environ: Mapping[str, str] | None = None,
) -> logging.Handler:
    """Send the root logger's records to `stream` (default: stderr). Replaces the handler of an earlier call.

    `auto` (the default; `TOOLORCHESTRA_LOG_FORMAT`) is JSON in a pod and text elsewhere.
    TelemetryError: unknown format.
    """
    env = os.environ if environ is None else environ
    chosen = format or env.get(FORMAT_VARIABLE) or "auto"
    if chosen not in ("auto", "json", "text"):
        raise TelemetryError(f"{FORMAT_VARIABLE}={chosen!r}: want auto, json or text")
    in_pod = "KUBERNETES_SERVICE_HOST" in env
    formatter = JsonFormatter if chosen == "json" or (chosen == "auto" and in_pod) else TextFormatter
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(formatter(service=service, redact=Redactor.of(env)))
    handler.addFilter(TraceFilter())
    handler.set_name("toolorchestra")
    root = logging.getLogger()
    for old in [h for h in root.handlers if h.get_name() == "toolorchestra"]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level or (env.get(LEVEL_VARIABLE) or "INFO").upper())
    return handler
