"""`spec.tools`: the experts and functions that an episode may see, and how they vary per instance.

`tools.experts.{type, selector, names}`; `tools.functions[i].{name, type, price, web_search, retrieval,
code_interpreter}`; `tools.randomize.{min_tools, price_books, aliases, alias_names}`, where a price book is `{name,
prices: [{name, input_usd_per_million_tokens, …}]}`. A price that is missing in a book stays the tool's own.
`policy` means the orchestrator itself.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Literal

from pydantic import Field

from toolorchestra.api.base import LIST_MAP, LIST_SET, PARENT, LabelSelector, Model, SecretKeyRef
from toolorchestra.api.pool import RESERVED_NAMES
from toolorchestra.api.rules import rule, ruled, union
from toolorchestra.api.scalars import (
    URI,
    URL,
    USD,
    Bool,
    Count,
    Image,
    Name,
    Opaque,
    Replicas,
    Seconds,
    ShortText,
    Text,
    Word,
)


class Experts(Model):
    """The pools that are this training's experts; resolved when it is admitted."""

    model_config = ruled(
        union(Selector="selector", Names="names"),
    )

    type: Literal["Selector", "Names"]
    """By labels or by name."""
    selector: LabelSelector | None = None
    """With type Selector: labels of the pools; `{}` matches every pool in the namespace."""
    names: Annotated[tuple[Name, ...], Field(min_length=1, max_length=256, json_schema_extra=LIST_SET)] | None = None
    """With type Names: names of the pools."""


class FunctionPrice(Model):
    """Price of a function; what is absent costs nothing."""

    per_call_usd: USD = Decimal("0")
    """US dollars per call."""
    per_document_usd: USD = Decimal("0")
    """US dollars per document returned."""
    per_second_usd: USD = Decimal("0")
    """US dollars per second of run time."""


class WebSearch(Model):
    """Search on the web through a provider."""

    provider: Word
    """Name of the provider's adapter."""
    api_key_secret_ref: SecretKeyRef | None = None
    """Secret with the provider's API key."""
    max_documents: Annotated[Count, Field(le=100)] = 5
    """Most documents returned per call."""


class RetrievalIndex(Model):
    """A retrieval server of this project, over an index on a volume."""

    uri: URI
    """Folder with the index and its documents."""
    replicas: Replicas = 1
    """Number of servers."""
    image: Image | None = None
    """Image of the servers; absent: the chart's."""
    pod_template: Opaque | None = None
    """Overlay on the servers' pods."""


class Retrieval(Model):
    """Search in a corpus."""

    model_config = ruled(union(URL="url", Index="index"))

    type: Literal["URL", "Index"]
    """An existing service, or one made from an index."""
    url: URL | None = None
    """With type URL."""
    index: RetrievalIndex | None = None
    """With type Index."""
    max_documents: Annotated[Count, Field(le=100)] = 5
    """Most documents returned per call."""


class CodeInterpreter(Model):
    """Python in a sandbox: no network, no files of the host."""

    timeout_seconds: Annotated[Seconds, Field(le=3600)] = 60
    """Most seconds of one run."""
    memory_mebibytes: Annotated[Count, Field(le=65536)] = 512
    """Most memory of one run, in MiB."""
    runtime_class_name: Name | None = None
    """Runtime class of the sandbox's pods."""


class Function(Model):
    """A tool that is not a model."""

    model_config = ruled(
        union(WebSearch="webSearch", Retrieval="retrieval", CodeInterpreter="codeInterpreter?"),
        rule(
            f"!(self.name in {list(RESERVED_NAMES)})",
            f"a function must not be named {', '.join(RESERVED_NAMES)}: weights and price books use these names",
            check=lambda s: s["name"] not in RESERVED_NAMES,
            at="name",
        ),
    )

    name: Name
    """Name, also in price books and preferences; no pool may have it."""
    type: Literal["WebSearch", "Retrieval", "CodeInterpreter"]
    """What it does."""
    description: Text | None = None
    """What it is good for; the policy reads this. Absent: the default text of the type."""
    price: FunctionPrice = Field(default_factory=FunctionPrice, json_schema_extra=PARENT)
    """What it costs."""
    expected_latency_milliseconds: Annotated[Count, Field(le=86_400_000)] | None = None
    """Expected milliseconds of one call, which the policy sees; absent: only measured."""
    web_search: WebSearch | None = None
    """With type WebSearch."""
    retrieval: Retrieval | None = None
    """With type Retrieval."""
    code_interpreter: CodeInterpreter | None = None
    """With type CodeInterpreter; absent: its defaults."""


class ToolPrice(Model):
    """One tool's price in a price book; what is absent stays the tool's own price."""

    name: Name
    """A pool, a function, or `policy` (the orchestrator itself)."""
    input_usd_per_million_tokens: USD | None = None
    """US dollars per million tokens read."""
    output_usd_per_million_tokens: USD | None = None
    """US dollars per million tokens written."""
    per_call_usd: USD | None = None
    """US dollars per call."""
    per_document_usd: USD | None = None
    """US dollars per document returned."""
    per_second_usd: USD | None = None
    """US dollars per second of run time."""


class PriceBook(Model):
    """A price schedule that may be drawn for an instance."""

    name: Name
    """Name of the schedule, stored with every episode that uses it."""
    prices: tuple[ToolPrice, ...] = Field(min_length=1, max_length=256, json_schema_extra=LIST_MAP)
    """Prices by tool; a tool that is not listed keeps its own price."""


AliasNames = Annotated[tuple[ShortText, ...], Field(min_length=1, max_length=512, json_schema_extra=LIST_SET)]


class Randomize(Model):
    """What varies between instances, so that the policy learns from descriptions and prices, not from names."""

    model_config = ruled(
        rule(
            "!has(self.aliasNames) || self.aliases",
            "aliasNames need aliases: true",
            check=lambda s: "aliasNames" not in s or s["aliases"],
            at="aliasNames",
            defaulted=("aliases",),
        )
    )

    min_tools: Count | None = None
    """Fewest tools of an instance, drawn at random; absent: always all."""
    price_books: tuple[PriceBook, ...] = Field(default=(), max_length=64, json_schema_extra=LIST_MAP)
    """Price schedules; one is drawn per instance. Empty: every tool's own price."""
    aliases: Bool = True
    """Show experts under aliases that change per instance; false: under their pools' names."""
    alias_names: AliasNames | None = None
    """Words used as aliases; absent: `answer-1`, `answer-2`, …"""


class Tools(Model):
    """What an episode may call."""

    experts: Experts
    """The pools that are experts."""
    functions: tuple[Function, ...] = Field(default=(), max_length=32, json_schema_extra=LIST_MAP)
    """Tools that are not models."""
    randomize: Randomize = Field(default_factory=Randomize, json_schema_extra=PARENT)
    """What varies per instance."""
