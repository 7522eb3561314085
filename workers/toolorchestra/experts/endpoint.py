"""An expert's endpoint: address, price and limits. Frozen; built from an ExpertPool."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from toolorchestra.tools.view import Price

DEFAULT_MAX_OUTPUT_TOKENS = 4096


@dataclass(frozen=True)
class Limits:
    """The limits of one client at one endpoint. None: no limit. The rates are per client, not for all clients."""

    max_concurrency: int = 64
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    max_output_tokens: int = DEFAULT_MAX_OUTPUT_TOKENS
    max_input_tokens: int | None = None


@dataclass(frozen=True)
class Endpoint:
    """An OpenAI-compatible server (`url` ends in `/v1`) and the model to use there."""

    pool: str
    url: str
    model: str
    price: Price
    """The pool's own price, for the actual dollars."""
    limits: Limits = Limits()
    api_key: str | None = field(default=None, repr=False)
    parameters: Mapping[str, float | str] = field(default_factory=dict[str, float | str])
    """Sampling parameters, named as in the YAML (`temperature`, `topP`)."""
    parameter_names: Mapping[str, str] = field(default_factory=dict[str, str])
    """The server's own names for parameters, such as `maxTokens: max_completion_tokens`."""
    simulated: bool = False
    timeout_seconds: float = 600.0
    """Time limit of one attempt. An attempt that timed out may have been paid, so it is not retried."""

    def wire_name(self, parameter: str) -> str:
        """Return a parameter's name on the wire: `topP` → `top_p`, unless the endpoint defines its own name."""
        snake = "".join(f"_{c.lower()}" if c.isupper() else c for c in parameter)
        return self.parameter_names.get(parameter, snake)
