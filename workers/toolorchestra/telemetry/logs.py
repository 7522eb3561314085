"""Logging: the standard library's, as JSON in pods and readable on a terminal, joined to traces, without secrets.

Secrets are taken out of the finished text, whatever put them there (a URL, a header, an exception's message): the
values of environment variables whose names say that they are secret, and what looks like a key.
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
"""Shorter values would take ordinary words out of the text."""
_PATTERNS = (
    (re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{6,}"), r"\1 ***"),
    (re.compile(r"://[^/\s:@]+(:[^/\s@]*)?@"), "://***@"),
    (re.compile(r"\b(sk|hf|ghp|glpat)[-_][A-Za-z0-9_-]{8,}"), "***"),
    (re.compile(r"(?i)((?:api[-_]?key|token|secret|password)[\"']?\s*[=:]\s*[\"']?)[^\s\"',&}]{4,}"), r"\1***"),
)


class Redactor:
    """Takes secrets out of text. `secrets` are literal values."""

    def __init__(self, secrets: list[str]) -> None:
        self._secrets = sorted((s for s in set(secrets) if len(s) >= _MIN_SECRET), key=len, reverse=True)

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Redactor:
        """Knows the values of variables such as `OPENAI_API_KEY`, and of all `SECRET_…`, whatever their keys' names."""
        return cls([value.strip() for name, value in environ.items() if _SECRET_NAME.search(name)])

    def __call__(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "***")
        for pattern, replacement in _PATTERNS:
            text = pattern.sub(replacement, text)
        return text


class TraceFilter(logging.Filter):
    """Adds `trace_id` and `span_id` of the current span to every record; empty without one."""

    def filter(self, record: logging.LogRecord) -> bool:
        context = trace.get_current_span().get_span_context()
        record.trace_id = trace.format_trace_id(context.trace_id) if context.is_valid else ""
        record.span_id = trace.format_span_id(context.span_id) if context.is_valid else ""
        return True


class JsonFormatter(logging.Formatter):
    """One object per line."""

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
    """For people."""

    def __init__(self, *, service: str, redact: Redactor) -> None:
        super().__init__(f"%(asctime)s %(levelname)-7s {service.replace('%', '%%')} %(name)s: %(message)s", "%H:%M:%S")
        self._redact = redact

    def format(self, record: logging.LogRecord) -> str:
        return visible(self._redact(super().format(record)))

    def formatMessage(self, record: logging.LogRecord) -> str:
        """One record, one line: what an expert says cannot look like another record. A traceback follows in lines."""
        return super().formatMessage(record).replace("\n", "\\n")


def configure_logs(
    *,
    service: str,
    format: Format | None = None,
    level: int | str | None = None,
    stream: TextIO | None = None,
    environ: Mapping[str, str] | None = None,
) -> logging.Handler:
    """Send the root logger's records to `stream` (stderr), replacing what an earlier call set up.

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
