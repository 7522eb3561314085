"""An expert's endpoint: where it is, what it costs, how much it bears. Frozen; made from an ExpertPool."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from toolorchestra.tools.view import Price

DEFAULT_MAX_OUTPUT_TOKENS = 4096


@dataclass(frozen=True)
class Limits:
    """What one client may ask of one endpoint. None: no limit. The rates are per client, not per fleet."""

    max_concurrency: int = 64
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    max_output_tokens: int = DEFAULT_MAX_OUTPUT_TOKENS
    max_input_tokens: int | None = None


@dataclass(frozen=True)
class Endpoint:
    """An OpenAI-compatible server (`url` ends in `/v1`) and the model asked there."""

    pool: str
    url: str
    model: str
    price: Price
    """The pool's own price: the actual ledger."""
    limits: Limits = Limits()
    api_key: str | None = field(default=None, repr=False)
    parameters: Mapping[str, float | str] = field(default_factory=dict[str, float | str])
    """Sampling parameters by their names in the YAML (`temperature`, `topP`)."""
    parameter_names: Mapping[str, str] = field(default_factory=dict[str, str])
    """What this server calls a parameter, such as `maxTokens: max_completion_tokens`."""
    simulated: bool = False
    timeout_seconds: float = 600.0
    """Of one attempt. A time-out may have been paid for, so it is not retried."""

    def wire_name(self, parameter: str) -> str:
        """`topP` → `top_p`, unless the endpoint has a name of its own for it."""
        snake = "".join(f"_{c.lower()}" if c.isupper() else c for c in parameter)
        return self.parameter_names.get(parameter, snake)
