"""A scorer for tests, imported by name in a sandbox: the answer says what it returns."""

from __future__ import annotations

import json
import os
from typing import Any


def score(answer: str) -> Any:
    if answer == "!exit":
        os._exit(7)
    if answer == "!raise":
        raise ValueError("no")
    return json.loads(answer)
