"""Function tools that an episode may ask as it asks an expert: each answers under its own name, in this process."""

from __future__ import annotations

import time
from collections.abc import Sequence
from decimal import Decimal

from toolorchestra.experts.chat import ChatReply, ChatRequest, Experts, Reserve
from toolorchestra.experts.errors import ExpertRefused, Reason, UnknownPool
from toolorchestra.experts.usage import Usage
from toolorchestra.tasks.task import Task
from toolorchestra.tools.catalog import FunctionTool, ToolRefused
from toolorchestra.tools.view import Price


class FunctionExperts:
    """An expert client that gives a function's tool the text of the last message as its argument `question`, and what
    it returns back as the reply. `others` answers for every other pool.

    A call costs the price's `per_call_usd` nominally, and really nothing: the function runs here.
    """

    def __init__(self, functions: Sequence[FunctionTool], *, others: Experts | None = None) -> None:
        self._functions = {function.name: function for function in functions}
        self._others = others

    async def ask(
        self,
        *,
        pool: str,
        request: ChatRequest,
        price: Price,
        task: Task | None = None,
        reserve: Reserve | None = None,
    ) -> ChatReply:
        """Run the function, or ask the other client.

        Raises:
            ExpertRefused: the tool refused its argument, or returned nothing.
            UnknownPool: no function and no other pool of that name.
        """
        function = self._functions.get(pool)
        if function is None:
            return await self._asked(pool).ask(pool=pool, request=request, price=price, task=task, reserve=reserve)
        began = time.monotonic()
        refused, text = "", ""
        try:
            text = await function.execute({"question": request.messages[-1]["content"]})
        except ToolRefused as error:
            refused = str(error)
        seconds = time.monotonic() - began
        nominal = price.of(tokens_in=0, tokens_out=0)
        usage = Usage(nominal_usd=nominal, service_seconds=seconds, wall_seconds=seconds)
        if refused:
            raise ExpertRefused(pool=pool, reason=Reason.DECLINED, detail=refused, usage=usage)
        if not text:
            raise ExpertRefused(pool=pool, reason=Reason.EMPTY, detail="it returned nothing", usage=usage)
        return ChatReply(text=text, usage=usage)

    def worst_case_usd(self, *, pool: str, request: ChatRequest) -> Decimal:
        """Nothing for a function."""
        if pool in self._functions:
            return Decimal(0)
        return self._asked(pool).worst_case_usd(pool=pool, request=request)

    async def close(self) -> None:
        """Close the other client."""
        if self._others is not None:
            await self._others.close()

    def _asked(self, pool: str) -> Experts:
        if self._others is None:
            raise UnknownPool(pool, known=self._functions)
        return self._others
