"""Our own span exporters: JSON lines in a file, and a readable tree on a terminal."""

from __future__ import annotations

import os
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

_MAX_TRACES = 1000
"""Most unfinished trees that the console keeps; then it drops the oldest."""


class JsonlSpanExporter(SpanExporter):
    """Writes a span per line, in the SDK's JSON form. Several processes may append to a file: a line is one write."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        for span in spans:
            os.write(self._fd, (span.to_json(indent=None) + "\n").encode())
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return True


class TreeSpanExporter(SpanExporter):
    """Prints a process's part of a trace when its root span there ends: indented, with durations and attributes."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._children: defaultdict[int, list[ReadableSpan]] = defaultdict(list)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        for span in spans:
            parent = span.parent
            if parent is None or parent.is_remote:
                self._stream.write("\n".join(self._lines(span, depth=0)) + "\n")
            else:
                self._children[parent.span_id].append(span)
                if len(self._children) > _MAX_TRACES:
                    self._children.pop(next(iter(self._children)))
        self._stream.flush()
        return SpanExportResult.SUCCESS

    def _lines(self, span: ReadableSpan, *, depth: int) -> list[str]:
        context = span.get_span_context()
        seconds = ((span.end_time or 0) - (span.start_time or 0)) / 1e9
        known = " ".join(f"{k.rpartition('toolorchestra.')[2]}={v!s}" for k, v in (span.attributes or {}).items())
        failed = "" if span.status.is_ok or span.status.is_unset else " FAILED"
        trace = f" trace={context.trace_id:032x}" if depth == 0 and context is not None else ""
        lines = [f"{'  ' * depth}{span.name} {seconds:.3f}s{failed}{trace} {known}".rstrip()]
        children = self._children.pop(context.span_id, []) if context is not None else []
        for child in sorted(children, key=lambda c: c.start_time or 0):
            lines += self._lines(child, depth=depth + 1)
        return lines

    def shutdown(self) -> None:
        self._children.clear()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return True
