"""ExpertPool: one expert with N identical replicas, served by vLLM here or by an OpenAI-compatible endpoint elsewhere.

Read it as `pool.metadata.name`, `pool.spec.{roles, description, price, expected_latency_milliseconds, limits,
parameters, type, vllm, endpoint, simulated}`. Invariants: `type` says which of `vllm`, `endpoint` is set; prices are
Decimals in US dollars; a simulated expert is an Endpoint whose server is the simulator.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import Field

from toolorchestra.api.accelerators import EXACT, MIG, is_known
from toolorchestra.api.base import (
    LIST_SET,
    OPEN,
    PARENT,
    ApiVersion,
    ComputeResources,
    ConfigMapKeyRef,
    Model,
    SecretKeyRef,
)
from toolorchestra.api.conditions import CONDITION_LIST, Condition
from toolorchestra.api.metadata import ObjectMeta
from toolorchestra.api.model import Cache, ExpertPrice, ModelSource
from toolorchestra.api.resource import Resource
from toolorchestra.api.rules import immutable, rule, ruled, union
from toolorchestra.api.scalars import (
    URL,
    BaseURL,
    Bool,
    Count,
    Fraction,
    Image,
    Milliseconds,
    NonNegative,
    Number,
    ObjectName,
    Opaque,
    Quantity,
    Replicas,
    SecondsOrZero,
    ShortText,
    Text,
    Word,
)

Role = Literal["Search", "Reason", "Answer", "Call", "Judge", "UserSimulator", "Writer"]

SECRET_LABEL: Final = ("toolorchestra.dev/secret-for", "pools")
"""Label (key, value) of the Secrets that pools may refer to."""
OWNED_FLAGS = (
    "--api-key",
    "--download-dir",
    "--host",
    "--max-model-len",
    "--model",
    "--otlp-traces-endpoint",
    "--port",
    "--revision",
    "--served-model-name",
    "--tensor-parallel-size",
    "-tp",
)
"""Flags of vLLM that the operator sets from other fields."""


def _spellings(flag: str) -> str:
    """Return the pattern of all texts that vLLM takes for a flag: `_` for `-`, and any prefix, as argparse allows."""
    dashes = len(flag) - len(flag.lstrip("-"))
    pattern = ""
    for character in reversed(flag[dashes:]):
        pattern = f"({'[-_]' if character == '-' else character}{pattern})?"
    return "-" * dashes + pattern


_SETS_OWNED = f"(?is)^({'|'.join(map(_spellings, OWNED_FLAGS))})([^-_a-z0-9].*)?$"
"""An argument that is, or begins with, one of these flags: `--port`, `--port=1`, `--PORT 1`, `--po`. A letter, digit or
dash after the flag makes it another flag. The syntax is valid in RE2 and in Python."""

OWNED_PARAMETERS = ("model", "messages", "tools", "n", "stream")
"""Parameters that the client itself sends, or must not send. `parameterNames` may not use these names."""

RESERVED_NAMES = ("outcome", "cost", "latency", "policy")
"""Names with a special meaning in weights and price books. No pool and no function may have them."""

NEW_POOL = "make a new pool and point trainings at it"


def gpus_match_shards() -> dict[str, str]:
    """Return the rule: a limit of an accelerator, where given, equals `tensorParallelSize` (one shard per GPU)."""
    return _gpus_are(
        "string(self.tensorParallelSize)",
        lambda s: str(s["tensorParallelSize"]),
        "tensorParallelSize must equal the GPU limit in resources.limits: one shard per GPU",
        defaulted=("resources", "tensorParallelSize"),
        at="tensorParallelSize",
    )


def one_gpu_each() -> dict[str, str]:
    """Return the rule: a limit of an accelerator, where given, is 1 (a trainer is one process on one GPU)."""
    return _gpus_are(
        "'1'",
        lambda s: "1",
        "the GPU limit in resources.limits must be 1, since a trainer computes on one GPU: raise replicas instead",
        defaulted=("resources",),
        at="resources",
    )


def _gpus_are(
    cel: str, wanted: Callable[[Mapping[str, Any]], str], message: str, *, defaulted: tuple[str, ...], at: str
) -> dict[str, str]:
    """Return the rule: every limit of an accelerator equals `cel` (in CEL) and `wanted` (in Python).

    If the spec names an accelerator, only that one counts.
    """
    known = f"(name in {list(EXACT)} || name.startsWith('{MIG}'))"
    computes = f"(has(self.resources.accelerator) ? name == self.resources.accelerator : {known})"

    def check(s: Mapping[str, Any]) -> bool:
        resources = s["resources"]
        stated, limits = resources.get("accelerator"), resources.get("limits", {})
        return all(str(limits[name]) == wanted(s) for name in limits if (name == stated if stated else is_known(name)))

    return rule(
        f"!has(self.resources.limits) || self.resources.limits.all(name, !{computes}"
        f" || string(self.resources.limits[name]) == {cel})",
        message,
        check=check,
        defaulted=defaulted,
        at=at,
    )


class ExpertLimits(Model):
    """Limits of one call, and of all calls to the expert together."""

    max_output_tokens: Count = 8192
    """Most tokens that one call may write; its worst-case cost is reserved."""
    max_input_tokens: Count = 24000
    """Most tokens that one call may read."""
    max_concurrency: Count = 64
    """Most calls at the same time, from all workers together."""
    requests_per_minute: Count | None = None
    """Calls per minute; absent: no limit."""
    tokens_per_minute: Count | None = None
    """Tokens per minute, input and output; absent: no limit."""


class SamplingParameters(Model):
    """Sampling parameters of every call; absent: not sent, so the server's default applies."""

    temperature: Number | None = None
    """Temperature."""
    top_p: Fraction | None = None
    """Nucleus sampling."""


class DescriptionKey(Model):
    """A description in a ConfigMap."""

    config_map_key_ref: ConfigMapKeyRef
    """Key of a ConfigMap that holds the text: its first 4096 characters."""


class VLLM(Model):
    """An expert that the operator serves with vLLM."""

    model_config = ruled(
        gpus_match_shards(),
        rule(
            f"!self.extraArgs.exists(arg, arg.matches('{_SETS_OWNED}'))",
            "extraArgs must not set a flag that has its own field, in any spelling: " + " ".join(OWNED_FLAGS),
            check=lambda s: not any(re.search(_SETS_OWNED, arg) for arg in s["extraArgs"]),
            at="extraArgs",
            defaulted=("extraArgs",),
        ),
        immutable("cache", why=NEW_POOL),
    )

    model: ModelSource
    """Weights to serve."""
    image: Image | None = None
    """Image with vLLM; absent: the chart's image for GPU or CPU."""
    replicas: Replicas = 1
    """Number of identical servers; the scale subresource sets this."""
    min_available: Replicas = 1
    """The pool counts as unavailable with fewer ready replicas than this."""
    tensor_parallel_size: Annotated[Count, Field(le=64)] = 1
    """GPUs per replica; equals the GPU limit, if one is set."""
    max_model_len: Count | None = None
    """Context length in tokens; absent: the model's own."""
    extra_args: tuple[ShortText, ...] = Field(default=(), max_length=64)
    """Further vLLM flags, one string each; a flag that has its own field is refused."""
    resources: ComputeResources = Field(default_factory=ComputeResources, json_schema_extra=PARENT)
    """Resources of one replica, such as {limits: {nvidia.com/gpu: 2, memory: 96Gi}}."""
    cache: Cache | None = None
    """Volume for weights and compiled code; absent: none, so every start downloads and compiles."""
    shm_size: Quantity | None = None
    """Size of /dev/shm, such as 8Gi; it counts as memory. Absent: 1Gi; with several shards 2Gi each."""
    drain_seconds: SecondsOrZero = 120
    """Seconds in which a replica that is being removed may finish its requests."""
    queue_name: ObjectName | None = None
    """Name of a Kueue LocalQueue, set as a label on the Deployment; absent: none."""
    pod_template: Opaque | None = None
    """Overlay on the pod: tolerations, nodeSelector, runtimeClassName, …; docs/podtemplate.md lists the fields."""


class ParameterNames(Model):
    """The endpoint's names of request parameters, where they differ from OpenAI's chat completions."""

    model_config = ruled(
        rule(
            "self.maxTokens != self.temperature && self.maxTokens != self.topP && self.temperature != self.topP",
            "maxTokens, temperature and topP must have different names",
            check=lambda s: len({s["maxTokens"], s["temperature"], s["topP"]}) == 3,
            defaulted=("maxTokens", "temperature", "topP"),
        ),
        rule(
            f"[self.maxTokens, self.temperature, self.topP].all(name, !(name in {list(OWNED_PARAMETERS)}))",
            f"the client uses these names for other parameters: {', '.join(OWNED_PARAMETERS)}",
            check=lambda s: not {s["maxTokens"], s["temperature"], s["topP"]} & set(OWNED_PARAMETERS),
            defaulted=("maxTokens", "temperature", "topP"),
        ),
    )

    max_tokens: Word = "max_tokens"
    """Name of the limit on written tokens."""
    temperature: Word = "temperature"
    """Name of the temperature."""
    top_p: Word = "top_p"
    """Name of the nucleus parameter."""


class Endpoint(Model):
    """An expert behind an existing OpenAI-compatible API."""

    model_config = ruled(
        rule(
            "!self.url.matches('/(chat/)?completions/?$')",
            "give the base URL without /chat/completions, which is added to every call",
            check=lambda s: not re.search(r"/(chat/)?completions/?$", s["url"]),
            at="url",
        )
    )

    url: BaseURL
    """Base URL with /v1, such as https://api.example/v1. The chart's `pools.allowedHosts` must list its host. Host
    `simulator`: the simulator, also on one machine."""
    model: ShortText
    """Name of the model in the API."""
    api_key_secret_ref: SecretKeyRef | None = None
    """Secret with the API key, a bearer token; absent: none is sent. Its label: toolorchestra.dev/secret-for=pools."""
    probe: Literal["Completion", "Models", "None"] = "Models"
    """How the operator checks the endpoint: request one paid token (Completion), list the models, or no check."""
    parameter_names: ParameterNames = Field(default_factory=ParameterNames, json_schema_extra=PARENT)
    """Names of request parameters, where they differ from OpenAI's."""


class ExpertPoolSpec(Model):
    """The expert: how it is served, its price and its limits."""

    model_config = ruled(
        union(VLLM="vllm", Endpoint="endpoint"),
        rule(
            "!has(self.description) || !has(self.descriptionFrom)",
            "give description or descriptionFrom, not both",
            check=lambda s: "description" not in s or "descriptionFrom" not in s,
            at="descriptionFrom",
        ),
        rule(
            "!self.simulated || self.type == 'Endpoint'",
            "simulated needs type Endpoint: the simulator is an HTTP server",
            check=lambda s: not s["simulated"] or s["type"] == "Endpoint",
            at="simulated",
            defaulted=("simulated",),
        ),
        immutable("type", "simulated", why=NEW_POOL),
    )

    roles: tuple[Role, ...] = Field(
        default=("Search", "Reason", "Answer", "Call"), min_length=1, max_length=7, json_schema_extra=LIST_SET
    )
    """What the expert may be used for. Without Search, Reason, Answer or Call it is only a judge, user simulator or
    writer."""
    description: Text | None = None
    """What it is good at, in one or two sentences. The policy reads this and chooses by it."""
    description_from: DescriptionKey | None = None
    """Where else to read the description."""
    price: ExpertPrice
    """Price in US dollars; it counts in every episode that calls the expert."""
    expected_latency_milliseconds: Milliseconds
    """Expected milliseconds of one call, such as 11000; the policy is shown this number."""
    limits: ExpertLimits = Field(default_factory=ExpertLimits, json_schema_extra=PARENT)
    """Limits of one call, and of all calls together."""
    parameters: SamplingParameters = Field(default_factory=SamplingParameters, json_schema_extra=PARENT)
    """Sampling parameters of every call."""
    type: Literal["VLLM", "Endpoint"]
    """Served here with vLLM, or an existing endpoint."""
    vllm: VLLM | None = None
    """The model, its replicas and their resources; with type VLLM."""
    endpoint: Endpoint | None = None
    """URL, model and key of an OpenAI-compatible API; with type Endpoint."""
    simulated: Bool = False
    """The expert is simulated: its reported service time is used, and reports say so."""


class MeasuredService(Model):
    """Measured latency and errors of calls to the pool."""

    model_config = OPEN

    latency_milliseconds_p50: NonNegative | None = None
    """Median service time of the recently answered calls, in ms."""
    latency_milliseconds_p99: NonNegative | None = None
    """Its 99th percentile, in ms."""
    error_rate: Fraction | None = None
    """Share of recent calls without an answer."""
    at: str | None = Field(default=None, json_schema_extra={"format": "date-time"})
    """When these values last changed."""


class ExpertPoolStatus(Model):
    """The state that the operator observed."""

    model_config = OPEN

    observed_generation: NonNegative | None = None
    """Generation of the spec that this status describes."""
    replicas: NonNegative | None = None
    """Replicas that exist."""
    ready_replicas: NonNegative | None = None
    """Replicas that answer."""
    ready: ShortText | None = None
    """Ready replicas out of the wanted ones, such as 2/2; an endpoint counts as one."""
    selector: Annotated[str, Field(max_length=1024)] | None = None
    """Label selector of the pods, for autoscalers."""
    url: URL | None = None
    """URL of the expert, with `/v1`."""
    served_model: ShortText | None = None
    """Name of the model on the server."""
    measured: MeasuredService | None = None
    """Measured latency and errors of calls."""
    conditions: tuple[Condition, ...] = Field(default=(), max_length=16, json_schema_extra=CONDITION_LIST)
    """State, one condition per aspect."""


class ExpertPool(Resource):
    """One expert: a model behind an OpenAI-compatible API, with its price, latency and limits."""

    model_config = ruled(
        rule(
            f"!(self.metadata.name in {list(RESERVED_NAMES)})",
            f"a pool must not be named {', '.join(RESERVED_NAMES)}: weights and price books use these names",
            check=lambda s: s["metadata"]["name"] not in RESERVED_NAMES,
            at="metadata.name",
        )
    )

    api_version: ApiVersion
    kind: Literal["ExpertPool"]
    metadata: ObjectMeta
    spec: ExpertPoolSpec
    """How the expert is served, its price and its limits."""
    status: ExpertPoolStatus | None = None
    """The observed state: address, replicas, conditions."""
