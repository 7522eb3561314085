"""The contracts of a function tool and of an expert client."""

from __future__ import annotations

import json
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from toolorchestra.experts.chat import ChatReply, ChatRequest, Experts
from toolorchestra.experts.errors import ExpertRefused, UnknownPool
from toolorchestra.extend.contracts.broken import ContractBroken, hold
from toolorchestra.tools.catalog import FunctionTool, ToolRefused
from toolorchestra.tools.view import Price

_PRICE = Price(
    input_usd_per_million_tokens=Decimal("0.2"), output_usd_per_million_tokens=Decimal("0.8"), per_call_usd=Decimal("1")
)


async def tool(function: FunctionTool, *, arguments: Mapping[str, Any], refused: Mapping[str, Any]) -> None:
    """Hold a function tool against its contract: a schema in OpenAI's form under its own name, text for `arguments`,
    ToolRefused for `refused`.

    Raises:
        ContractBroken: it does not.
    """
    schema = json.loads(json.dumps(dict(function.schema)))
    hold(schema.get("type") == "function", "the schema's type is not `function`")
    described = schema.get("function", {})
    hold(described.get("name") == function.name, f"the schema is of {described.get('name')!r}, not {function.name!r}")
    hold(bool(described.get("description")), "the schema has no description: the policy chooses by it")
    hold(described.get("parameters", {}).get("type") == "object", "the schema's parameters are no object")
    said = await function.execute(arguments)
    hold(isinstance(said, str) and bool(said), f"for {dict(arguments)} it returned {said!r}: want text")
    try:
        said = await function.execute(refused)
    except ToolRefused as error:
        hold(bool(str(error)), "it refused, and does not say why")
    else:
        raise ContractBroken(f"for {dict(refused)} it returned {said!r}: want ToolRefused")


async def experts(client: Experts, *, pool: str, question: str) -> None:
    """Hold an expert client that serves `pool` against its contract. It is closed in the end.

    A reply has text or a tool call; its nominal dollars are those of the price that was given; its real ones are no
    more than its worst case said and what it reserved besides; a pool that is not there is UnknownPool from both
    methods.

    Raises:
        ContractBroken: it does not.
    """
    request = ChatRequest(messages=({"role": "user", "content": question},))
    reserved = worst = client.worst_case_usd(pool=pool, request=request)
    hold(isinstance(worst, Decimal) and worst >= 0, f"the worst case is {worst!r}: want a Decimal, 0 or more")

    def reserve(usd: Decimal) -> bool:
        nonlocal reserved
        reserved += usd
        return True

    try:
        reply = await client.ask(pool=pool, request=request, price=_PRICE, reserve=reserve)
    except ExpertRefused as error:
        raise ContractBroken(f"it refused {question!r}: give a question that it answers ({error})") from error
    _check_reply(reply)
    hold(reply.usage.actual_usd <= reserved, f"it cost {reply.usage.actual_usd}, and {reserved} was reserved")
    await _unknown(client, request)
    await client.close()


def _check_reply(reply: ChatReply) -> None:
    usage = reply.usage
    hold(bool(reply.text or reply.tool_calls), "the reply has neither text nor a tool call")
    wanted = _PRICE.of(tokens_in=usage.tokens_in, tokens_out=usage.tokens_out)
    hold(usage.nominal_usd == wanted, f"nominally it cost {usage.nominal_usd}; at the price given it is {wanted}")
    hold(usage.service_seconds >= 0 and usage.wall_seconds >= 0, "it took less than no time")


async def _unknown(client: Experts, request: ChatRequest) -> None:
    nobody = "no-such-pool"
    try:
        client.worst_case_usd(pool=nobody, request=request)
    except UnknownPool:
        pass
    else:
        raise ContractBroken("worst_case_usd knows a pool that is not there: want UnknownPool")
    try:
        await client.ask(pool=nobody, request=request, price=_PRICE)
    except UnknownPool:
        return
    raise ContractBroken("ask answers for a pool that is not there: want UnknownPool")
