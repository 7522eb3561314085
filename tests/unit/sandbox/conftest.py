"""One sandbox for all tests of a module, in a process that has a secret."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

import pytest_asyncio

from support.sandboxed import HOSTILE, LIMITS, SECRET
from toolorchestra.sandbox.sandbox import Sandbox


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sandbox() -> AsyncIterator[Sandbox]:
    os.environ["EXPERT_API_KEY"] = SECRET
    made = Sandbox(HOSTILE, limits=LIMITS)
    yield made
    await made.close()
    del os.environ["EXPERT_API_KEY"]
